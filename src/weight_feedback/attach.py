"""Give a whole module feedback, move its time on, or take it away."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from weight_feedback.forwards import rebind
from weight_feedback.integrity import keep_record
from weight_feedback.layers import Conditioning, FeedbackLayer, Init
from weight_feedback.registry import feedback_class
from weight_feedback.selection import (
    Names,
    check_acyclic,
    default_reads,
    layers_that_hear,
    named_reads,
    takes_means,
)
from weight_feedback.sharding import check_unsharded, is_fully_sharded, summed
from weight_feedback.signals import OwnWeights, Signal, Zeros
from weight_feedback.summaries.base import Summary
from weight_feedback.uses import Use, uses_in_code

#: Modules with a fused path, which calls no submodule; the attribute that opens it; its value when shut.
_FUSED = (
    (nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0),
    (nn.TransformerEncoder, "use_nested_tensor", False),
)


#: Where DDP looks for names, in the module that it is given.
_IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"


def attach(
    model: nn.Module,
    into: str | nn.Module | Sequence[str | nn.Module],
    *,
    reads: str | Sequence[str | nn.Module] | None = None,
    summary: Summary | None = None,
    signal: Signal | None = None,
    detach: bool = True,
    init: Init = "zeros",
    conditioning: Conditioning = "concat",
) -> nn.Module:
    """Give layers of a model a view of the model's own weights, or another signal.

    In place: a layer stays the same object under the same name, with the same parameters, and gains
    ``feedback_weight`` and ``signal``. With ``init="zeros"`` the model's output stays the same, bit for bit; only
    around `torch.nn.TransformerEncoderLayer` it may differ by rounding in evaluation: the fused path of that layer
    and of `torch.nn.TransformerEncoder`, which calls no submodule, is shut until `remove` or `fold`.

    >>> import torch, weight_feedback as wf
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> _ = wf.attach(model, into="0", reads=["0", "2"], summary=wf.DenseProjection(3))
    >>> wf.signals(model)["0"]().shape
    torch.Size([3])

    Args:
        model: the model, changed in place.
        into: the layers that are to hear the signal: a name as in ``model.named_modules()``, a glob in which
            ``*`` stands for one part of a name (``"blocks.*.mlp.fc1"``), a module of the model, or several of
            these. Each is a `torch.nn.Linear`, `torch.nn.Conv1d`, `torch.nn.Conv2d`, `torch.nn.Conv3d` or
            transformers' ``Conv1D``; other modules that a glob matches are passed over.
        reads: what the signal reads, in order: names of parameters (``"fc2.weight"``), of modules (``"fc2"``
            means ``"fc2.weight"``), or of a feedback layer's ``"fc1.full_weight"``, which includes ``V``; globs
            over parameters and modules; or modules themselves. ``"all"`` reads every floating-point parameter
            except ``V``. Tied weights are read once, by the first of their names.
            Default: for each layer, its own weight and those of all later layers of these kinds.
        summary: an unbound summary of what is read; each layer gets its own copy.
        signal: any signal, in place of ``reads`` and ``summary``; several layers share it.
        detach: whether gradients stop at the weights that are read.
        init: initial ``V``: ``"zeros"``, or ``"default"`` for uniform ``±1/√(fan_in + k)``.
        conditioning: how ``z`` acts: ``"concat"``, which equals a bias, or ``"film"``, scale and shift.

    Returns:
        The model.

    Raises:
        KeyError: a name isn't in the model, or a glob matches nothing; near matches are named.
        TypeError: a layer is of a kind that can't be given feedback, is quantised or never called, or other code
            has replaced its forward.
        ValueError: a layer has feedback already, or attributes of its own with the names that feedback needs;
            something is lazy still, offloaded, quantised, complex or on another device; FSDP manages the model, a
            layer reads a weight whose parametrisation runs that layer, or neither or both of ``summary`` and
            ``signal`` are given.

    Warns:
        UserWarning: a normalisation that directly follows a layer takes away what ``z`` adds, or a module's code
            takes the layer's weight or bias without calling it.
    """
    _check_source(summary, signal, reads)
    refuse_sharded(model)
    names = Names(model)
    layers = layers_that_hear(names, into)
    for name in layers:
        _warn_of_norm(model, name)
    _warn_of_uses(model, layers)
    try:
        # What is made in inference mode can't be trained outside of it.
        with torch.inference_mode(False):
            hearing = [_become_feedback_layer(layer) for layer in layers.values()]
            if signal is not None:
                for layer in hearing:
                    layer.add_feedback(signal, init, conditioning)
            else:
                _add_own_weights(names, hearing, reads, cast(Summary, summary), detach, init, conditioning)
        check_acyclic(feedback_layers(model))
        _check_devices(layers)
    except BaseException:
        _take_away(layers.values())
        raise
    settle(model)
    return model


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model that can't be given feedback any more.

    Args:
        model: any.

    Raises:
        ValueError: FSDP manages it.
    """
    if is_fully_sharded(model):
        raise ValueError("attach: FSDP manages the model already; attach first, and call fully_shard after that")


def _check_source(summary: Summary | None, signal: Signal | None, reads: object) -> None:
    if (summary is None) == (signal is None):
        raise ValueError(
            "attach needs either summary= (of the model's own weights) or signal=, got "
            + ("neither" if signal is None else "both")
        )
    if signal is not None and reads is not None:
        raise ValueError("attach: reads= belongs to summary=; what signal= reads was fixed when it was made")


def _warn_of_norm(model: nn.Module, name: str) -> None:
    parent, _, last = name.rpartition(".")
    above = model.get_submodule(parent)
    if not isinstance(above, nn.Sequential):
        return
    children = list(above._modules)
    after = children[children.index(last) + 1 :]
    norm = above._modules[after[0]] if after else None
    if norm is None or not takes_means(norm):
        return
    when = "in training, " if isinstance(norm, _BatchNorm) else ""
    warnings.warn(
        f"attach: {when}the normalisation after {name!r} subtracts each channel's mean and divides by its spread, "
        "and so takes away all that z does, shift and scale: the layer learns nothing from z; let another one hear",
        UserWarning,
        stacklevel=3,
    )


def _warn_of_uses(model: nn.Module, names: Iterable[str]) -> None:
    places: dict[Use, list[str]] = {}
    for name in names:
        for use in uses_in_code(model, name):
            places.setdefault(use, []).append(repr(name))
    taken = [f"{use.where} takes the {use.attribute} of {', '.join(layers)}" for use, layers in places.items()]
    if taken:
        warnings.warn(
            f"attach: there is code that uses a layer without calling it, where z isn't heard: {'; '.join(taken)}; "
            "run weight_feedback.check(model, …) with a batch to see whether these layers are called too",
            UserWarning,
            stacklevel=3,
        )


def _become_feedback_layer(layer: nn.Module) -> FeedbackLayer:
    # The class is swapped rather than the object, so that optimisers, hooks and other references stay right.
    plain = type(layer)
    layer.__class__ = feedback_class(plain)  # type: ignore[assignment]
    rebind(layer, plain)
    return cast(FeedbackLayer, layer)


def _check_devices(layers: Mapping[str, nn.Module]) -> None:
    for name, layer in cast(Mapping[str, FeedbackLayer], layers).items():
        if not layer.signal.reads:
            continue
        own, first = layer.feedback_weight.device, layer.signal.reads[0]  # whose device all others share
        if (device := first.tensor().device) != own:
            raise ValueError(
                f"attach: {name!r} is on {own}, and can't read {first.name} on {device}; read weights of its own "
                "device"
            )


def _add_own_weights(
    names: Names,
    layers: Sequence[FeedbackLayer],
    reads: str | Sequence[str | nn.Module] | None,
    summary: Summary,
    detach: bool,
    init: Init,
    conditioning: Conditioning,
) -> None:
    k = summary.out_features
    if k is not None:
        # V first, so that it can be among what is read.
        for layer in layers:
            layer.add_feedback(Zeros(k), init, conditioning)
    for layer in layers:
        found = default_reads(names, layer) if reads is None else named_reads(names, reads)
        own = OwnWeights(found, copy.deepcopy(summary), detach=detach)
        if k is None:
            layer.add_feedback(own, init, conditioning)
        else:
            layer.signal = own


def _take_away(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, FeedbackLayer):
            layer.remove_feedback()


def attach_silently(names: Names, name: str, k: int, conditioning: Conditioning) -> None:
    """Give a layer feedback that says nothing for now, without a warning; `settle` the model after the last one.

    Args:
        names: those of the model, looked up once for all its layers.
        name: of the layer.
        k: the size of its signal.
        conditioning: how the signal acts.

    Raises:
        KeyError: the model has no such layer.
        TypeError: as for `attach`.
        ValueError: as for `attach`.
    """
    layers = layers_that_hear(names, name)
    try:
        with torch.inference_mode(False):
            for layer in layers.values():
                _become_feedback_layer(layer).add_feedback(Zeros(k), "zeros", conditioning)
    except BaseException:
        _take_away(layers.values())
        raise


def settle(model: nn.Module) -> None:
    """Put right what depends on which layers hear.

    Args:
        model: changed in place.
    """
    keep_record(model)
    _set_fused_paths(model)
    # What follows from seeds is the same in all processes; DDP would send it at every forward.
    ignored: list[str] = model.__dict__.pop(_IGNORED_BY_DDP, [])
    kept = [name for name in ignored if ".signal." not in f".{name}"]
    drawn = [
        f"{prefix}{'.' * bool(prefix)}signal.{name}"
        for prefix, layer in feedback_layers(model).items()
        for name in _buffers_that_are_drawn(layer.signal)
    ]
    if kept or drawn:
        model.__dict__[_IGNORED_BY_DDP] = [*kept, *drawn]


def _buffers_that_are_drawn(signal: Signal) -> Iterator[str]:
    for name, module in signal.named_modules():
        for buffer in sorted(module._non_persistent_buffers_set):
            yield f"{name}.{buffer}".lstrip(".")


def _set_fused_paths(model: nn.Module) -> None:
    """Shut each fused path around a feedback layer, which it would not call, and open it again without one."""
    for module in model.modules():
        for kind, attribute, shut in _FUSED:
            if isinstance(module, kind):
                hears = any(isinstance(part, FeedbackLayer) for part in module.modules())
                kept = module.__dict__
                if hears and "_fused_path" not in kept:
                    kept["_fused_path"], kept[attribute] = kept.get(attribute, shut), shut
                elif not hears and "_fused_path" in kept:
                    kept[attribute] = kept.pop("_fused_path")


def remove(model: nn.Module) -> nn.Module:
    """Take all feedback away, in place: every feedback layer is the plain layer that it was.

    Args:
        model: a module with or without feedback.

    Returns:
        The model.

    Raises:
        ValueError: FSDP2 manages the model.
    """
    if is_fully_sharded(model):
        check_unsharded("remove", model)
    _take_away(feedback_layers(model).values())
    settle(model)
    return model


def advance(model: nn.Module) -> None:
    """Move the time of all signals on by one step; call it once after each optimiser step.

    Args:
        model: a module with or without feedback.
    """
    for signal in _every_signal(model):
        signal.advance()


def precompute(model: nn.Module, steps: int) -> None:
    """Draw now what signals with time will say in the next steps, so that `advance` needn't wait for the device.

    `Noise` and `Clock` follow from a step's number by work on the CPU: `advance` must fetch the number from the
    device, and send what it draws there. After this function so many calls of it do nothing but work on the device;
    the ones after them draw for themselves again. The values are the same, bit for bit.

    A CUDA graph that replays `advance` needs this before each such number of replays, and the number must stay the
    same, since the graph reads where it read when it was recorded; ``precompute(model, 0)`` when no more is
    replayed.

    Args:
        model: a module with or without feedback.
        steps: how many calls of `advance` are to come; 0 forgets what was drawn.

    Raises:
        ValueError: ``steps`` is negative.
    """
    if steps < 0:
        raise ValueError(f"precompute: steps must be at least 0, got {steps}")
    for signal in _every_signal(model):
        signal.precompute(steps)


def _every_signal(model: nn.Module) -> list[Signal]:
    """Return all signals, and those inside of others before them; each once."""
    every = [part for signal in signals(model).values() for part in reversed([*signal.modules()])]
    return [part for part in dict.fromkeys(every) if isinstance(part, Signal)]


def refresh(model: nn.Module) -> None:
    """Compute what layers hear of weights that are spread over processes by FSDP2 or tensor parallel.

    Within a forward, FSDP2 holds the weights of the layer that runs whole, and perhaps cast, and others as shards:
    so each process projects its shards of the full-precision weights beforehand, and all-reduces add the shares up,
    a single one of ``k`` numbers for all signals together where all weights are sharded alike. What results is
    the unsharded ``z`` to rounding, and is heard until the next call.

    Call it in all processes, before the first forward and after each optimiser step, ahead of `advance`. Where
    weights aren't sharded it does nothing: they are read at each forward.

    Args:
        model: a module with or without feedback.

    Raises:
        TypeError: a summary of sharded weights isn't a projection, and so can't be added up.
        ValueError: gradients are wanted through sharded weights (``detach=False``).
    """
    own = [part for signal in signals(model).values() for part in signal.modules() if isinstance(part, OwnWeights)]
    spread = [part for part in dict.fromkeys(own) if part.sharded]
    for part in own:
        part.hold(None)
    if spread:
        for part, z in zip(spread, summed([[*part.shares()] for part in spread]), strict=True):
            part.hold(z)


def feedback_layers(model: nn.Module) -> dict[str, FeedbackLayer]:
    """Return the feedback layers of a model.

    Args:
        model: a module with or without feedback.

    Returns:
        Name to layer, in the order of ``model.named_modules()``.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, FeedbackLayer)}


def feedback_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return every ``feedback_weight`` of a model, such as for an optimiser's group without weight decay.

    Args:
        model: a module with or without feedback.

    Returns:
        Pairs of name and parameter, as ``model.named_parameters()`` has them.
    """
    return [
        (f"{name}.feedback_weight" if name else "feedback_weight", layer.feedback_weight)
        for name, layer in feedback_layers(model).items()
    ]


def signals(model: nn.Module) -> dict[str, Signal]:
    """Return what the feedback layers hear.

    Args:
        model: a module with or without feedback.

    Returns:
        Name of the feedback layer to its signal.
    """
    return {name: layer.signal for name, layer in feedback_layers(model).items()}
