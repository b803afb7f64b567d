"""Projections, with moments over many seeds.

Tolerances are five standard errors of the estimate, from its own variance: a right implementation would miss one
with probability 6e-7 for new seeds, and these seeds are fixed.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import weight_feedback as wf

K, SEEDS = 8, 1500
DISTRIBUTIONS = ["uniform", "gaussian", "rademacher"]
# Excess kurtosis of an entry: that of the uniform, the normal and the two-point distribution.
EXCESS = {"uniform": -1.2, "gaussian": 0.0, "rademacher": -2.0}
# A few large weights, so that q = ‖w‖₄⁴/‖w‖₂⁴ is far from zero and shows.
W = torch.tensor([3.0, -2.0, 1.0, 1.0, 0.5, -0.5, 0.25, 0.1, 0.1, 0.0], dtype=torch.float64)


def projection(seed: int = 0, k: int = K, w: Tensor = W, **options) -> wf.DenseProjection:
    return wf.DenseProjection(k, seed=seed, **options).bind({"w": w})


def stretches(distribution: str) -> Tensor:
    """‖Pw‖²/‖w‖² for each of many seeds."""
    return torch.stack(
        [
            projection(seed, distribution=distribution, scale="isometry")(W).square().sum() / W.square().sum()
            for seed in range(SEEDS)
        ]
    )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_isometry(distribution: str) -> None:
    ratio = stretches(distribution)
    # For independent entries of variance 1 and excess kurtosis e: Var‖Pw‖²/‖w‖⁴ = (2 + e·q)/k.
    q = W.pow(4).sum() / W.square().sum() ** 2
    assert q > 0.4
    variance = (2 + EXCESS[distribution] * q) / K
    if distribution == "gaussian":
        assert variance == 2 / K
    if distribution == "rademacher":
        torch.testing.assert_close(variance, 2 / K * (1 - q))
    assert abs(ratio.mean() - 1) < 5 * math.sqrt(variance / SEEDS)
    # Var(s²) = σ⁴(2 + κ)/N, with κ = 12/k for k gaussian rows, the heaviest tails of the three.
    assert abs(ratio.var() / variance - 1) < 5 * math.sqrt((2 + 12 / K) / SEEDS)


def test_adjoint_isometry() -> None:
    v = torch.linspace(-1, 2, K, dtype=torch.float64)
    ratio = []
    for seed in range(SEEDS):
        summary = projection(seed, distribution="gaussian", scale="adjoint-isometry")
        ratio.append((summary.gain * summary.matrix.T @ v).square().sum() / v.square().sum())
    # D = 10 gaussian entries: chi-squared with 10 degrees of freedom, over 10.
    assert abs(torch.stack(ratio).mean() - 1) < 5 * math.sqrt(2 / W.numel() / SEEDS)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_entries(distribution: str) -> None:
    summary = projection(k=50, w=torch.zeros(400), distribution=distribution)
    entries = summary.matrix.double().flatten()
    n = entries.numel()
    assert abs(entries.mean()) < 5 / math.sqrt(n)
    assert abs(entries.square().mean() - 1) <= 5 * math.sqrt((2 + EXCESS[distribution]) / n)
    # Neighbours along rows and columns are uncorrelated; a product of two has variance 1.
    for product in (summary.matrix[1:] * summary.matrix[:-1], summary.matrix[:, 1:] * summary.matrix[:, :-1]):
        assert abs(product.mean()) < 5 / math.sqrt(product.numel())
    if distribution == "rademacher":
        assert set(entries.tolist()) == {-1.0, 1.0}


def test_xavier_entries_are_uniform() -> None:
    summary = projection(k=50, w=torch.zeros(400, dtype=torch.float64))
    entries = (summary.gain * summary.matrix).flatten().sort().values
    bound = math.sqrt(6 / (400 + 50))
    assert entries.abs().max() <= bound * (1 + 1e-6)
    # Kolmogorov and Smirnov: the largest distance exceeds 2.8/√n with probability 3e-7.
    expected = torch.arange(1, entries.numel() + 1, dtype=torch.float64) / entries.numel()
    assert ((entries + bound) / (2 * bound) - expected).abs().max() < 2.8 / math.sqrt(entries.numel())


@pytest.mark.parametrize(
    ("scale", "variance"), [("isometry", 1 / 5), ("xavier", 2 / (30 + 5)), ("adjoint-isometry", 1 / 30)]
)
def test_scales(scale: str, variance: float) -> None:
    summary = projection(k=5, w=torch.zeros(30, dtype=torch.float64), scale=scale)
    assert float(summary.gain) == pytest.approx(math.sqrt(variance), rel=1e-15)
    assert f"scale={scale!r}" in repr(summary)
    assert "seed=0" in repr(summary)


def test_defaults_are_the_notebooks() -> None:
    summary = wf.DenseProjection(3)
    assert (summary.distribution, summary.scale, summary.seed) == ("uniform", "xavier", 0)
    assert wf.Projection(3).scale == "isometry"


SUMMARY = projection(k=4, w=torch.ones(6, dtype=torch.float64))
vectors = st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@settings(max_examples=50)
@given(a=st.floats(-1e3, 1e3), b=st.floats(-1e3, 1e3), x=vectors, y=vectors)
def test_linear(a: float, b: float, x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(
        SUMMARY(a * x + b * y), a * SUMMARY(x) + b * SUMMARY(y), rtol=1e-10, atol=1e-6 * 1e-3
    )


def test_shards_sum_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}.items()
    }
    summary = wf.DenseProjection(6).bind(weights)
    parts = []
    for kept in weights:
        alone = [weight if name == kept else torch.zeros_like(weight) for name, weight in weights.items()]
        parts.append(summary(*alone))
    torch.testing.assert_close(sum(parts), summary(*weights.values()), rtol=1e-12, atol=1e-12)
    # Also by hand, from the columns alone.
    by_columns = summary.gain * summary.matrix[:, 12:17] @ weights["b"]
    torch.testing.assert_close(parts[1], by_columns, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_calibrated_then_frozen(distribution: str) -> None:
    summary = projection(scale="calibrated", distribution=distribution)
    assert summary(W).square().mean().sqrt() == pytest.approx(1, rel=1e-14)
    before = summary.gain.clone()
    torch.testing.assert_close(summary(3 * W), 3 * summary(W), rtol=1e-14, atol=0)
    summary.reset_parameters()
    assert torch.equal(summary.gain, before)


def test_calibrated_factor_is_in_the_state_dict() -> None:
    summary = projection(scale="calibrated")
    assert set(summary.state_dict()) == {"gain", "_extra_state"}
    assert set(projection().state_dict()) == {"_extra_state"}
    other = projection(w=7 * W, scale="calibrated", seed=4)
    other.load_state_dict(summary.state_dict())
    assert torch.equal(other(W), summary(W))
    assert other.seed == 0


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_calibrated_needs_weights(value: float) -> None:
    summary = wf.DenseProjection(2, scale="calibrated")
    with pytest.raises(
        ValueError, match=f"projection that isn't zero; of w it has norm {value}; initialise them first"
    ):
        summary.bind({"w": torch.tensor([value, 0.0, 0.0, 0.0])})
    assert summary.bind({"w": torch.ones(4)})(torch.ones(4)).square().sum() == pytest.approx(2)


def test_drawn_again_on_load() -> None:
    expected = projection(seed=1)
    summary = wf.DenseProjection(K, seed=1).bind({"w": W.to("meta")}).to_empty(device="cpu")
    for buffer in summary.buffers():
        buffer.fill_(math.nan)
    summary.load_state_dict(expected.state_dict())
    assert torch.equal(summary(W), expected(W))


def test_seed_loaded_before_binding() -> None:
    summary = wf.DenseProjection(K, seed=2)
    summary.set_extra_state(projection(seed=1).get_extra_state())
    assert torch.equal(summary.bind({"w": W})(W), projection(seed=1)(W))


def test_drawn_on_other_default_device() -> None:
    expected = projection()
    with torch.device("meta"):
        summary = projection()
    assert torch.equal(summary.matrix, expected.matrix)


def test_more_numbers_than_weights() -> None:
    with pytest.raises(ValueError, match=r"out_features=7 is more than the 6 weights that are read \(a, b\)"):
        wf.DenseProjection(7).bind({"a": torch.ones(4), "b": torch.ones(2)})
    assert wf.DenseProjection(6).bind({"a": torch.ones(4), "b": torch.ones(2)}).out_features == 6


def test_unknown_choices() -> None:
    with pytest.raises(ValueError, match=r"DenseProjection: scale must be one of isometry, xavier, .* got 'big'"):
        wf.DenseProjection(2, scale="big")
    with pytest.raises(ValueError, match="distribution must be one of uniform, gaussian, rademacher, got 'cauchy'"):
        wf.DenseProjection(2, distribution="cauchy")
    with pytest.raises(ValueError, match="DenseProjection: out_features must be a whole number"):
        wf.DenseProjection(0)


def test_base_class_is_abstract() -> None:
    for method in ("_draws", "_project", "_allocate"):
        with pytest.raises(NotImplementedError):
            getattr(wf.Projection(2), method)(*[torch.ones(3)] * (method == "_allocate"))
