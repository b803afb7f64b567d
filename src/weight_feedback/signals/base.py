"""What every signal is: a module that says ``z``, and the tensors that it reads."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn


class Read(NamedTuple):
    """One tensor that a signal reads: ``getattr(module, attribute)``, looked up at every call.

    Attributes:
        module: the module that owns the tensor.
        attribute: its name there, such as ``"weight"`` or a feedback layer's ``"full_weight"``.
        name: canonical name, such as ``"fc1.weight"``; it seeds the random parts, and never changes.
    """

    module: nn.Module
    attribute: str
    name: str

    def tensor(self) -> Tensor:
        """Return the tensor as it is now."""
        return cast(Tensor, getattr(self.module, self.attribute))


class Signal(nn.Module):
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

    def foresee(self, steps: int) -> None:
        """Make ready for so many calls of `advance`; nothing to do for signals that draw nothing.

        Args:
            steps: how many; 0 forgets what was made ready.
        """

    def extra_repr(self) -> str:
        """Name the size, as PyTorch's own layers do."""
        return f"out_features={self.out_features}"
