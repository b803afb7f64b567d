"""What a model does with its feedback layers as it runs: which it calls, and where else it uses their weights."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from weight_feedback.attach import feedback_layers
from weight_feedback.layers import FeedbackLayer
from weight_feedback.running import (
    Inputs,
    instead,
    tensors_in,
)
from weight_feedback.weights import computing_hook, parametrisation


@dataclass
class Seen:
    """What one forward did with one feedback layer."""

    calls: int = 0
    used: dict[str, str] = field(default_factory=dict)
    without_graph: bool = False  # called at least once while none was recorded
    reached: bool = False


def observed(model: nn.Module, inputs: Inputs) -> tuple[dict[FeedbackLayer, Seen], list[Tensor], str]:
    """Run a model once, and note what it does with its feedback layers.

    Args:
        model: with feedback.
        inputs: that it takes.

    Returns:
        What was seen of each layer, copies of all tensors that the model returned, and in words what it returned.
    """
    layers = [*feedback_layers(model).values()]
    seen = {layer: Seen() for layer in layers}
    watch = _Watch(model, seen)
    with watch.installed(), watch:
        output = inputs.run(model)
    outputs = tensors_in(output)
    leaves = {id(leaf): layer for layer in layers for leaf in _leaves(layer)}
    reached, opaque = _led_back_to(outputs)
    for leaf in leaves.keys() & reached:
        seen[leaves[leaf]].reached = True
    if opaque and any(each.without_graph and not each.reached for each in seen.values()):
        for leaf in leaves.keys() & _with_gradients(model, outputs):
            seen[leaves[leaf]].reached = True
    return seen, [tensor.detach().clone() for tensor in outputs], type(output).__name__


def _leaves(layer: FeedbackLayer) -> list[Tensor]:
    computing = parametrisation(layer, "feedback_weight")
    if computing is not None:
        return [*computing.parameters()]
    # What a hook computes V of has its name and something after that.
    return [
        tensor
        for name, tensor in layer._parameters.items()
        if name.startswith("feedback_weight") and tensor is not None
    ]


def _led_back_to(outputs: list[Tensor]) -> tuple[set[int], bool]:
    """Return the ids of the leaves in the graph of some tensors, and whether a part of it can't be looked into."""
    todo: list[Any] = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    nodes, leaves, opaque = set(todo), {id(tensor) for tensor in outputs}, False
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        # A function not PyTorch's own, such as a checkpoint, may run layers and differentiate them by itself.
        opaque = opaque or isinstance(node, torch.autograd.function.BackwardCFunction)
        following = [other for other, _ in node.next_functions if other is not None and other not in nodes]
        nodes.update(following)
        todo += following
    return leaves, opaque


def _with_gradients(model: nn.Module, outputs: list[Tensor]) -> set[int]:
    """Return the ids of a model's parameters that a backward pass reaches."""
    ends = [tensor for tensor in outputs if tensor.requires_grad]
    torch.autograd.backward(ends, [torch.ones_like(tensor) for tensor in ends])
    return {id(parameter) for parameter in model.parameters() if parameter.grad is not None}


class _Watch(TorchFunctionMode):
    """Counts the calls of feedback layers, and sees who computes with their weights and biases otherwise."""

    def __init__(self, model: nn.Module, seen: Mapping[FeedbackLayer, Seen]) -> None:
        super().__init__()
        self.seen = seen
        #: By where their memory begins: where a tensor begins and ends, of which layer it is, and what.
        self.places: dict[int, list[tuple[int, int, FeedbackLayer, str]]] = {}
        self.owners: dict[nn.Module, set[FeedbackLayer]] = {}
        self.allowed: list[set[FeedbackLayer]] = []
        holders: dict[int, list[nn.Module]] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                holders.setdefault(id(parameter), []).append(module)
        for layer in seen:
            self._find(layer, holders)

    def _find(self, layer: FeedbackLayer, holders: Mapping[int, list[nn.Module]]) -> None:
        for what in ("weight", "bias"):
            if computing_hook(layer, what) is not None:
                continue  # which runs before the layer's forward
            computing = parametrisation(layer, what)
            tensors = [layer._parameters.get(what)] if computing is None else [*computing.parameters()]
            for tensor in tensors:
                if tensor is None or tensor.is_meta or not tensor.numel():
                    continue
                start = tensor.data_ptr()
                place = (start, start + tensor.numel() * tensor.element_size(), layer, what)
                self.places.setdefault(tensor.untyped_storage().data_ptr(), []).append(place)
                for module in holders[id(tensor)]:  # tied to the layer, each has the same right
                    self.owners.setdefault(module, set()).add(layer)
        self.owners.setdefault(layer, set()).add(layer)

    def installed(self) -> contextlib.AbstractContextManager[None]:
        """Put a function of this object's in the place of the forward of all that may use those tensors."""
        every_layer = set(self.seen)
        signals = {part: every_layer for layer in self.seen for part in layer.signal.modules()}
        allowed = {**self.owners, **signals}
        return instead({module: functools.partial(self._run, module, layers) for module, layers in allowed.items()})

    def _run(
        self, module: nn.Module, layers: set[FeedbackLayer], forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self.allowed.append(layers)
        try:
            output = forward(*args, **kwargs)
        finally:
            self.allowed.pop()
        if isinstance(module, FeedbackLayer) and any(tensor.numel() for tensor in tensors_in(output)):
            self.seen[module].calls += 1
            self.seen[module].without_graph |= not torch.is_grad_enabled()
        return output

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) for part in tree_leaves(output)):  # else it asks for a fact
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    self._note(tensor)
        return output

    def _note(self, tensor: Tensor) -> None:
        if not self.places or tensor.is_meta or tensor.layout != torch.strided:
            return
        try:
            here, memory = tensor.data_ptr(), tensor.untyped_storage().data_ptr()
        except RuntimeError:  # it has none of its own, as within `torch.func.vmap`
            return
        for start, end, layer, what in self.places.get(memory, ()):
            if start <= here < end and not any(layer in layers for layers in self.allowed):
                self.seen[layer].used.setdefault(what, _where())


def _where() -> str:
    """Say where, in code that is neither PyTorch's nor this library's, something happens."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        home = str(frame.f_globals.get("__name__", ""))
        if home.partition(".")[0] not in ("torch", "weight_feedback"):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return "a place unknown"
