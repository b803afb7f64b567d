"""What a model's code does with a layer's weight and bias besides calling the layer, as far as the code shows it.

A module that computes ``F.linear(x, self.fc.weight, self.fc.bias)`` never calls ``fc``: nothing is heard there, and
a folded bias or weight would be taken for the layer's own. What is found here is a reason to look; that nothing is
found is no proof, which `weight_feedback.check` on a batch is.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import NamedTuple, cast

from torch import nn

#: What is asked of a weight without computing with it.
_FACTS = frozenset({
    "device", "dim", "dtype", "element_size", "grad", "is_cuda", "is_floating_point", "is_meta", "is_quantized",
    "layout", "ndim", "ndimension", "numel", "requires_grad", "shape", "size", "stride",
})  # fmt: skip


class Use(NamedTuple):
    """A place in a model's code that takes a layer's tensor.

    Attributes:
        attribute: ``"weight"`` or ``"bias"``.
        where: class and function, such as ``"Autoencoder.forward"``.
    """

    attribute: str
    where: str


def uses_in_code(model: nn.Module, name: str) -> list[Use]:
    """Find where the modules around a layer take its weight or bias in what their forward runs.

    Args:
        model: any.
        name: of the layer, as in ``model.named_modules()``.

    Returns:
        Each place once. Only attributes that are named one after the other are found, such as
        ``self.attention.qkv.weight``; modules of PyTorch's own aren't looked into.
    """
    parts = name.split(".") if name else []
    found = []
    around = model
    for depth, part in enumerate(parts):
        if not type(around).__module__.startswith("torch.nn."):
            for function, code in _run_by_forward(type(around)):
                where = f"{type(around).__name__}.{function}"
                found += [Use(chain[-1], where) for chain in _taken(code) if chain[:-1] == (*parts[depth:],)]
        around = cast(nn.Module, getattr(around, part))
    return [*dict.fromkeys(found)]


def _run_by_forward(kind: type[nn.Module]) -> Iterator[tuple[str, CodeType]]:
    """Yield the code of forward, and of whatever methods are named in it or in those."""
    todo, seen = ["forward"], {"forward"}
    while todo:
        name = todo.pop()
        function = getattr(kind, name, None)
        if callable(function):
            function = inspect.unwrap(function)
        if not isinstance(function, FunctionType) or str(function.__module__).startswith("torch."):
            continue
        for code in _nested(function.__code__):
            yield name, code
            todo += [other for other in code.co_names if other not in seen]
            seen.update(code.co_names)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


@functools.lru_cache(4096)
def _taken(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """Return each chain of attributes with which code takes a weight or bias, such as ("fc", "weight")."""
    found = []
    loaded: list[str] = []
    before: list[object] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            loaded.append(instruction.argval)
            continue
        ends = [i for i, name in enumerate(loaded) if name in ("weight", "bias")]
        for end in ends:
            asked = loaded[end + 1 : end + 2]
            if not (asked and asked[0] in _FACTS) and (asked or "isinstance" not in before[-2:-1]):
                found.append((*loaded[: end + 1],))
        loaded = []
        before.append(instruction.argval)
    return (*found,)
