"""Forwards without gradients, watched: evaluating should leave what is trained as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

#: Numbers in a buffer whose values are compared.
_LARGE = 1_000_000


@dataclass
class Evaluations:
    """What was seen of forwards without gradients.

    Attributes:
        number: how many there were, of modules that no other module called.
        changed: names of buffers that changed meanwhile, such as the statistics of a batch norm in training mode.
        drew: whether any drew random numbers, as dropout in training mode does.
    """

    number: int = 0
    changed: set[str] = field(default_factory=set)
    drew: bool = False


@contextmanager
def watch_evaluations() -> Iterator[Evaluations]:
    """Watch all forwards of modules of PyTorch in this process meanwhile; what they compute is the same."""
    seen = Evaluations()
    before: list[tuple[nn.Module, dict[str, Tensor | int], Tensor]] = []

    def begin(module: nn.Module, *_: object) -> None:
        if not torch.is_grad_enabled() and not before:
            before.append((module, _values(module), _random()))

    def end(module: nn.Module, *_: object) -> None:
        if before and before[0][0] is module:
            values, random = before.pop()[1:]
            seen.number += 1
            now = _values(module)
            seen.changed |= {name for name, value in values.items() if not _same(value, now.get(name, value))}
            seen.drew = seen.drew or not torch.equal(random, _random())

    handles = [register_module_forward_pre_hook(begin), register_module_forward_hook(end, always_call=True)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _random() -> Tensor:
    """Return the random state of PyTorch, of the CPU and of the GPU in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def _values(module: nn.Module) -> dict[str, Tensor | int]:
    """Return copies of buffers by name: a batch norm changes its statistics without another version of them.

    Of a large one, the version stands for the values.
    """
    return {
        name: buffer.detach().clone() if buffer.numel() <= _LARGE or buffer.is_inference() else buffer._version
        for name, buffer in module.named_buffers()
    }


def _same(one: Tensor | int, other: Tensor | int) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one.nan_to_num(), other.nan_to_num()))
    return bool(one == other)
