"""Steps recorded and replayed on the CPU as CUDA graphs are on a GPU, and refused where a GPU would have to wait.

A tape stands in for a graph: recording does nothing that lasts, and replaying runs the same operations on the same
memory, without any Python of the step. Whatever asks the device for a number, or sends one there, fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

#: Of Python's side: what fetches numbers, moves tensors, or makes them from numbers of the host.
FETCHES = {"item", "tolist", "numpy", "cpu", "cuda", "__array__", "__bool__", "__int__", "__float__", "__index__"}
SENDS = {"tensor", "as_tensor", "asarray", "from_numpy"}
#: Operations whose result, or its size, is known to the device alone; and those that draw.
TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}


class HostWorkError(AssertionError):
    """A step isn't the device's work alone."""


class _Calls(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        moved = name == "to" and ("device" in kwargs or isinstance(args[1], torch.device | str))
        if name in FETCHES | SENDS or moved or kwargs.get("device") == "cpu":
            raise HostWorkError(name)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            part.dtype in (torch.bool, torch.uint8) for part in _tensors(args[1])
        )
        tags = set(func.tags) - ({torch.Tag.dynamic_output_shape} if name.startswith("index") else set())
        if TAGS & tags or name.startswith("lift_fresh") or masks:
            raise HostWorkError(name)
        return self.run(func, args, kwargs)

    def run(self, func, args: tuple, kwargs: dict) -> Any:
        return func(*args, **kwargs)


class _Tape(_Operations):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable, tuple, dict, list[Tensor]]] = []
        self.made: dict[int, Tensor] = {}
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def run(self, func, args: tuple, kwargs: dict) -> Any:
        # Aliases, as some operations change the shape of a tensor object.
        recorded = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written = [named.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        for tensor in _tensors(written):
            if _place(tensor) not in self.made:
                storage = tensor.untyped_storage()
                self.before.setdefault(_place(tensor), (storage, storage.clone()))
        result = func(*args, **kwargs)
        given = {_place(tensor) for tensor in _tensors((args, kwargs))}
        fresh = [tensor for tensor in _tensors(result) if _place(tensor) not in given]
        self.made |= {_place(tensor): tensor for tensor in fresh}
        if (written or fresh) and torch.Tag.inplace_view not in func.tags:  # not a mere view
            self.operations.append((func, *recorded, [] if written else [tensor.detach() for tensor in fresh]))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Leave everything as it was, and nothing in what was made."""
        for storage, before in self.before.values():
            storage.copy_(before)
        for tensor in self.made.values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.operations:
            for place, tensor in zip(made, _tensors(func(*args, **kwargs)), strict=bool(made)):
                place.copy_(tensor)


class Tapes:
    """A recorder for `tasks.notebook.graphs`; ``events`` says what it was asked for, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        self.events.append("warm up")
        with on_the_device(_Operations()):
            return work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        self.events.append("record")
        tape = _Tape()
        with on_the_device(tape):
            result = work()
        tape.undo()

        def replay() -> None:
            self.events.append("replay")
            tape.replay()

        return replay, result


@contextmanager
def on_the_device(operations: TorchDispatchMode) -> Iterator[None]:
    # Tensors made where PyTorch makes them by default don't go together with those of the device.
    with torch.device("meta"), _Calls(), operations:
        yield


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
