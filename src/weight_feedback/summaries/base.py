"""What every summary has: a size, a way to be fitted to the tensors it reads, and a pure forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from weight_feedback.fields import Field
from weight_feedback.restoring import Restoring, is_near

#: About how many drawn numbers are compared with what the seed gives; memory that was lost shows in the first ones.
_COMPARED = 2**20


class Summary(Restoring):
    """A function from weight tensors to a vector ``z`` of shape ``[out_features]``.

    A summary is made without knowing what it will read, then fitted once by `bind`, which checks the shapes,
    fixes ``out_features`` and draws whatever is random. `OwnWeights` and `attach` call `bind` for you.

    Subclasses implement `_fit` and `forward`. They must be pure, differentiable, free of data-dependent Python
    branches, and keep every constant tensor in a buffer, so that it follows the module's device and dtype.

    Those that come with the library name their ``kind``, by which `weight_feedback.registry.SUMMARIES` finds them,
    and ``settings``, which are saved with a model: the constructor's arguments, each kept in the attribute of its
    name, and what kind of value each is.

    Attributes:
        out_features: ``k``, the length of ``z``; None while it isn't known, at the latest until `bind`.
        padding: how many entries at the end of ``z`` are constant fill and say nothing about the weights.
        names: canonical names of the tensors that are read, in order; empty until bound.
        shapes: their shapes, in the same order.
    """

    kind: ClassVar[str | None] = None
    settings: ClassVar[Mapping[str, Field]] = {}
    out_features: int | None = None
    padding: int = 0
    names: tuple[str, ...] = ()
    shapes: tuple[torch.Size, ...] = ()

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Fit the summary to the tensors that it will read.

        Args:
            weights: canonical name to tensor, in the order in which `forward` will get them. Names seed the
                random parts; shapes, device and dtype are taken from the tensors.

        Returns:
            The summary itself.

        Raises:
            ValueError: there is nothing to read, or a shape doesn't suit the summary.
            RuntimeError: the summary is bound already; a copy is needed for a second use.
        """
        kind = type(self).__name__
        if self.names:
            raise RuntimeError(
                f"{kind} is bound to {', '.join(self.names)} already: make a new one for each signal, "
                "or copy.deepcopy an unbound one"
            )
        if not weights:
            raise ValueError(f"{kind} needs at least one tensor to read, got none")
        for name, weight in weights.items():
            if weight.numel() == 0:
                raise ValueError(f"{kind} can't read {name}: it is empty, with shape {list(weight.shape)}")
        self._fit(weights)
        self.names = tuple(weights)
        self.shapes = tuple(weight.shape for weight in weights.values())
        return self

    def _fit(self, weights: Mapping[str, Tensor]) -> None:
        """Check the shapes, set ``out_features`` and ``padding``, and register buffers."""
        raise NotImplementedError

    def forward(self, *weights: Tensor) -> Tensor:
        """Summarise the weights.

        Args:
            *weights: tensors of the bound shapes, in the bound order.

        Returns:
            ``z``, shape ``[out_features]``.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Name the sizes, as PyTorch's own layers do."""
        more = f" and {len(self.names) - 3} more" if len(self.names) > 3 else ""
        return f"out_features={self.out_features}, reads={list(self.names[:3]) or 'unbound'}{more}"


class Seeded(Restoring):
    """A module whose random parts follow from a seed: the ``state_dict`` holds the seed instead.

    Loading a ``state_dict`` takes its seed, and calls `_seed_loaded` to draw again what isn't loaded. What lost its
    values otherwise is drawn again too.
    """

    seed: int

    def reset_parameters(self) -> None:
        """Draw again from the seed."""
        raise NotImplementedError

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each part of what is drawn, and what the seed gives for it; lazily, since it may be large."""
        yield from ()

    def faults(self) -> Iterator[str]:
        """Compare the first parts of what was drawn with what the seed gives."""
        compared = 0
        for held, drawn in self._draws():
            if compared > _COMPARED or held.is_meta:
                return
            if not is_near(held, drawn):
                yield (
                    "what its seed gives was overwritten, as averaging all buffers does; "
                    f"call reset_parameters() of the {type(self).__name__}"
                )
                return
            compared += held.numel()

    def get_extra_state(self) -> Tensor:
        """Return the seed."""
        return torch.tensor(self.seed, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """Take the seed from a ``state_dict``."""
        self.seed = int(state)
        self._seed_loaded()

    def _seed_loaded(self) -> None:
        pass


def check_size(kind: str, out_features: int) -> int:
    """Return ``out_features`` if it is a whole number of at least 1.

    Args:
        kind: the name of the class that asks, for the message.
        out_features: the size to check.

    Raises:
        ValueError: it is smaller than 1 or not whole.
    """
    if int(out_features) != out_features or out_features < 1:
        raise ValueError(f"{kind}: out_features must be a whole number of at least 1, got {out_features}")
    return int(out_features)
