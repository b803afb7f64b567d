"""Fold the feedback of a whole model into plain layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weight_feedback.attach import feedback_layers, settle
from weight_feedback.integrity import refuse_misread
from weight_feedback.layers import fold_layers
from weight_feedback.running import Inputs, aside, autocast_types, difference, innermost, rounding
from weight_feedback.sharding import check_unsharded, is_fully_sharded
from weight_feedback.uses import uses_in_code


def fold(
    model: nn.Module,
    z: Tensor | Mapping[str, Tensor] | None = None,
    *,
    inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a copy of the model with plain layers in place of feedback layers, and ``z`` frozen.

    Outside autocast its output equals the model's, bit for bit, until the weights change; that of ``film`` layers
    to rounding.

    Args:
        model: the model; it isn't changed, and the copy shares no memory with it.
        z: heard instead of the signals: one vector of shape ``[k]`` for all layers, or one for each layer's
            name; default: what the signals say now.
        inputs: a batch, as a tensor, a sequence of arguments or a mapping of keyword arguments: both models are run
            on it, and what they return is compared. It is asked for where a module's code takes a bias or a weight
            that folding changes, without calling its layer.

    Returns:
        A copy without feedback, and without a cost for it.

    Raises:
        ValueError: a read is orphaned or has another shape (see `weight_feedback.check`), ``z`` has the wrong
            shape, FSDP manages the model, a module's forward was replaced by a function that copies share, the two
            models differ on ``inputs``, or they may differ and no inputs are given.
        KeyError: ``z`` names a layer that has no feedback.
    """
    if inputs is not None and z is not None:
        raise ValueError("fold: inputs= compares with what the model hears now, so z= can't be given as well")
    folded = fold_anyway(model, z)
    if inputs is not None:
        _check_equal(model, folded, inputs)
        return folded
    for name, layer in feedback_layers(model).items():
        changed = {"bias"} if layer.conditioning == "concat" else {"weight", "bias"}
        uses = [use for use in uses_in_code(model, name) if use.attribute in changed]
        if uses and bool(layer.feedback_weight.any()):
            raise ValueError(
                f"fold: {uses[0].where} takes the {uses[0].attribute} of {name!r} without calling it, and folding "
                "changes that; pass a batch as inputs= to see whether the folded model is the same nevertheless"
            )
    return folded


def fold_anyway(model: nn.Module, z: Tensor | Mapping[str, Tensor] | None = None) -> nn.Module:
    """Fold a model, whether or not the result is the same; see `fold`.

    Args:
        model: the model.
        z: heard instead of the signals.

    Raises:
        ValueError: as for `fold`, but for models that differ.
        KeyError: ``z`` names a layer that has no feedback.
    """
    if is_fully_sharded(model):
        check_unsharded("fold", model)
    refuse_misread(model)
    layers = feedback_layers(model)
    if isinstance(z, Mapping):
        for name in z:
            if name not in layers:
                raise KeyError(f"fold: z names {name!r}, which isn't a feedback layer; these are: {list(layers)}")
        heard: Mapping[str, Tensor | None] = z
    else:
        heard = dict.fromkeys(layers, z)
    with torch.inference_mode(False):
        folded = fold_layers(model, layers, heard)
    settle(folded)
    return folded


def _check_equal(model: nn.Module, folded: nn.Module, inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> None:
    if isinstance(inputs, Mapping):
        batch = Inputs((), inputs)
    else:
        batch = Inputs((inputs,) if isinstance(inputs, Tensor) else tuple(inputs), {})
    with autocast_types(model) as types:
        expected, found = (
            aside(each, {}, functools.partial(batch.outputs, each))
            for each in (innermost(model), innermost(folded))
        )
    if not expected:
        raise ValueError("fold: the model returns no tensors on inputs=, so nothing can be compared")
    if (apart := difference(found, expected)) > rounding(model, expected, types):
        raise ValueError(
            f"fold: on inputs= the folded model returns something else, up to {apart:.2g} of the largest output; "
            "weight_feedback.check(model, …) says more"
        )
