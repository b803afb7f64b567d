"""Tensors that were replaced by memory without values, and what they are set to then.

``to_empty`` of a module does that; and so does ``from_pretrained`` of transformers, which builds a model on the
meta device and puts uninitialised memory in the place of all buffers that aren't persistent, and of whatever the
checkpoint doesn't hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

#: What transformers sets to True on each tensor that it has loaded, and later on each module.
_INITIALISED = "_is_hf_initialized"


class Restoring(nn.Module):
    """A module that sets its own tensors again after they have lost their values."""

    #: Came from the meta device by assignment, and it isn't known yet whether with values; with their versions.
    _assigned: Mapping[str, int] = MappingProxyType({})

    def _restore(self, lost: frozenset[str]) -> None:  # noqa: ARG002
        """Set tensors again, by ``reset_parameters`` if there is one; what only a checkpoint has becomes NaN.

        Args:
            lost: names of own parameters and buffers.
        """
        reset = getattr(self, "reset_parameters", None)
        if reset is not None:
            reset()

    def faults(self) -> Iterator[str]:
        """Yield a sentence for whatever own tensors can't be right."""
        yield from ()

    def _own(self) -> dict[str, Tensor]:
        tensors = {**self._parameters, **self._buffers}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self._own()
        on_meta = {name for name, tensor in before.items() if tensor.is_meta}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # PyTorch doesn't say what it applies, but by its name.
        emptied = before.keys() if "to_empty" in getattr(fn, "__qualname__", "") else on_meta
        self._set_again(frozenset(emptied))
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get("_buffers", {}).get(name)
        held = self.__dict__.get("_parameters", {}).get(name) if held is None else held
        super().__setattr__(name, value)
        if (
            held is not None
            and held.is_meta
            and isinstance(value, Tensor)
            and not getattr(value, _INITIALISED, False)
        ):
            self.__dict__["_assigned"] = {**self._assigned, name: value._version}
        elif name == _INITIALISED:
            own = self._own()
            # What was written to since has values.
            versions = self.__dict__.pop("_assigned", {})
            self._set_again(frozenset(n for n, v in versions.items() if n in own and own[n]._version == v))

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        # What it has assigned has values.
        self.__dict__.pop("_assigned", None)

    def _set_again(self, emptied: frozenset[str]) -> None:
        lost = frozenset(name for name, tensor in self._own().items() if name in emptied and not tensor.is_meta)
        if lost:
            with torch.no_grad():
                self._restore(lost)


def is_finite(tensor: Tensor) -> bool:
    """Say whether all entries are finite; of a tensor on the meta device, that they are.

    Args:
        tensor: any.
    """
    return tensor.is_meta or bool(tensor.isfinite().all())


def is_near(held: Tensor, expected: Tensor) -> bool:
    """Say whether a tensor is what it should be, though a type of few bits may have been in between.

    Args:
        held: any; nothing is known of one on the meta device.
        expected: of a shape that can be expanded to that of ``held``; on the CPU.
    """
    if held.is_meta:
        return True
    held, expected = held.cpu(), expected.expand_as(held)
    if not held.is_floating_point():
        return torch.equal(held, expected)
    return torch.allclose(held.double(), expected.double(), rtol=0.02, atol=0.02, equal_nan=True)


def lose(tensor: Tensor) -> None:
    """Make all entries NaN, since nothing says what they were.

    Args:
        tensor: of floating point.
    """
    tensor.fill_(math.nan)
