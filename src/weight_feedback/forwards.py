"""A layer's ``forward`` as an instance attribute: what other tools put there, and what that means for feedback."""

from __future__ import annotations

import functools
from types import MethodType
from typing import cast

from torch import nn


def rebind(layer: nn.Module, before: type[nn.Module]) -> None:
    """Let what keeps a layer's ``forward`` keep that of the layer's present class.

    accelerate's hooks keep it as ``_old_forward`` and call that; removed, they leave it behind as ``forward``.

    Args:
        layer: changed in place.
        before: the class that the layer had until now.
    """
    for name, value in [*vars(layer).items()]:
        if is_own_method(layer, value, before):
            if name == "forward":
                del layer.__dict__[name]
            else:
                layer.__dict__[name] = MethodType(type(layer).forward, layer)


def is_own_method(layer: nn.Module, value: object, kind: type[nn.Module]) -> bool:
    """Say whether a value is the ``forward`` of a class, bound to a layer.

    Args:
        layer: any.
        value: any.
        kind: the class.
    """
    if not isinstance(value, MethodType) or value.__self__ is not layer:
        return False
    return value.__func__ is kind.forward


def replacement(layer: nn.Module) -> str | None:
    """Return what has replaced a layer's ``forward`` and won't run that of another class; None if nothing has.

    Args:
        layer: any.
    """
    found = vars(layer).get("forward")
    if found is None or is_own_method(layer, found, type(layer)):
        return None
    if isinstance(found, functools.partial) and found.args == (layer,):
        # accelerate's own, which looks up what it wraps at each call.
        if hasattr(layer, "_hf_hook") and is_own_method(layer, vars(layer).get("_old_forward"), type(layer)):
            return None
        found = cast(object, found.func)
    function = getattr(found, "__func__", found)
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(found).__name__)}"


#: As PyTorch has them, before other code replaces them.
_FORWARDS: dict[type[nn.Module], object] = {
    kind: kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
}


def replaced_in_class(kind: type[nn.Module]) -> str | None:
    """Return what has replaced the forward of one of PyTorch's classes; None if nothing has.

    Args:
        kind: any class.
    """
    expected = _FORWARDS.get(kind, kind.forward)
    if kind.forward is expected:
        return None
    return f"{kind.forward.__module__}.{kind.forward.__qualname__}"


def shared_with_copy(model: nn.Module, copied: nn.Module) -> str | None:
    """Return the name of a module whose copy runs a function of the original; None if there is none.

    A function isn't copied with the module that keeps it, and so goes on running whatever it was made for.

    Args:
        model: any.
        copied: its copy.
    """
    originals = dict(model.named_modules())
    for name, module in copied.named_modules():
        forward = vars(module).get("forward")
        if forward is not None and not _compiles_copy(module) and not _is_of_copy(forward, originals.get(name)):
            return str(name)
    return None


def _compiles_copy(module: nn.Module) -> bool:
    """Say whether a module is what `torch.compile` returns: copied, it compiles the copy of what it wraps."""
    if "_orig_mod" not in module._modules:
        return False
    from torch._dynamo.eval_frame import OptimizedModule

    return type(module) is OptimizedModule


def _is_of_copy(forward: object, original: nn.Module | None) -> bool:
    """Say whether a copied forward goes by what was copied with it: an object, or a module among its arguments."""
    if isinstance(forward, functools.partial):
        given = [*forward.args, *forward.keywords.values()]
        return any(isinstance(value, nn.Module) for value in given) or _is_of_copy(forward.func, original)
    if original is not None and forward is vars(original).get("forward"):
        return False
    return isinstance(forward, MethodType)
