"""What modules keep besides parameters and buffers, and a forward may write to: states, caches, lists of losses."""

from __future__ import annotations

import contextlib
import functools
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DICTS = (dict, OrderedDict, defaultdict)
_SEQUENCES = (list, deque)


@contextlib.contextmanager
def attributes_as_before(model: nn.Module) -> Iterator[None]:
    """Put back what a model's modules keep as plain attributes.

    That is so for what attributes are, for what lists, dictionaries, sets and deques among them hold, for tensors,
    of which there are copies meanwhile, and for generators of random numbers; modules that are hidden in a list or
    dictionary are looked into too. What other objects keep inside stays as it was written.

    Args:
        model: any. Its own parameters and buffers are left to others.
    """
    kept = _Kept(model)
    try:
        kept.keep(model)
        yield
    finally:
        for put_back in kept.back:
            put_back()


class _Kept:
    """Functions that put back what was found."""

    def __init__(self, model: nn.Module) -> None:
        self.back: list[Callable[[], None]] = []
        # The functions hold all that is in here, so that no two of them have one id.
        self.seen = {id(tensor) for tensor in model.buffers()}
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}
        self.weights = {memory for weight in model.parameters() if (memory := _memory(weight))}

    def keep(self, value: Any) -> Any:
        """Look into a value, and return what may stand in its place meanwhile."""
        kind = type(value)
        if kind is tuple:
            return self._keep_tuple(value)
        if isinstance(value, Tensor):
            return self._stand_in(value)
        if id(value) in self.seen:
            return value
        if isinstance(value, nn.Module):
            self.seen.add(id(value))
            self._keep_entries(vars(value))
        elif kind in _DICTS:
            self._keep_entries(value)
        elif kind in _SEQUENCES:
            self._keep_sequence(value)
        elif kind is set:
            entries = {*value}
            self._later(value, lambda: None if value == entries else _refill(value, entries))
        else:
            self._keep_generator(value)
        return value

    def _later(self, value: object, put_back: Callable[[], None]) -> None:
        self.seen.add(id(value))
        self.back.append(put_back)

    def _keep_tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        others = tuple(map(self.keep, value))
        return value if all(a is b for a, b in zip(value, others, strict=True)) else others

    def _keep_entries(self, held: dict[Any, Any]) -> None:
        entries = dict(held)

        def put_back() -> None:
            if [*held] != [*entries]:
                held.clear()
            for name, value in entries.items():
                if held.get(name, entries) is not value:
                    held[name] = value

        self._later(held, put_back)
        for name, value in entries.items():
            if (other := self.keep(value)) is not value:
                held[name] = other

    def _keep_sequence(self, held: Any) -> None:
        entries = [*held]

        def put_back() -> None:
            if [*map(id, held)] != [*map(id, entries)]:
                held.clear()
                held.extend(entries)

        self._later(held, put_back)
        for index, value in enumerate(entries):
            if (other := self.keep(value)) is not value:
                held[index] = other

    def _stand_in(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self.seen or isinstance(tensor, nn.Parameter) or tensor.layout != torch.strided:
            return tensor
        memory = _memory(tensor)
        # Who computes with a view of a weight is to be seen, and writes to that weight in any case.
        if memory is None or memory in self.weights:
            return tensor
        if id(tensor) not in self.copies:
            self.copies[id(tensor)] = (tensor, tensor.detach().clone().requires_grad_(tensor.requires_grad))
        return self.copies[id(tensor)][1]

    def _keep_generator(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            self._later(value, functools.partial(_set_state, value, value.get_state()))
        elif isinstance(value, random.Random):
            numbers = value.getstate()
            self._later(value, lambda: value.setstate(numbers))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator.state
            self._later(value, lambda: setattr(value.bit_generator, "state", bits))


def _memory(tensor: Tensor) -> int | None:
    """Return where a tensor's memory begins; None if it has none of its own."""
    if tensor.is_meta:
        return None
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return None


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _refill(held: set[Any], entries: set[Any]) -> None:
    held.clear()
    held.update(entries)
