"""Give a whole module feedback, move its time on, fold the feedback into plain layers, or take it away."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from weight_feedback.layers import FEEDBACK_LAYERS, Conditioning, FeedbackLayer, Init, fold_layers
from weight_feedback.signals import OwnWeights, Read, Signal, Zeros
from weight_feedback.summaries.base import Summary


def attach(
    model: nn.Module,
    into: str,
    *,
    reads: Sequence[str] | None = None,
    summary: Summary | None = None,
    signal: Signal | None = None,
    detach: bool = True,
    init: Init = "zeros",
    conditioning: Conditioning = "concat",
) -> nn.Module:
    """Give one layer of a model a view of the model's own weights, or another signal.

    In place: the layer stays the same object under the same name, with the same parameters, and gains
    ``feedback_weight`` and ``signal``. With ``init="zeros"`` the model's output stays the same, bit for bit.

    >>> import torch, weight_feedback as wf
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> _ = wf.attach(model, into="0", reads=["0", "2"], summary=wf.DenseProjection(3))
    >>> wf.signals(model)["0"]().shape
    torch.Size([3])

    Args:
        model: the model, changed in place.
        into: name of the layer that is to hear the signal, as in ``model.named_modules()``; a `torch.nn.Linear`
            or `torch.nn.Conv2d`.
        reads: what the signal reads, in order: names of parameters (``"fc2.weight"``), of modules (``"fc2"``
            means ``"fc2.weight"``), or of a feedback layer's ``"fc1.full_weight"``, which includes ``V``.
            Default: the weight of the layer itself and those of all later layers of these two kinds.
        summary: an unbound summary of what is read; it is copied.
        signal: any signal, in place of ``reads`` and ``summary``.
        detach: whether gradients stop at the weights that are read.
        init: initial ``V``: ``"zeros"``, or ``"default"`` for uniform ``±1/√(fan_in + k)``.
        conditioning: how ``z`` acts: ``"concat"``, which equals a bias, or ``"film"``, scale and shift.

    Returns:
        The model.

    Raises:
        KeyError: a name isn't in the model; near matches are named.
        TypeError: the layer is of a kind that can't be given feedback.
        ValueError: the layer has feedback already, or neither or both of ``summary`` and ``signal`` are given.
    """
    if (summary is None) == (signal is None):
        raise ValueError(
            "attach needs either summary= (of the model's own weights) or signal=, got "
            + ("neither" if signal is None else "both")
        )
    if signal is not None and reads is not None:
        raise ValueError("attach: reads= belongs to summary=; what signal= reads was fixed when it was made")
    layer = _module(model, into)
    plain_class = type(layer)
    if isinstance(layer, FeedbackLayer):
        raise ValueError(f"attach: {into!r} has feedback already; call weight_feedback.remove(model) first")
    if plain_class not in FEEDBACK_LAYERS:
        kinds = ", ".join(kind.__name__ for kind in FEEDBACK_LAYERS)
        raise TypeError(f"attach: {into!r} must be one of {kinds}, got {plain_class.__name__}")
    # The class is swapped rather than the object, so that optimisers, hooks and other references stay right.
    layer.__class__ = FEEDBACK_LAYERS[plain_class]
    feedback_layer = cast(FeedbackLayer, layer)
    try:
        if signal is not None:
            feedback_layer.add_feedback(signal, init, conditioning)
        else:
            assert summary is not None
            names = _default_reads(model, feedback_layer) if reads is None else reads
            _add_own_weights(model, feedback_layer, names, copy.deepcopy(summary), detach, init, conditioning)
    except BaseException:
        feedback_layer.remove_feedback()
        raise
    return model


def _add_own_weights(
    model: nn.Module,
    layer: FeedbackLayer,
    names: Sequence[str],
    summary: Summary,
    detach: bool,
    init: Init,
    conditioning: Conditioning,
) -> None:
    k = summary.out_features
    if k is not None:
        # V first, so that it can be among what is read.
        layer.add_feedback(Zeros(k), init, conditioning)
    own = OwnWeights([_resolve(model, name) for name in names], summary, detach=detach)
    if k is None:
        layer.add_feedback(own, init, conditioning)
    else:
        layer.signal = own


def remove(model: nn.Module) -> nn.Module:
    """Take all feedback away, in place: every feedback layer is the plain layer that it was.

    Args:
        model: a module with or without feedback.

    Returns:
        The model.
    """
    for layer in feedback_layers(model).values():
        layer.remove_feedback()
    return model


def fold(model: nn.Module, z: Tensor | Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a copy of the model with plain layers in place of feedback layers, and ``z`` frozen.

    Outside autocast its output equals the model's, bit for bit, until the weights change.

    Args:
        model: the model; it isn't changed, and the copy shares no memory with it.
        z: heard instead of the signals: one vector of shape ``[k]`` for all layers, or one for each layer's
            name; default: what the signals say now.

    Returns:
        A copy without feedback, and without a cost for it.

    Raises:
        ValueError: a read is orphaned (see `check`), or ``z`` has the wrong shape.
        KeyError: ``z`` names a layer that has no feedback.
    """
    check(model)
    layers = feedback_layers(model)
    if isinstance(z, Mapping):
        for name in z:
            if name not in layers:
                raise KeyError(f"fold: z names {name!r}, which isn't a feedback layer; these are: {list(layers)}")
        heard: Mapping[str, Tensor | None] = z
    else:
        heard = dict.fromkeys(layers, z)
    return fold_layers(model, layers, heard)


def advance(model: nn.Module) -> None:
    """Move the time of all signals on by one step; call it once after each optimiser step.

    Args:
        model: a module with or without feedback.
    """
    for signal in dict.fromkeys(signals(model).values()):
        signal.advance()


def feedback_layers(model: nn.Module) -> dict[str, FeedbackLayer]:
    """Return the feedback layers of a model.

    Args:
        model: a module with or without feedback.

    Returns:
        Name to layer, in the order of ``model.named_modules()``.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, FeedbackLayer)}


def signals(model: nn.Module) -> dict[str, Signal]:
    """Return what the feedback layers hear.

    Args:
        model: a module with or without feedback.

    Returns:
        Name of the feedback layer to its signal.
    """
    return {name: layer.signal for name, layer in feedback_layers(model).items()}


def check(model: nn.Module) -> None:
    """Check that every read still leads to a module of this model.

    A module that was replaced after feedback was attached, or a submodule that was copied alone, leaves a signal
    that reads weights which nobody trains any more.

    Args:
        model: a module with or without feedback.

    Raises:
        ValueError: a signal reads a module that isn't in the model.
    """
    present = set(model.modules())
    for name, signal in signals(model).items():
        for read in signal.reads:
            if read.module not in present:
                raise ValueError(
                    f"the signal of {name!r} reads {read.name}, whose module is no longer in the model: it was "
                    "replaced, or a part of the model was copied alone; remove the feedback and attach it again"
                )


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        raise KeyError(f"the model has no module {name!r}{_near(name, modules)}")
    return cast(nn.Module, modules[name])


def _resolve(model: nn.Module, name: str) -> Read:
    """Find what a name reads: a module's weight, or the attribute after the last dot."""
    modules = dict(model.named_modules())
    if name in modules and isinstance(getattr(modules[name], "weight", None), Tensor):
        return Read(modules[name], "weight", f"{name}.weight" if name else "weight")
    owner, _, attribute = name.rpartition(".")
    if owner in modules and isinstance(getattr(modules[owner], attribute, None), Tensor):
        return Read(modules[owner], attribute, name)
    if attribute == "full_weight" and isinstance(modules.get(owner), FeedbackLayer):
        raise KeyError(
            f"can't read {name!r}: it holds V, whose size isn't known before this summary is bound; "
            "give the summary its out_features, or read the weight alone"
        )
    known = [*modules, *dict(model.named_parameters())]
    raise KeyError(f"can't read {name!r}: the model has no such parameter, nor a module of that name with a "
                   f"weight{_near(name, known)}")  # fmt: skip


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [k for k in known if k], cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _default_reads(model: nn.Module, layer: FeedbackLayer) -> list[str]:
    kinds = (*FEEDBACK_LAYERS, FeedbackLayer)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    return names[names.index(next(name for name, module in model.named_modules() if module is layer)) :]
