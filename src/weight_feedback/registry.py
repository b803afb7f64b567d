"""What there is by name: summaries, and for each plain layer the layer that it becomes with feedback."""

from __future__ import annotations

import functools
import importlib
from typing import cast

import torch
from torch import Tensor, nn

from weight_feedback import summaries
from weight_feedback.layers import (
    FeedbackConv1d,
    FeedbackConv2d,
    FeedbackConv3d,
    FeedbackLayer,
    FeedbackLinear,
    rebased,
)
from weight_feedback.summaries import Summary


def _summaries() -> dict[str, type[Summary]]:
    found = {}
    for name in summaries.__all__:
        exported = getattr(summaries, name)
        if isinstance(exported, type) and issubclass(exported, Summary) and exported.kind is not None:
            found[exported.kind] = exported
    return found


#: The summaries by their ``kind``: ``max``, ``average``, ``dense``, ``count``, ``kronecker`` and ``moments``.
SUMMARIES = _summaries()


class _TransposedLinear(FeedbackLayer):
    """`transformers.pytorch_utils.Conv1D` with feedback: a linear layer whose weight is ``[in, out]``."""

    _out_axis = 1
    _trailing = 0

    def _compute(self, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        rows = torch.addmm(cast(Tensor, bias), input.view(-1, input.size(-1)), self.weight)
        return rows.view(*input.shape[:-1], self.weight.shape[1])


#: From each class of PyTorch's that can be given feedback to the class that has it.
FEEDBACK_LAYERS: dict[type[nn.Module], type[FeedbackLayer]] = {
    layer.base: layer for layer in (FeedbackLinear, FeedbackConv1d, FeedbackConv2d, FeedbackConv3d)
}


def feedback_class(plain: type[nn.Module]) -> type[FeedbackLayer] | None:
    """Return the class that a layer has once it is given feedback.

    Args:
        plain: the class of the layer: one of `FEEDBACK_LAYERS`, or ``transformers.pytorch_utils.Conv1D``, which is
            known by its name, so that transformers need not be installed; or what
            `torch.nn.utils.parametrize.register_parametrization` made of one of these.

    Returns:
        The class with feedback, or None where there is none.
    """
    if (plain.__module__, plain.__qualname__) == ("transformers.pytorch_utils", "Conv1D"):
        return _conv1d_of_transformers(plain)  # type: ignore[arg-type]
    if plain.__module__ == "torch.nn.utils.parametrize":
        beneath = feedback_class(plain.__bases__[0])
        return beneath and cast(type[FeedbackLayer], rebased(plain, beneath))
    return FEEDBACK_LAYERS.get(plain)


@functools.cache
def _conv1d_of_transformers(plain: type[nn.Module]) -> type[FeedbackLayer]:
    parts = {"base": plain, "__module__": __name__, "__doc__": _TransposedLinear.__doc__}
    return cast(type[FeedbackLayer], type("FeedbackTransformersConv1D", (_TransposedLinear, plain), parts))


def __getattr__(name: str) -> type[FeedbackLayer]:
    """Find the class of a pickled layer that is made on demand."""
    if name != "FeedbackTransformersConv1D":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _conv1d_of_transformers(importlib.import_module("transformers.pytorch_utils").Conv1D)
