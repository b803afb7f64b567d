"""What every signal is: a module that says ``z``, and the tensors that it reads."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from weight_feedback.restoring import Restoring
from weight_feedback.weights import current, is_left_over, is_offloaded, is_quantised, parametrisation

_FSDP1 = (
    "FullyShardedDataParallel shows them while their own unit runs; use torch.distributed.fsdp.fully_shard and "
    "weight_feedback.refresh instead"
)


class Read(NamedTuple):
    """One tensor that a signal reads: an attribute of a module, looked up at every call.

    Attributes:
        module: the module that owns the tensor.
        attribute: its name there, such as ``"weight"`` or a feedback layer's ``"full_weight"``.
        name: canonical name, such as ``"fc1.weight"``; it seeds the random parts, and never changes.
    """

    module: nn.Module
    attribute: str
    name: str

    def tensor(self) -> Tensor:
        """Return the tensor as it is now, or as it would be computed now; nothing is written for that."""
        return cast(Tensor, current(self.module, self.attribute))

    def fault(self, value: object) -> str | None:
        """Return why the tensor can't be read, in words; None where it can.

        Args:
            value: what `tensor` has returned.
        """
        what = f"{type(self.module).__name__}.{self.attribute}"
        if is_left_over(self.module, self.attribute):
            return f"{what} is what some code has computed at its last run, and only that code can compute it again"
        if is_offloaded(self.module):
            return f"{what} is offloaded by accelerate, and isn't there while other layers run"
        if parametrisation(self.module, self.attribute) is not None and self._draws():
            return f"{what} draws random numbers whenever it is computed, in evaluation mode too"
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return f"{what} must be a floating-point tensor, got {getattr(value, 'dtype', repr(value))}"
        if is_quantised(value):
            return f"{what} must not be quantised, got a {type(value).__module__}.{type(value).__qualname__}"
        return None

    def _draws(self) -> bool:
        """Say whether computing the tensor moves PyTorch's random state; it is put back."""
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            self.tensor()
            return not torch.equal(torch.get_rng_state(), before)

    def misfit(self, tensor: Tensor, shape: torch.Size) -> str:
        """Return in words that a tensor has another shape than it was bound with.

        Args:
            tensor: as it is now.
            shape: that it had.
        """
        if tensor.shape == shape:
            return f"the values of {self.name} are elsewhere for now: {_FSDP1}"
        return (
            f"{self.name} has shape {list(tensor.shape)}, but had {list(shape)} when feedback was attached: it was "
            f"resized (remove the feedback and attach it again), or its values are elsewhere for now: {_FSDP1}"
        )


class Signal(Restoring):
    """What a feedback layer hears: ``forward()`` returns ``z`` of shape ``[out_features]``.

    Attributes:
        out_features: ``k``.
        reads: the tensors that are read; empty for signals that read none.
    """

    out_features: int
    reads: tuple[Read, ...] = ()

    def forward(self) -> Tensor:
        """Return ``z``, shape ``[out_features]``."""
        raise NotImplementedError

    def advance(self) -> None:
        """Move time on by one optimiser step; nothing to do for signals without time."""

    def precompute(self, steps: int) -> None:
        """Make ready for so many calls of `advance`; nothing to do for signals that draw nothing.

        Args:
            steps: how many; 0 forgets what was made ready.
        """

    def extra_repr(self) -> str:
        """Name the size, as PyTorch's own layers do."""
        return f"out_features={self.out_features}"
