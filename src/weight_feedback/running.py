"""Running a model to look at it, without leaving a trace; and comparing what two models return."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from weight_feedback.attributes import attributes_as_before
from weight_feedback.layers import FeedbackLayer
from weight_feedback.weights import CopyingValues, unmoved

T = TypeVar("T")


class Inputs(NamedTuple):
    """What a model's forward takes."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return bool(self.args or self.kwargs)

    def run(self, model: nn.Module) -> Any:
        """Apply a model to copies, since it may write to them.

        Args:
            model: takes these inputs.
        """
        args, kwargs = tree_map(_copied, (self.args, dict(self.kwargs)))
        return model(*args, **kwargs)

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """Return copies of all tensors that a model returns, with gradients and random states as they are now.

        Args:
            model: takes these inputs.
        """
        # Without gradients other kernels may run.
        with torch.enable_grad(), same_random_states(model):
            return [tensor.detach().clone() for tensor in tensors_in(self.run(model))]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    with contextlib.suppress(Exception), CopyingValues():  # what can't be copied is used as it is
        return copy.deepcopy(value)
    return value


def innermost(model: nn.Module) -> nn.Module:
    """Return what wrappers run that keep a record of each forward: `torch.compile`, `DistributedDataParallel`.

    Args:
        model: wrapped or not.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inside := model._modules.get("_orig_mod"), nn.Module):
            model = inside
        else:
            return model


def aside(model: nn.Module, others: Mapping[str, Tensor], work: Callable[[], T]) -> T:
    """Do something with a model that has copies of its buffers in their place, and is run op by op.

    No power iteration moves a weight meanwhile. What it does to buffers, to plain attributes of modules, to
    gradients, of which there are none at first, and to PyTorch's, NumPy's and Python's random states is undone.
    Signals never write, and may be large: theirs stay.

    Args:
        model: any, from `innermost`.
        others: by name, tensors to put in the place of the model's parameters for the while.
        work: what to do.

    Returns:
        What ``work`` returns.
    """
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # compiled code would run neither hooks nor modes
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))  # its tensors count no versions, and have no gradients
        stack.enter_context(same_random_states(model))
        stack.enter_context(attributes_as_before(model))
        stack.enter_context(_without_gradients(model))
        stack.enter_context(_exchanged(model, others))
        stack.enter_context(unmoved(model))
        return work()


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    leaves = [parameter for parameter in model.parameters() if parameter.is_leaf]
    kept = [(parameter, parameter.grad) for parameter in leaves]
    # Hooks go too, as they may take steps of an optimiser. What autograd holds is these very dictionaries.
    hooks = [held for leaf in leaves for held in (leaf._backward_hooks, leaf._post_accumulate_grad_hooks) if held]
    called = [(held, {**held}) for held in hooks]
    for held in hooks:
        held.clear()
    for parameter in leaves:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
        for held, entries in called:
            held.update(entries)


@contextlib.contextmanager
def _exchanged(model: nn.Module, others: Mapping[str, Tensor]) -> Iterator[None]:
    # `torch.func.functional_call` would leave a module that has two names with the tensors that it is lent.
    signals = [module.signal for module in model.modules() if isinstance(module, FeedbackLayer)]
    still = {id(buffer) for signal in signals for buffer in signal.buffers()}
    copies = {id(buffer): buffer.clone() for buffer in model.buffers() if id(buffer) not in still}
    held: list[Any] = [tensors for m in model.modules() for tensors in (m._parameters, m._buffers)]
    before = [(tensors, [*tensors.items()]) for tensors in held]
    try:
        for tensors, own in before:
            for name, tensor in own:
                if id(tensor) in copies:
                    tensors[name] = copies[id(tensor)]
        for name, tensor in others.items():
            prefix, _, attribute = name.rpartition(".")
            cast(Any, model.get_submodule(prefix)._parameters)[attribute] = tensor
        yield
    finally:
        for tensors, own in before:
            for name in {*tensors.keys()} - {*dict(own)}:
                del tensors[name]
            for name, tensor in own:
                tensors[name] = tensor


@contextlib.contextmanager
def same_random_states(model: nn.Module) -> Iterator[None]:
    """Put back PyTorch's, NumPy's and Python's random states afterwards.

    Args:
        model: whose devices' states are put back too.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    ours = (random.getstate(), np.random.get_state())  # noqa: NPY002 - models do draw from it
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in devices:
            if device.type not in ("cpu", "meta"):
                stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
        try:
            yield
        finally:
            random.setstate(ours[0])
            np.random.set_state(ours[1])  # noqa: NPY002


@contextlib.contextmanager
def instead(functions: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions than their forward for a while.

    Args:
        functions: by module, called with the forward that it has, and what that is called with.
    """
    before = {module: vars(module).get("forward") for module in functions}
    for module, function in functions.items():
        module.__dict__["forward"] = functools.partial(function, module.forward)
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.__dict__["forward"]
            if forward is not None:
                module.__dict__["forward"] = forward


def tensors_in(output: Any) -> list[Tensor]:
    """Return all tensors in what a model returned, in its order.

    Args:
        output: a tensor, or containers and objects of such, as dataclasses and distributions are; what a module or
            a set holds isn't looked for.
    """
    found: list[Tensor] = []
    _collect(output, found, set())
    return found


def _collect(output: Any, found: list[Tensor], seen: set[int]) -> None:
    leaves, _ = tree_flatten(output)
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif id(leaf) not in seen and not isinstance(leaf, type | nn.Module | ModuleType):
            seen.add(id(leaf))  # which is held by the output
            if isinstance(leaf, Mapping):
                _collect([*leaf.values()], found, seen)
            elif dataclasses.is_dataclass(leaf):  # perhaps with slots
                _collect([getattr(leaf, field.name) for field in dataclasses.fields(leaf)], found, seen)
            elif hasattr(leaf, "__dict__"):
                _collect([*vars(leaf).values()], found, seen)


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference between two lists of tensors, over the largest entry; 0 for the same bits.

    Args:
        found: of one model.
        expected: of the other.

    Returns:
        A number of at least 0; infinite if shapes, types or whole numbers differ, or where one isn't finite and the
        other is.
    """
    found, expected = [*map(strided, found)], [*map(strided, expected)]
    if [(t.shape, t.dtype) for t in found] != [(t.shape, t.dtype) for t in expected]:
        return math.inf
    largest: float = max((_distance(*pair) for pair in zip(found, expected, strict=True)), default=0.0)
    if largest in (0.0, math.inf):
        return largest
    sizes = [_wide(tensor).nan_to_num(0, 0, 0).abs() for tensor in expected if tensor.numel()]
    most: float = max(float(size.max()) for size in sizes)
    if most == 0:
        return math.inf
    return largest / most


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference between entries that are finite."""
    if one.numel() == 0 or torch.equal(one, other):
        return 0.0
    if not (one.is_floating_point() or one.is_complex()):
        return math.inf
    one, other = _wide(one), _wide(other)
    known = one.isfinite()
    if not torch.equal(known, other.isfinite()):
        return math.inf
    return float((one - other)[known].abs().max()) if known.any() else 0.0


def strided(tensor: Tensor) -> Tensor:
    """Return the values of a tensor of any layout.

    Args:
        tensor: sparse, nested, or as most are.
    """
    if tensor.is_nested:
        return tensor.values() if tensor.layout == torch.jagged else tensor.to_padded_tensor(0.0)
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _wide(tensor: Tensor) -> Tensor:
    # On the CPU, because not every device has float64.
    return tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


@contextlib.contextmanager
def autocast_types(model: nn.Module) -> Iterator[set[torch.dtype]]:
    """Note in which types feedback layers run under autocast, which a model's own code may put around them.

    Args:
        model: any, which is run meanwhile.

    Yields:
        The types, when it has run.
    """
    types: set[torch.dtype] = set()

    def run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for kind in {tensor.device.type for tensor in tensors_in((args, kwargs))}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                types.add(torch.get_autocast_dtype(kind))
        return forward(*args, **kwargs)

    with instead({module: run for module in model.modules() if isinstance(module, FeedbackLayer)}):
        yield types


def rounding(model: nn.Module, outputs: Sequence[Tensor], more: Collection[torch.dtype]) -> float:
    """Return what is taken for rounding, over the largest output: the square root of the coarsest type's step.

    Args:
        model: its parameters' types count.
        outputs: theirs too.
        more: further types, such as those of autocast.
    """
    types = {t.dtype for t in (*model.parameters(), *outputs) if t.is_floating_point()} | {*more}
    return math.sqrt(max((torch.finfo(dtype).eps for dtype in types), default=0.0))
