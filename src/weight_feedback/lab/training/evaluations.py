"""Forwards without gradients, watched: evaluating should leave what is trained as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


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
    before: list[tuple[nn.Module, dict[str, Any], Tensor]] = []

    def begin(module: nn.Module, *_: object) -> None:
        if not torch.is_grad_enabled() and not before:
            before.append((module, _versions(module), torch.get_rng_state()))

    def end(module: nn.Module, *_: object) -> None:
        if before and before[0][0] is module:
            versions, random = before.pop()[1:]
            seen.number += 1
            now = _versions(module)
            seen.changed |= {name for name, version in versions.items() if now.get(name, version) != version}
            seen.drew = seen.drew or not torch.equal(random, torch.get_rng_state())

    handles = [register_module_forward_pre_hook(begin), register_module_forward_hook(end, always_call=True)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _versions(module: nn.Module) -> dict[str, Any]:
    """Return which version of which tensor each buffer is, by name."""
    return {
        name: (id(buffer), None if buffer.is_inference() else buffer._version)
        for name, buffer in module.named_buffers()
    }
