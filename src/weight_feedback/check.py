"""Is each layer's signal heard, and does the folded model equal this one? Looked at, and tried on a batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weight_feedback.attach import feedback_layers
from weight_feedback.fold import fold_anyway
from weight_feedback.integrity import faults, gone, refuse_without_values
from weight_feedback.layers import FeedbackLayer
from weight_feedback.running import (
    Inputs,
    aside,
    autocast_types,
    difference,
    innermost,
    rounding,
    same_random_states,
)
from weight_feedback.selection import check_acyclic
from weight_feedback.sharding import check_unsharded, is_flattened
from weight_feedback.streams import stream
from weight_feedback.watching import Seen, observed
from weight_feedback.weights import unmoved

#: Size of what a trial V adds to each output channel: enough to be seen in what the model returns.
_AUDIBLE = 0.5


@dataclass(frozen=True)
class LayerCheck:
    """What `check` found of one feedback layer. None stands for what only a forward would tell.

    Attributes:
        calls: how often the forward called the layer, calls that return nothing not counted.
        used: which of ``"weight"`` and ``"bias"`` the forward computed with outside of the layer, and where.
        gradient: whether ``V`` can get a gradient: it requires one, and the model's outputs lead back to it.
        problems: sentences, each a reason why the layer isn't heard, or can't be folded.
    """

    calls: int | None
    used: Mapping[str, str]
    gradient: bool | None
    problems: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Check:
    """What `check` found; printing it gives readable text.

    Attributes:
        layers: name of each feedback layer to what was found of it, in the model's order.
        fold_difference: the largest difference between what the folded model and this one return, over the largest
            entry of that: 0 for the same bits. None if no forward was run, or nothing comparable was returned.
        problems: all that is wrong, of layers and of the model.
    """

    layers: Mapping[str, LayerCheck]
    fold_difference: float | None
    problems: tuple[str, ...]

    def __repr__(self) -> str:
        """Readable text: a line for each layer, then one for the fold, then what is wrong."""
        lines = [f"{name or 'the model itself'}: {_in_words(layer)}" for name, layer in self.layers.items()]
        if not self.layers and not self.problems:
            lines.append("the model has no feedback layers")
        if (
            not self.problems
            and self.fold_difference is None
            and any(layer.calls for layer in self.layers.values())
        ):
            lines.append("the model returns something else each time, so the fold can't be compared with it")
        if self.fold_difference is not None:
            same = (
                "bit for bit"
                if self.fold_difference == 0
                else f"to {self.fold_difference:.2g} of the largest output"
            )
            lines.append(f"folded, the model returns the same {same}")
        return "\n".join([*lines, *(f"wrong: {problem}" for problem in self.problems)])


class CheckError(ValueError):
    """Feedback that isn't heard, or can't be folded or removed; the message lists all that is wrong.

    Attributes:
        report: the `Check`.
    """

    def __init__(self, report: Check) -> None:
        count = "one thing is" if len(report.problems) == 1 else f"{len(report.problems)} things are"
        super().__init__("\n- ".join([f"check: {count} wrong:", *report.problems]))
        self.report = report


def check(model: nn.Module, *inputs: Any, **kwargs: Any) -> Check:
    """Check that each signal is heard, reads what it should, and can be folded; run this once after `attach`.

    Without inputs it looks at the model alone: whether feedback that was attached is gone, replaced, frozen or
    copied out of its model, and whether each read leads to the tensor that it was bound to. With a batch it also
    runs the model and its fold once each, and so finds layers that are never called, whose weight the model uses
    without calling them, and whose ``V`` gets no gradient; and it compares what both return. For that, ``V`` is a
    small random one: the answers don't depend on what ``V`` is.

    That is so for the mode that the model is in, the device that it is on, and these inputs: other modes may take
    other ways. What is heard in a layer and taken away by what follows, a normalisation or a softmax over keys,
    `diagnose` tells, which needs a backward pass. It leaves no trace, apart from what a forward writes inside of
    objects of other people's classes, such as a cache that isn't a module.

    >>> import torch, weight_feedback as wf
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> _ = wf.attach(model, into="0", summary=wf.CountSketch(3))
    >>> wf.check(model, torch.rand(5, 8))
    0: called once, V can get a gradient
    folded, the model returns the same bit for bit

    Args:
        model: a module with or without feedback.
        *inputs: a batch, as the model's forward takes it.
        **kwargs: passed on to the model's forward, so ``**batch`` works.

    Returns:
        What was found.

    Raises:
        CheckError: something is wrong; its ``report`` has what was found.
        ValueError: a layer reads its own output; or a batch is given, and the weights are spread over processes,
            have no values yet, or were made under torch.inference_mode.
    """
    if is_flattened(model):
        check_unsharded("check", model)  # what FSDP1 has put away can't even be looked at
    with unmoved(model), same_random_states(model):  # looking at weights that are computed may run their code
        report = _checked(model, Inputs(inputs, kwargs))
    if report.problems:
        raise CheckError(report)
    return report


def _checked(model: nn.Module, inputs: Inputs) -> Check:
    layers = feedback_layers(model)
    check_acyclic(layers)
    found = faults(model)
    lost = list(gone(model).values())
    if inputs.given and layers and not lost and not any(found.values()):
        _refuse_what_cannot_run(model)
        return _tried(innermost(model), layers, inputs)
    return Check(
        {name: LayerCheck(None, {}, None, tuple(wrong)) for name, wrong in found.items()},
        None,
        (*lost, *(problem for wrong in found.values() for problem in wrong)),
    )


def _refuse_what_cannot_run(model: nn.Module) -> None:
    check_unsharded("check", model)
    refuse_without_values("check", model)
    if any(tensor.is_inference() for tensor in model.parameters()):
        raise ValueError(
            "check: the model was built under torch.inference_mode, so nothing in it can be trained; build it "
            "outside of that"
        )


def _in_words(layer: LayerCheck) -> str:
    if layer.calls is None:
        return "not run"
    called = {0: "never called", 1: "called once"}.get(layer.calls, f"called {layer.calls} times")
    taken = "".join(f", {what} taken at {where}" for what, where in layer.used.items())
    can = "can" if layer.gradient else "can't"
    return f"{called}, V {can} get a gradient{taken}"


def _tried(model: nn.Module, layers: Mapping[str, FeedbackLayer], inputs: Inputs) -> Check:
    inner = {layer: name for name, layer in feedback_layers(model).items()}
    with torch.inference_mode(False):  # whose tensors never lead to an output
        trial = {
            f"{inner[layer]}.feedback_weight".lstrip("."): _trial(layer)
            for layer in layers.values()
            if "feedback_weight" in layer._parameters
        }
    both = aside(model, trial, functools.partial(_run_both, model, inputs))
    returned = "" if both.outputs else both.returned
    found = {name: _layer_check(name, layer, both.seen[layer], returned) for name, layer in layers.items()}
    problems = [problem for layer in found.values() for problem in layer.problems]
    if both.folded is None:
        return Check(found, None, (*problems, both.why))
    apart = difference(both.folded, both.outputs) if both.outputs else None
    if apart is not None and apart > both.limit:
        again = aside(model, trial, functools.partial(inputs.outputs, model))
        if difference(again, both.outputs) > both.limit:
            apart = None  # the model doesn't even equal itself
        else:
            problems.append(_unequal(apart, found, layers))
    return Check(found, apart, tuple(problems))


class _Both(NamedTuple):
    """What a forward of the model and one of its fold gave."""

    seen: dict[FeedbackLayer, Seen]
    outputs: list[Tensor]
    returned: str  # class of what the model returns
    folded: list[Tensor] | None  # what the fold returns, or else why there is none
    why: str
    limit: float  # of rounding


def _trial(layer: FeedbackLayer) -> Tensor:
    """Return a V that can be heard, whatever the layer's own is."""
    v = layer.feedback_weight
    with torch.no_grad():
        norm = float(layer.signal().norm())
    drawn = torch.randn(v.shape, generator=stream(0, "trial", *v.shape), device="cpu")
    size = _AUDIBLE / norm if 0 < norm < math.inf else _AUDIBLE
    return (drawn * size).to(v).requires_grad_()


def _run_both(model: nn.Module, inputs: Inputs) -> _Both:
    # First, as a forward may leave what can't be copied; and whatever the model's own copying raises is the answer.
    folded, why = None, ""
    try:
        folded = fold_anyway(model)
    except Exception as error:
        why = f"the model can't be folded: {error}"
    with torch.enable_grad(), same_random_states(model), autocast_types(model) as types:
        seen, outputs, returned = observed(model, inputs)
    got = None if folded is None else inputs.outputs(folded)
    return _Both(seen, outputs, returned, got, why, rounding(model, outputs, types))


def _layer_check(name: str, layer: FeedbackLayer, seen: Seen, returned: str) -> LayerCheck:
    problems = []
    mode = "training" if layer.training else "evaluation"
    if not seen.calls and seen.used:
        places = " and ".join(dict.fromkeys(seen.used.values()))
        problems.append(
            f"{name!r} is never called: the model takes its {' and '.join(seen.used)} at {places}, where z "
            "isn't heard; attach to another layer"
        )
    elif not seen.reached and returned:
        problems.append(
            f"{name!r} can't be heard in what the model returns, a {returned} without tensors; let it return "
            "tensors, or check a module that does, such as one that runs a generator to its end"
        )
    elif not seen.calls:
        problems.append(
            f"{name!r} is never called with these inputs in {mode} mode, so nobody hears its z; give inputs that "
            "use it, or attach to another layer"
        )
    elif not seen.reached:
        problems.append(
            f"{name!r} is called, but its V can't get a gradient: the outputs don't depend on it (it is detached, "
            "thrown away, or run under torch.no_grad), or the layer's forward was replaced"
        )
    gradient = seen.reached and layer.feedback_weight.requires_grad
    return LayerCheck(seen.calls, seen.used, gradient, tuple(problems))


def _unequal(apart: float, found: Mapping[str, LayerCheck], layers: Mapping[str, FeedbackLayer]) -> str:
    taken: dict[tuple[str, str], list[str]] = {}
    for name, layer in found.items():
        changed = ("bias",) if layers[name].conditioning == "concat" else ("weight", "bias")
        for what in [what for what in changed if what in layer.used]:
            taken.setdefault((what, layer.used[what]), []).append(repr(name))
    reasons = [f"the {what} of {', '.join(names)} at {where}" for (what, where), names in taken.items()]
    why = f"; fold changes what is taken elsewhere: {'; '.join(reasons)}" if taken else ""
    # Such code may look for a bias.
    without = [repr(name) for name, layer in found.items() if layer.used and layers[name].bias is None]
    if without:
        why += f"; fold gives a bias to {', '.join(without)}, whose weight is taken elsewhere and which had none"
    return f"the folded model returns something else: up to {apart:.2g} of the largest output{why}"
