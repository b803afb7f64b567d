"""What shows of a model's feedback without running it: whether it is where it was put, and reads what it read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from weight_feedback.forwards import replacement
from weight_feedback.layers import FeedbackLayer
from weight_feedback.restoring import Restoring
from weight_feedback.selection import check_acyclic
from weight_feedback.sharding import is_sharded
from weight_feedback.signals import OwnWeights, Read, Signal

#: Where a module keeps the names of the layers in it that feedback was attached to.
_ATTACHED = "_feedback_attached"

_AGAIN = "remove the feedback and attach it again"


class Place:
    """What a layer that feedback was attached to keeps, so that it shows if it was copied out of its model.

    Attributes:
        left: whether it was.
    """

    def __init__(self, left: bool = False) -> None:
        self.left = left

    def __deepcopy__(self, memo: dict[int, object]) -> Place:
        # What is copied as a whole comes first.
        whole = next((copied for copied in memo.values() if isinstance(copied, nn.Module)), None)
        return Place(self.left or isinstance(whole, FeedbackLayer))


def keep_record(model: nn.Module) -> None:
    """Note in a model which of its layers have feedback, so that it shows when another tool drops it.

    Args:
        model: changed in place.
    """
    names = []
    for name, module in model.named_modules():
        module.__dict__.pop(_ATTACHED, None)
        if isinstance(module, FeedbackLayer):
            names.append(name)
            module.__dict__.setdefault("_place", Place())
    if names:
        model.__dict__[_ATTACHED] = tuple(names)


def refuse_misread(model: nn.Module) -> None:
    """Refuse a model whose signals read what isn't in it, or isn't what it was.

    Args:
        model: a module with or without feedback.

    Raises:
        ValueError: with all that is wrong.
    """
    names = dict(model.named_modules())
    layers = {name: module for name, module in names.items() if isinstance(module, FeedbackLayer)}
    check_acyclic(layers)
    present = {*names.values()}
    wrong = [sentence for name, layer in layers.items() for sentence in misread(name, layer, present)]
    if wrong:
        raise ValueError("; ".join(wrong))


def refuse_without_values(what: str, model: nn.Module) -> None:
    """Refuse a model that can't be run yet.

    Args:
        what: is to be done with it, for the message.
        model: a module with or without feedback.

    Raises:
        ValueError: a part of it is lazy or on the meta device.
    """
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise ValueError(
            f"{what}: a part of the model is lazy and has no shape yet; run one batch through it first"
        )
    if any(tensor.is_meta for tensor in model.parameters()):
        raise ValueError(f"{what}: weights are on the meta device, without values; load or initialise them first")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FeedbackLayer)}
    if on_meta := [name for name, layer in layers.items() if any(b.is_meta for b in layer.signal.buffers())]:
        raise ValueError(
            f"{what}: signals of {', '.join(map(repr, on_meta))} are on the meta device, since no checkpoint has "
            "what follows from a seed; call to_empty(device=…) of each of weight_feedback.signals(model).values(), "
            "which draws it again, and load the rest"
        )


def misread(name: str, layer: FeedbackLayer, present: set[nn.Module]) -> list[str]:
    """Return a sentence for each read that no longer leads to the tensor that it was bound to.

    Args:
        name: of the layer.
        layer: with feedback.
        present: the model's modules.
    """
    wrong = []
    for read, shape in _reads(layer):
        if read.module not in present:
            wrong.append(
                f"the signal of {name!r} reads {read.name}, whose module is no longer in the model: it was "
                f"replaced, or a part of the model was copied alone ({_AGAIN}); or this is itself a part of the "
                "model (take the whole)"
            )
        elif shape is not None and (tensor := read.tensor()).shape != shape:
            wrong.append(f"the signal of {name!r}: {read.misfit(tensor, shape)}")
    return [*dict.fromkeys(wrong)]


def gone(model: nn.Module) -> dict[str, str]:
    """Return by name the layers that had feedback and have none now, and a sentence for each.

    Args:
        model: a module with or without feedback.
    """
    lost = {}
    for prefix, module in model.named_modules():
        for name in module.__dict__.get(_ATTACHED, ()):
            whole = f"{prefix}.{name}".strip(".")
            try:
                now: nn.Module | None = module.get_submodule(name)
            except AttributeError:
                now = None
            # What wraps a layer, as an adapter does, has it inside.
            if now is None or not any(isinstance(part, FeedbackLayer) for part in now.modules()):
                what = "no such module is there" if now is None else f"it is a {type(now).__name__} now"
                lost[whole] = (
                    f"the feedback that was attached to {whole!r} is gone, as {what}: another tool has replaced or "
                    "fused the layer (call weight_feedback.remove(model), or fold, before it; or this was meant: "
                    "then weight_feedback.remove(model) forgets it)"
                )
    return lost


def faults(model: nn.Module) -> dict[str, list[str]]:
    """Return by name what shows that a layer isn't heard as it should be, or can't be folded; in sentences.

    Args:
        model: a module with or without feedback.
    """
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, FeedbackLayer)}
    present = set(modules.values())
    ours = {id(layer.feedback_weight) for layer in layers.values()}
    trained = any(parameter.requires_grad for parameter in model.parameters() if id(parameter) not in ours)
    adapted = {module._modules["base_layer"]: type(module) for module in present if _is_adapter(module)}
    found = {}
    for name, layer in layers.items():
        wrong = misread(name, layer, present)
        if not wrong:
            wrong = [*_of_layer(name, layer), *_of_training(name, layer, trained), *_of_reads(name, layer, adapted)]
            parts = [part for part in layer.signal.modules() if isinstance(part, Restoring)]
            wrong += [f"the signal of {name!r}: {fault}" for part in parts for fault in part.faults()]
        found[name] = [*dict.fromkeys(wrong)]
    return found


def _is_adapter(module: nn.Module) -> bool:
    if "base_layer" not in module._modules:
        return False
    return any(kind.__module__.partition(".")[0] == "peft" for kind in type(module).__mro__)


def _of_layer(name: str, layer: FeedbackLayer) -> Iterator[str]:
    rows = layer._current("weight").shape[layer._out_axis] * (2 if layer.conditioning == "film" else 1)
    if len(layer.feedback_weight) != rows:
        yield f"{name!r} has {rows} rows, but its V has {len(layer.feedback_weight)}: it was resized; {_AGAIN}"
    place = vars(layer).get("_place")
    if place is not None and place.left and _ATTACHED not in vars(layer):
        yield (
            f"{name!r} was copied out of its model, as torch.nn.utils.fuse_conv_bn_eval does, and perhaps changed: "
            f"its V may not belong to its weights any more; {_AGAIN}, or fold before that"
        )
    if (forward := replacement(layer)) is not None:
        yield (
            f"the forward of {name!r} was replaced by {forward}, which copies of the model, and so fold, needn't "
            "follow; undo that before you fold or copy"
        )


def _of_training(name: str, layer: FeedbackLayer, others_trained: bool) -> Iterator[str]:
    if others_trained and not layer.feedback_weight.requires_grad:
        yield (
            f"V of {name!r} is frozen while other parameters are trained, as peft does: call requires_grad_(True) "
            "of each of weight_feedback.feedback_parameters(model)"
        )


def _of_reads(
    name: str, layer: FeedbackLayer, adapted: Mapping[nn.Module | None, type[nn.Module]]
) -> Iterator[str]:
    v = layer.feedback_weight
    for signal in (part for part in layer.signal.modules() if isinstance(part, OwnWeights)):
        for read, dtype in zip(signal.reads, signal.dtypes, strict=True):
            tensor = read.tensor()
            if (fault := read.fault(tensor)) is not None:
                yield f"the signal of {name!r} can't read {read.name}: {fault}"
                continue
            if tensor.dtype not in (dtype, v.dtype) and not is_sharded(tensor):
                yield (
                    f"the signal of {name!r} reads {read.name}, which is {tensor.dtype} but was {dtype} when "
                    "feedback was attached, and the layer's V isn't: cast the whole model"
                )
            if tensor.device != v.device:
                yield f"the signal of {name!r} reads {read.name} on {tensor.device}, but the layer is on {v.device}"
            if read.module in adapted:
                kind = adapted[read.module]
                yield (
                    f"the signal of {name!r} reads {read.name}, which {kind.__module__}.{kind.__qualname__} "
                    "adapts: it doesn't hear what the adapter learns, and its z jumps when that is merged; read "
                    "other weights, or attach after merging"
                )


def _reads(layer: FeedbackLayer) -> Iterator[tuple[Read, torch.Size | None]]:
    """Yield what the signals of a layer read, and the shape that it was bound with, where one is known."""
    for signal in layer.signal.modules():
        if isinstance(signal, OwnWeights):
            yield from zip(signal.reads, signal.summary.shapes, strict=True)
        elif isinstance(signal, Signal):
            for read in signal.reads:
                yield read, None
