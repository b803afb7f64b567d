"""States of any nesting as plain values, which JSON can hold, and tensors by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What stands in place of a value that JSON has no way to write; a table of one such key is nothing else.
_TENSOR, _ARRAY, _PAIRS, _TUPLE, _NUMBER = "a tensor", "an array", "pairs", "a tuple", "a number"
_ONE_OF = [{kind} for kind in (_TENSOR, _ARRAY, _PAIRS, _TUPLE, _NUMBER)]


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return a state as plain values and tensors.

    Args:
        state: tables, lists, tuples, texts, numbers, truth values, None, tensors and NumPy's arrays and numbers, in
            any nesting.

    Raises:
        TypeError: there is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    return _flat(state, "state", tensors), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `flatten` was given.

    Args:
        plain: of it.
        tensors: likewise.

    Raises:
        ValueError: they don't belong together.
    """
    try:
        return _whole(plain, tensors)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a state and its tensors, found something else ({error!r})") from None


def _whole(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_whole(one, tensors) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() in _ONE_OF:
        ((kind, inner),) = plain.items()
        return _stood_for(kind, inner, tensors)
    return {key: _whole(value, tensors) for key, value in plain.items()}


def _stood_for(kind: str, inner: Any, tensors: Mapping[str, Tensor]) -> Any:
    if kind == _TENSOR:
        return tensors[inner]
    if kind == _ARRAY:
        return tensors[inner].numpy()
    if kind == _PAIRS:
        return {_whole(key, tensors): _whole(value, tensors) for key, value in inner}
    if kind == _TUPLE:
        return tuple(_whole(one, tensors) for one in inner)
    return float(inner)


def _flat(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A copy: what shares memory couldn't be written.
        return {_TENSOR: _named(place, value.detach().cpu().clone().contiguous(), tensors)}
    if isinstance(value, np.ndarray):
        return {_ARRAY: _named(place, torch.from_numpy(value.copy(order="C")), tensors)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: str(value)}
    if isinstance(value, Mapping):
        return _flat_table(value, place, tensors)
    if isinstance(value, list | tuple):
        listed = [_flat(one, f"{place}.{i}", tensors) for i, one in enumerate(value)]
        return listed if isinstance(value, list) else {_TUPLE: listed}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{place}: expected tensors, arrays and plain values in a state, got {type(value).__name__}")


def _flat_table(value: Mapping[Any, Any], place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    inner = {key: _flat(one, f"{place}.{key}", tensors) for key, one in value.items()}
    if all(isinstance(key, str) for key in inner) and inner.keys() not in _ONE_OF:
        return inner
    return {_PAIRS: [[_flat(key, place, tensors), one] for key, one in inner.items()]}


def _named(place: str, tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    """Add a tensor; return its name, which begins with its number, since places needn't be unique."""
    name = f"{len(tensors)} {place}"
    tensors[name] = tensor
    return name
