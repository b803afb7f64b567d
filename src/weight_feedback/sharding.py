"""Weights that are spread over processes: `DTensor`, as FSDP2 and tensor parallel hold them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement

#: Over which processes shares are added up: a mesh, and its dimensions that split the tensor.
Spread = tuple["DeviceMesh", tuple[bool, ...]]


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Say whether a tensor is a `DTensor`.

    Args:
        tensor: any.
    """
    # By its attribute, since importing the class takes a second, for its users alone to pay; torch.fx's stand-ins
    # for tensors have every attribute.
    return isinstance(tensor, Tensor) and hasattr(tensor, "device_mesh")


def is_fully_sharded(model: nn.Module) -> bool:
    """Say whether FSDP manages a module or a part of it, in either version.

    Args:
        model: any.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return False
    return is_flattened(model) or any(isinstance(module, fsdp.FSDPModule) for module in model.modules())


def is_flattened(model: nn.Module) -> bool:
    """Say whether FSDP1 manages a module or a part of it.

    Args:
        model: any.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules())


def check_unsharded(what: str, model: nn.Module) -> None:
    """Refuse a model whose weights are spread over processes.

    Args:
        what: is to be done with it, for the message.
        model: any.

    Raises:
        ValueError: a parameter is sharded, or FSDP manages the model.
    """
    if is_fully_sharded(model) or any(map(is_sharded, model.parameters())):
        raise ValueError(
            f"{what}: the model's weights are spread over processes; load its full state_dict "
            "(torch.distributed.checkpoint.state_dict.get_model_state_dict) into a model that isn't sharded"
        )


def is_elsewhere(tensor: Tensor) -> bool:
    """Say whether a tensor's memory is gone for now, as FSDP1 frees that of a unit which doesn't run.

    Args:
        tensor: any; reading it then would crash.
    """
    if "torch.distributed.fsdp" not in sys.modules or torch.compiler.is_compiling():
        return False
    try:
        return tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0 and not tensor.is_meta
    except (RuntimeError, NotImplementedError):  # such as those of torch.func, which have no memory of their own
        return False


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as every process would have it alone; a collective operation if it is sharded.

    Args:
        tensor: sharded or not.
    """
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds.

    Args:
        tensor: sharded or not.
    """
    return tensor.to_local() if is_sharded(tensor) else tensor


def rows_here(tensor: DTensor) -> tuple[Tensor, int]:
    """Return this process's share of a tensor as whole rows, zeros where others hold the rest of a row.

    Args:
        tensor: of shape ``[n, …]``, or a scalar.

    Returns:
        The rows, shape ``[m, …]``, and the index of the first of them.
    """
    # PyTorch's own checkpoints rest on this function; there is no public one.
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local, shape = tensor.to_local(), tensor.shape
    if not shape:
        return local.reshape(1), 0
    _, offsets = compute_local_shape_and_global_offset(shape, tensor.device_mesh, tensor.placements)
    sizes = zip(shape[1:], offsets[1:], local.shape[1:], strict=True)
    room = [(offset, size - offset - there) for size, offset, there in sizes]
    if local.numel() and any(map(any, room)):
        local = F.pad(local, [n for pair in reversed(room) for n in pair])
    return local.reshape(-1, *shape[1:]), offsets[0]


def spread(tensor: DTensor) -> Spread:
    """Return over which processes the shares of a tensor are to be added up.

    Args:
        tensor: sharded.
    """
    return tensor.device_mesh, tuple(not placement.is_replicate() for placement in tensor.placements)


def summed(shares: Sequence[Sequence[tuple[Spread | None, Tensor]]]) -> list[Tensor]:
    """Add up the shares of several vectors, with one all-reduce for each way in which they are spread.

    Args:
        shares: for each vector, this process's shares and what each is to be added up over; in the same order in
            all processes. None: every process has all of it.

    Returns:
        The vectors.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate

    sizes = [len(parts[0][1]) for parts in shares]
    totals = []
    for over in dict.fromkeys(over for parts in shares for over, _ in parts):
        own = [
            torch.stack([share for at, share in parts if at == over] or [torch.zeros_like(parts[0][1])]).sum(0)
            for parts in shares
        ]
        total = torch.cat(own)
        if over is not None:
            mesh, split = over
            kinds: list[Placement] = [Partial() if dimension else Replicate() for dimension in split]
            total = DTensor.from_local(total, mesh, kinds, run_check=False).full_tensor()
        totals.append(total)
    return [*torch.stack(totals).sum(0).split(sizes)]


def beside(z: Tensor, weight: Tensor) -> Tensor:
    """Return ``z`` in the form in which it can be multiplied by a weight.

    Args:
        z: the same in every process, shape ``[k]``.
        weight: sharded or not.

    Returns:
        ``z`` with the weight's dtype: FSDP2 casts the weights of the layer that runs, and ``z`` is none of them.
    """
    if is_sharded(weight) and not is_sharded(z):
        from torch.distributed.tensor import DTensor, Replicate

        everywhere = [Replicate()] * weight.device_mesh.ndim
        z = DTensor.from_local(z, weight.device_mesh, everywhere, run_check=False)
    return z.to(weight.dtype)


def spread_like(tensor: Tensor, weight: Tensor, axis: int | None) -> Tensor:
    """Spread a tensor over the processes that hold a weight; all take what the first has.

    Args:
        tensor: whole.
        weight: sharded or not.
        axis: the weight's axis that the tensor's rows belong to, and are split with; None: all get all rows.
    """
    if not is_sharded(weight):
        return tensor
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = [
        Shard(0) if axis is not None and placement.is_shard(axis) else Replicate()
        for placement in weight.placements
    ]
    return distribute_tensor(tensor, weight.device_mesh, placements)
