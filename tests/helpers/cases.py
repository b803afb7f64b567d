"""Every summary, signal and layer once: the generic tests run over these lists.

A new summary, signal or layer needs one entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

import weight_feedback as wf
from helpers import reference
from weight_feedback.layers import FeedbackConv1d, FeedbackConv2d, FeedbackConv3d

Shapes = tuple[tuple[int, ...], ...]
MATRICES: Shapes = ((4, 6), (3, 4))


@dataclass(frozen=True)
class SummaryCase:
    """``make(seed)`` gives an unbound summary of ``k`` numbers; ``naive`` computes them from arrays."""

    name: str
    make: Callable[[int], wf.Summary]
    shapes: Shapes
    k: int
    naive: Callable[[wf.Summary, list[np.ndarray]], np.ndarray]
    seeded: bool = False
    padding: int = 0
    names: tuple[str, ...] = field(default=("fc1.weight", "fc2.weight", "fc3.weight"))

    def weights(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in zip(self.names, self.shapes, strict=False)
        }

    def bound(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[wf.Summary, list[Tensor]]:
        weights = self.weights(dtype)
        return self.make(seed).bind(weights), list(weights.values())


def _pool_case(name, kind, reduce, shapes, kernels, transpose, fill, padding, k) -> SummaryCase:
    return SummaryCase(
        name,
        lambda _: kind(kernels, k, fill=fill, transpose=transpose),
        shapes,
        k,
        lambda _, weights: reference.pooled(weights, kernels, transpose, [fill] * padding, reduce),
        padding=padding,
    )


def _dense_case(distribution, scale, shapes=MATRICES, k=5) -> SummaryCase:
    return SummaryCase(
        f"dense-{distribution}-{scale}",
        lambda seed: wf.DenseProjection(k, distribution=distribution, scale=scale, seed=seed),
        shapes,
        k,
        lambda summary, weights: reference.projected(weights, summary.matrix.numpy(), float(summary.gain)),
        seeded=True,
    )


def _matrix_case(name, make, matrix, shapes, k) -> SummaryCase:
    """A linear map that is checked against the matrix that it stands for."""
    return SummaryCase(
        name,
        make,
        shapes,
        k,
        lambda summary, weights: reference.projected(weights, matrix(summary), float(summary.gain)),
        seeded=True,
    )


def _sketch(summary: wf.CountSketch) -> np.ndarray:
    return reference.count_sketch(summary.signs.numpy(), summary.pitches, summary.out_features)


def _kronecker(summary: wf.KroneckerProjection) -> np.ndarray:
    sides = [[summary.get_buffer(f"{side}{i}").numpy() for side in "ab"] for i in range(len(summary.shapes))]
    return np.concatenate([np.kron(a, b) for a, b in sides], axis=1)


def _moments_case(name, quantiles, norms, shapes, k) -> SummaryCase:
    return SummaryCase(
        name,
        lambda _: wf.Moments(quantiles, norms),
        shapes,
        k,
        lambda _, weights: reference.moments(weights, quantiles, norms),
    )


_CONV: Shapes = ((4, 2, 3, 3), (4, 7))
SUMMARIES = [
    _pool_case("max", wf.MaxPool, reference.largest, MATRICES, ((2, 3), (1, 2)), (False, True), 1.0, 3, 13),
    _pool_case("max-conv", wf.MaxPool, reference.largest, _CONV, ((2, 4), (2, 2)), (False, False), -0.5, 0, 14),
    _pool_case("max-bias", wf.MaxPool, reference.largest, ((7,),), ((1, 2),), (True,), 0.0, 1, 4),
    _pool_case("avg", wf.AvgPool, reference.average, MATRICES, ((2, 3), (1, 2)), (False, True), 1.0, 3, 13),
    _pool_case("avg-conv", wf.AvgPool, reference.average, _CONV, ((2, 4), (2, 2)), (False, False), 2.0, 1, 15),
    _dense_case("uniform", "xavier"),
    _dense_case("gaussian", "isometry"),
    _dense_case("rademacher", "adjoint-isometry", shapes=((4, 2, 3, 3), (7,), ())),
    _dense_case("uniform", "calibrated"),
    _matrix_case("sketch", lambda seed: wf.CountSketch(5, seed=seed), _sketch, MATRICES, 5),
    _matrix_case(
        "sketch-conv-calibrated",
        lambda seed: wf.CountSketch(6, seed=seed, scale="calibrated"),
        _sketch,
        ((4, 2, 3, 3), (7,), ()),
        6,
    ),
    _matrix_case("sketch-8", lambda seed: wf.CountSketch(16, nonzeros=8, seed=seed), _sketch, MATRICES, 16),
    _matrix_case("kronecker", lambda seed: wf.KroneckerProjection(6, seed=seed), _kronecker, MATRICES, 6),
    _matrix_case(
        "kronecker-conv",
        lambda seed: wf.KroneckerProjection(4, factors=(4, 1), seed=seed, scale="xavier"),
        _kronecker,
        ((4, 2, 3, 3), (7,), ()),
        4,
    ),
    _moments_case("moments", (0.0, 0.25, 0.5, 0.75, 1.0), (1.0, 2.0, math.inf), MATRICES, 20),
    _moments_case("moments-own", (0.1, 0.9), (3.0,), ((4, 2, 3, 3), (7,), (1,)), 15),
]
SEEDED = [case for case in SUMMARIES if case.seeded]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small network, the same at every call, whose layer ``"2"`` hears the signals below."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def reads(model: nn.Sequential) -> list[wf.Read]:
    return [wf.Read(model[0], "weight", "0.weight"), wf.Read(model[2], "weight", "2.weight")]


IMAGES = torch.linspace(-1, 1, 8 * 100).sin().view(8, 1, 10, 10)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.fc1 = nn.Linear(48, 6)
        self.fc2 = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        return self.fc2(torch.tanh(self.fc1(nn.functional.max_pool2d(x, 2).flatten(1))))


def net() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet().eval()


def attached(into: str = "fc1", k: int = 3, init: str = "default", **options) -> ConvNet:
    torch.manual_seed(1)
    return wf.attach(net(), into, summary=wf.DenseProjection(k), init=init, **options)


@dataclass(frozen=True)
class SignalCase:
    """``make(model)`` gives a signal of ``k`` numbers; ``own`` says whether it follows the weights at once."""

    name: str
    make: Callable[[nn.Sequential], wf.Signal]
    k: int
    own: bool = False
    timed: bool = False
    gradient: bool = False

    def attached(self, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        model = network(dtype)
        wf.attach(model, "2", signal=self.make(model).to(dtype), init="zeros")
        with torch.no_grad():
            model[2].feedback_weight.copy_(torch.linspace(-1, 1, 3 * self.k).view(3, self.k))
        return model


def _z(k: int = 6) -> Tensor:
    return torch.linspace(-1, 3, k, dtype=torch.float64) ** 2


SIGNALS = [
    SignalCase("own", lambda m: wf.OwnWeights(reads(m), wf.DenseProjection(4)), 4, own=True),
    SignalCase(
        "own-differentiable",
        lambda m: wf.OwnWeights(reads(m), wf.Moments(), detach=False),
        20,
        own=True,
        gradient=True,
    ),
    SignalCase("permuted", lambda m: wf.Permuted(reads(m), wf.DenseProjection(4), seed=3), 4, own=True),
    SignalCase("zeros", lambda _: wf.Zeros(4), 4),
    SignalCase("received", lambda _: wf.Received(4), 4),
    SignalCase("constant", lambda _: wf.Constant(_z()), 6),
    SignalCase("noise", lambda _: wf.Noise(_z(), padding=2, seed=5), 6, timed=True),
    SignalCase("noise-fixed", lambda _: wf.Noise(_z(), redraw=False), 6),
    SignalCase("clock", lambda _: wf.Clock(5, max_period=100), 5, timed=True),
    SignalCase("stale", lambda m: wf.Stale(wf.OwnWeights(reads(m), wf.Moments()), lag=2), 20),
    SignalCase("stale-clock", lambda _: wf.Stale(wf.Clock(4), lag=1), 4, timed=True),
]


@dataclass(frozen=True)
class LayerCase:
    """``base()`` gives the plain layer, ``make(k)`` the feedback layer, ``shape`` is that of an input."""

    name: str
    base: Callable[[], nn.Module]
    make: Callable[[int], wf.FeedbackLayer]
    shape: tuple[int, ...]


def _linear(name: str, shape: tuple[int, ...], **options) -> LayerCase:
    return LayerCase(
        name,
        lambda: nn.Linear(6, 5, **options),
        lambda k: wf.FeedbackLinear(6, 5, k, **options),
        shape,
    )


def _conv(name: str, shape: tuple[int, ...] = (3, 4, 9, 8), layer=FeedbackConv2d, **options) -> LayerCase:
    return LayerCase(
        name,
        lambda: layer.base(4, 6, 3, **options),
        lambda k: layer(4, 6, 3, k, **options),
        shape,
    )


def _conv1d(name: str, shape: tuple[int, ...] = (3, 4, 9), **options) -> LayerCase:
    return _conv(name, shape, FeedbackConv1d, **options)


def _conv3d(name: str, shape: tuple[int, ...] = (2, 4, 5, 6, 7), **options) -> LayerCase:
    return _conv(name, shape, FeedbackConv3d, **options)


LAYERS = [
    _linear("linear", (7, 6)),
    _linear("linear-single", (6,)),
    _linear("linear-deep", (2, 3, 6), bias=False),
    _linear("linear-no-bias", (7, 6), bias=False),
    _conv("conv"),
    _conv("conv-no-bias", bias=False),
    _conv("conv-single", (4, 9, 8)),
    _conv("conv-stride", stride=(2, 1), padding=1),
    _conv("conv-same", padding="same"),
    _conv("conv-groups", groups=2),
    _conv("conv-dilation", dilation=2, padding=(2, 1)),
    _conv("conv-circular", padding=1, padding_mode="circular"),
    _conv("conv-reflect", padding=1, padding_mode="reflect"),
    _conv1d("conv1d"),
    _conv1d("conv1d-no-bias", bias=False),
    _conv1d("conv1d-single", (4, 9)),
    _conv1d("conv1d-stride", stride=2, padding=1),
    _conv1d("conv1d-groups", groups=2),
    _conv1d("conv1d-dilation", dilation=2, padding="same", padding_mode="circular"),
    _conv3d("conv3d"),
    _conv3d("conv3d-no-bias", bias=False),
    _conv3d("conv3d-single", (4, 5, 6, 7)),
    _conv3d("conv3d-stride", stride=(2, 1, 3), padding=1),
    _conv3d("conv3d-groups", groups=2, dilation=(1, 2, 1)),
]


def ids(cases: list) -> list[str]:
    return [case.name for case in cases]
