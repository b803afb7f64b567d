"""A module's tensors as they are now: parameters, what parametrisations make of them, or what hooks will compute.

Looking writes nothing: a power iteration doesn't move on, and no random number is drawn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized, remove_parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# Functions of the same names hide these modules.
_spectral_norm = importlib.import_module("torch.nn.utils.spectral_norm")
_weight_norm = importlib.import_module("torch.nn.utils.weight_norm")
_SpectralNorm, _WeightNorm = _spectral_norm.SpectralNorm, _weight_norm.WeightNorm


def current(module: nn.Module, attribute: str) -> object:
    """Return an attribute; where it is a tensor that is computed, what would be computed now.

    Of a parametrisation, such as those of ``torch.nn.utils.parametrizations``, it is the value in evaluation mode.
    Of a hook that computes the attribute before each forward, as ``torch.nn.utils.prune`` and the older
    ``weight_norm`` and ``spectral_norm`` of ``torch.nn.utils`` register it, it is what the next forward will
    compute, but for a step of the power iteration.

    Args:
        module: any.
        attribute: its name there.

    Returns:
        The attribute's value, None where there is none.
    """
    parametrised = parametrisation(module, attribute)
    if parametrised is not None:
        with still(parametrised):
            # Not through the attribute, whose value may be cached for the layer's own use.
            return cast(Tensor, parametrised())
    hook = computing_hook(module, attribute)
    if hook is not None:
        return _computed(hook, module)
    return getattr(module, attribute, None)


def parametrisation(module: nn.Module, attribute: str) -> nn.Module | None:
    """Return what computes a parametrised attribute, None where there is nothing of the kind.

    Args:
        module: any.
        attribute: its name there.
    """
    if "parametrizations" not in module._modules:  # what scripted modules have for a dict has no `get`
        return None
    lists = cast(nn.Module, module._modules["parametrizations"])._modules
    return cast(ParametrizationList | None, lists.get(attribute))


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while.

    Args:
        module: any.
    """
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Let weights that are computed be what `current` says, also while a model in training mode runs.

    Else each forward takes a step of the power iteration, and moves weights between two readings of them.

    Args:
        model: any.
    """
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    steps = {hook: hook.n_power_iterations for hook in hooks if isinstance(hook, _SpectralNorm)}
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, ParametrizationList):
                stack.enter_context(still(module))
        for hook in steps:
            hook.n_power_iterations = 0
        try:
            yield
        finally:
            for hook, count in steps.items():
                hook.n_power_iterations = count


def computing_hook(module: nn.Module, attribute: str) -> object | None:
    """Return the hook that sets an attribute before each forward, if it is one of PyTorch's.

    Args:
        module: any.
        attribute: its name there.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            name = hook._tensor_name
        elif isinstance(hook, _SpectralNorm | _WeightNorm):
            name = hook.name
        else:
            continue
        if name == attribute:
            return cast(object, hook)
    return None


def _computed(hook: object, module: nn.Module) -> Tensor:
    if isinstance(hook, prune.BasePruningMethod):
        return cast(Tensor, hook.apply_mask(module))
    if isinstance(hook, _SpectralNorm):
        return cast(Tensor, hook.compute_weight(module, do_power_iteration=False))
    return cast(Tensor, hook.compute_weight(module))  # type: ignore[attr-defined]


def is_left_over(module: nn.Module, attribute: str) -> bool:
    """Say whether an attribute is what some code computed at its last run, which nothing else can compute again.

    Args:
        module: any.
        attribute: its name there.
    """
    value = module.__dict__.get(attribute)
    return isinstance(value, Tensor) and value.grad_fn is not None and computing_hook(module, attribute) is None


def is_quantised(tensor: Tensor) -> bool:
    """Say whether a tensor is in a format of few bits, which can't be summarised, or of a library for such formats.

    Args:
        tensor: any.
    """
    if tensor.is_quantized or not tensor.is_floating_point() or tensor.element_size() == 1:
        return True
    # What torchao and optimum-quanto put in a parameter's place has a floating-point dtype.
    return not hasattr(tensor, "device_mesh") and is_traceable_wrapper_subclass(tensor)


def is_offloaded(module: nn.Module) -> bool:
    """Say whether accelerate keeps a module's weights elsewhere, but while the module runs.

    Args:
        module: any.
    """
    hook = getattr(module, "_hf_hook", None)
    return any(getattr(part, "offload", False) for part in [hook, *getattr(hook, "hooks", ())])


def make_plain(module: nn.Module, attribute: str, value: Tensor, requires_grad: bool) -> None:
    """Put a parameter in the place of an attribute, and take away whatever computes it.

    Args:
        module: changed in place.
        attribute: its name there.
        value: of the parameter, which is made of this very tensor.
        requires_grad: of the parameter.
    """
    hook = computing_hook(module, attribute)
    if is_parametrized(module, attribute):
        remove_parametrizations(module, attribute)
    elif isinstance(hook, prune.BasePruningMethod):
        prune.remove(module, attribute)
    elif isinstance(hook, _SpectralNorm):
        _spectral_norm.remove_spectral_norm(module, attribute)
    elif isinstance(hook, _WeightNorm):
        _weight_norm.remove_weight_norm(module, attribute)
    setattr(module, attribute, nn.Parameter(value, requires_grad=requires_grad))


class CopyingValues(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy tensors that have a graph, which it refuses to otherwise; their copies have none.

    A module may keep such tensors anywhere, as a pruned weight after a forward, or a list of losses.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]
