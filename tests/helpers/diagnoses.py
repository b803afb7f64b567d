"""What the tests of diagnoses share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import weight_feedback as wf
from weight_feedback.diagnose import LayerDiagnosis, diagnose

Z = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)


def hearing(layer: nn.Module, z: Tensor = Z, init: str = "default", **options) -> nn.Module:
    """Give a lone layer a constant ``z``, in the layer's dtype."""
    torch.manual_seed(3)
    return wf.attach(layer, "", signal=wf.Constant(z.to(layer.weight.dtype)), init=init, **options)


def of(model: nn.Module, *inputs, **options) -> LayerDiagnosis:
    (layer,) = diagnose(model, *inputs, **options).layers.values()
    return layer


def adding(shift: float, z: float = 1.0) -> nn.Module:
    """A layer whose output without feedback is its input, and to which ``z`` adds ``shift``."""
    layer = hearing(nn.Linear(2, 2, bias=False), torch.tensor([z]))
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.feedback_weight.fill_(shift)
    return layer


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def one_sign(entries: np.ndarray) -> int:
    return 1 if all(entries > 0) else -1 if all(entries < 0) else 0


def decided(whole: list[np.ndarray], rest: list[np.ndarray], trailing: int) -> float:
    channels = rest[0].shape[-1 - trailing]
    count = 0
    for channel in range(channels):
        signs = [
            one_sign(np.concatenate([np.take(y, channel, axis=y.ndim - 1 - trailing).ravel() for y in outputs]))
            for outputs in (whole, rest)
        ]
        count += signs[0] != 0 and signs[0] != signs[1]
    return count / channels


class Calls(nn.Module):
    """Runs a function of its own modules."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args, **kwargs) -> Tensor:
        return self.function(self, *args, **kwargs)
