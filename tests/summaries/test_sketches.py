"""Projections that store no matrix: exact matrices, adjoints, and moments over many seeds against the formulas.

Tolerances are five standard errors, as in the tests of dense projections.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import weight_feedback as wf

K, SEEDS = 6, 4000


def spiky(rows: int, columns: int) -> Tensor:
    w = torch.zeros(rows, columns, dtype=torch.float64)
    w[0, 0], w[2, 1], w[rows - 1, columns - 1], w[1, :] = 3.0, -2.0, 1.5, 0.1
    return w


def low_rank(rows: int, columns: int) -> Tensor:
    a, b = (torch.linspace(start, 3, size, dtype=torch.float64) for start, size in ((-1, rows), (1, columns)))
    return torch.outer(a, b)


def spread(rows: int, columns: int) -> Tensor:
    return torch.linspace(1, 20, rows * columns, dtype=torch.float64).sin().view(rows, columns)


INPUTS = {"spread": spread(7, 12), "spiky": spiky(7, 12), "low rank": low_rank(7, 12)}


def energy(w: Tensor) -> float:
    return float(w.pow(4).sum() / w.square().sum() ** 2)


def check_moments(ratios: Tensor, variance: float) -> None:
    """Check mean and variance of ‖Pw‖²/‖w‖²; the variance is measured to within its own standard error."""
    n = len(ratios)
    centred = ratios - ratios.mean()
    assert abs(ratios.mean() - 1) < 5 * math.sqrt(variance / n)
    fourth = centred.pow(4).mean()
    assert abs(centred.square().mean() - variance) < 5 * math.sqrt((fourth - variance**2) / n) + 1e-12


def ratios(make, w: Tensor) -> Tensor:
    return torch.stack(
        [make(seed).bind({"w": w})(w).square().sum() / w.square().sum() for seed in range(SEEDS)]
    ).double()


@pytest.mark.no_cover  # other tests run these lines, and counting them takes half as long again
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("nonzeros", [1, 2, 3])
def test_moments_of_the_count_sketch(name, nonzeros) -> None:
    w = INPUTS[name]
    buckets = wf.CountSketch(K, nonzeros=nonzeros).bind({"w": w}).buckets(0, w.numel())
    variance = 0.0
    for of_one in buckets:
        share = torch.zeros(K, dtype=torch.float64).index_add_(0, of_one, w.flatten().square()) / w.square().sum()
        variance += 2 * (float(share.square().sum()) - energy(w)) / nonzeros**2
    check_moments(ratios(lambda seed: wf.CountSketch(K, nonzeros=nonzeros, seed=seed), w), variance)


@pytest.mark.no_cover  # other tests run these lines, and counting them takes half as long again
@pytest.mark.parametrize("name", INPUTS)
def test_moments_of_the_kronecker_projection(name) -> None:
    w = INPUTS[name]
    rho = float((w.T @ w).square().sum() / w.square().sum() ** 2)
    for k1, k2 in ((2, 3), (6, 1)):
        variance = 2 / K + 2 * rho * (1 / k1 + 1 / k2 + 1 / K)
        check_moments(ratios(lambda seed, f=(k1, k2): wf.KroneckerProjection(K, factors=f, seed=seed), w), variance)


@pytest.mark.parametrize("shape", [(40, K * 5), (K * 5, 40), (6, 4, 3, 2)])
def test_rows_and_columns_spread_over_all_buckets(shape) -> None:
    """In buckets ``i mod k``, a column of a matrix with k × 5 columns would all fall into one."""
    summary = wf.CountSketch(K, nonzeros=2).bind({"w": torch.ones(shape)})
    assert len(set(summary.pitches)) == 2
    for j, pitch in enumerate(summary.pitches):
        buckets = summary.buckets(0, math.prod(shape))[j].view(shape[0], -1)
        for line in (*buckets, *buckets.T):
            if len(line) >= pitch:
                assert len(line.unique()) == K // 2
        assert math.gcd(pitch, buckets.shape[1]) == 1


def test_each_pitch_is_the_least_that_suits() -> None:
    weights = {"a": torch.ones(3, 10), "b": torch.ones(4, 21)}
    assert wf.CountSketch(12).bind(weights).pitches == (13,)
    assert wf.CountSketch(22, nonzeros=2).bind(weights).pitches == (11, 13)


def test_buckets_are_where_each_weight_goes() -> None:
    summary = wf.CountSketch(K, nonzeros=2).bind({"w": torch.zeros(10, dtype=torch.float64)})
    matrix = torch.stack([summary(row) for row in torch.eye(10, dtype=torch.float64)], dim=1)
    for place, of_each in enumerate(summary.buckets(0, 10).T.tolist()):
        assert sorted(of_each) == matrix[:, place].nonzero().flatten().tolist()


def test_places_beyond_32_bits() -> None:
    summary = wf.CountSketch(460).bind({"w": torch.ones(2, 1250)})
    for start in (2**31 - 2, 2**40 + 7):
        expected = [place % summary.pitches[0] % 460 for place in range(start, start + 5)]
        assert summary.buckets(start, start + 5).tolist() == [expected]


def test_large_tensors_go_in_blocks() -> None:
    """Blocks lie across the borders of tensors, and the last one is ragged."""
    w = torch.linspace(-1, 1, 3_000_001, dtype=torch.float64).cos()
    parts = {"a": w[:100].view(10, 10), "b": w[100:2_500_000].view(1, -1), "c": w[2_500_000:].view(-1, 1)}
    summary = wf.CountSketch(460, seed=1).bind(parts)
    expected = torch.zeros(460, dtype=torch.float64)
    expected.index_add_(0, summary.buckets(0, w.numel())[0], w * summary.signs)
    torch.testing.assert_close(summary(*parts.values()), expected, rtol=1e-12, atol=1e-9)
    assert summary.signs.dtype == torch.int8
    assert summary.signs.element_size() * summary.signs.numel() == w.numel()
    assert summary.signs.unique().tolist() == [-1, 1]
    assert abs(float(summary.signs.double().mean())) < 5 / math.sqrt(w.numel())


MAPS = {
    "dense": lambda seed, scale: wf.DenseProjection(K, seed=seed, scale=scale),
    "sketch": lambda seed, scale: wf.CountSketch(K, seed=seed, scale=scale),
    "sketch-3": lambda seed, scale: wf.CountSketch(K, nonzeros=3, seed=seed, scale=scale),
    "kronecker": lambda seed, scale: wf.KroneckerProjection(K, seed=seed, scale=scale),
}
SHAPES = {"a": (4, 5), "b": (7,), "c": (3, 2, 2)}
WEIGHTS = {
    name: torch.linspace(i, i + 9, math.prod(shape), dtype=torch.float64).sin().view(shape)
    for i, (name, shape) in enumerate(SHAPES.items())
}


@pytest.mark.parametrize("kind", MAPS)
@settings(max_examples=20)
@given(z=st.lists(st.floats(-10, 10), min_size=K, max_size=K), seed=st.integers(0, 2**40))
def test_the_adjoint_is_the_transpose(kind, z, seed) -> None:
    summary = MAPS[kind](seed, "isometry").bind(WEIGHTS)
    z = torch.tensor(z, dtype=torch.float64)
    back = summary.adjoint(z)
    assert [part.shape for part in back] == list(summary.shapes)
    inner = sum((part * weight).sum() for part, weight in zip(back, WEIGHTS.values(), strict=True))
    torch.testing.assert_close(inner, summary(*WEIGHTS.values()) @ z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", MAPS)
def test_parts_sum_to_the_whole_and_the_map_is_linear(kind) -> None:
    summary = MAPS[kind](3, "isometry").bind(WEIGHTS)
    weights = list(WEIGHTS.values())
    masks = [torch.arange(weight.numel()).view(weight.shape) % 3 == 0 for weight in weights]
    parts = [
        [weight * (mask == keep) for weight, mask in zip(weights, masks, strict=True)] for keep in (True, False)
    ]
    torch.testing.assert_close(summary(*parts[0]) + summary(*parts[1]), summary(*weights), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        summary(*[-2.5 * weight for weight in weights]), -2.5 * summary(*weights), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", MAPS)
def test_scales_are_what_they_are_called(kind) -> None:
    size = sum(weight.numel() for weight in WEIGHTS.values())
    gains = {
        scale: float(MAPS[kind](0, scale).bind(WEIGHTS).gain)
        for scale in ("isometry", "xavier", "adjoint-isometry")
    }
    assert gains["xavier"] / gains["isometry"] == pytest.approx(math.sqrt(2 * K / (size + K)))
    z = torch.linspace(-1, 1, K, dtype=torch.float64)
    expected = 1.0
    if "sketch" in kind:  # by the weights in each bucket
        buckets = MAPS[kind](0, "isometry").bind(WEIGHTS).buckets(0, size)
        counts = torch.bincount(buckets.flatten(), minlength=K)
        expected = float((counts * z.square()).sum() / z.square().sum() * K / counts.sum())
    adjoint = (
        torch.stack(
            [
                sum(part.square().sum() for part in MAPS[kind](seed, "adjoint-isometry").bind(WEIGHTS).adjoint(z))
                for seed in range(1000)
            ]
        )
        / z.square().sum()
    )
    assert abs(float(adjoint.mean()) - expected) < 5 * float(adjoint.std()) / math.sqrt(1000) + 1e-12
    calibrated = MAPS[kind](0, "calibrated").bind(WEIGHTS)
    assert calibrated(*WEIGHTS.values()).square().mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("shapes", "k", "ends"),
    [([(2, 2)], 2, (0.5, 1.5)), ([(200, 784), (200,), (200, 200), (200,), (10, 200), (10,)], 300, (0.99, 1.98))],
)
def test_an_adjoint_isometry_is_one_on_average_over_coordinates(shapes, k: int, ends: tuple[float, float]) -> None:
    weights = {str(i): torch.ones(shape, dtype=torch.float64) for i, shape in enumerate(shapes)}
    summary = wf.CountSketch(k, scale="adjoint-isometry").bind(weights)
    size = sum(weight.numel() for weight in weights.values())
    counts = torch.bincount(summary.buckets(0, size).flatten(), minlength=k).double()
    stretched = k * counts / size
    for j in (0, k // 2, k - 1):
        unit = torch.nn.functional.one_hot(torch.tensor(j), k).double()
        found = sum(part.square().sum() for part in summary.adjoint(unit))
        torch.testing.assert_close(found, stretched[j], rtol=1e-12, atol=0)
    assert float(stretched.mean()) == pytest.approx(1, rel=1e-12)
    assert (float(stretched.min()), float(stretched.max())) == pytest.approx(ends, abs=0.005)
    assert float(stretched.max()) < 2


def test_nonzeros_have_signs_of_their_own_in_one_byte() -> None:
    w = torch.zeros(100_000)
    summary = wf.CountSketch(80, nonzeros=8, seed=2).bind({"w": w})
    assert summary.signs.element_size() * summary.signs.numel() == w.numel()
    bits = torch.stack([(summary.signs >> j & 1) for j in range(8)]).double() * 2 - 1
    assert float((bits @ bits.T / w.numel() - torch.eye(8)).abs().max()) < 5 / math.sqrt(w.numel())
    with pytest.raises(ValueError, match="nonzeros must be from 1 to 8 and divide out_features=90, got 9"):
        wf.CountSketch(90, nonzeros=9)
    for nonzeros in (0, 7, -1):
        with pytest.raises(
            ValueError, match=rf"nonzeros must be from 1 to 8 and divide out_features=80, got {nonzeros}"
        ):
            wf.CountSketch(80, nonzeros=nonzeros)
    assert "nonzeros=8" in repr(summary)
    assert "nonzeros" not in repr(wf.CountSketch(80))


def test_factors() -> None:
    assert [wf.KroneckerProjection(k).factors for k in (1, 7, 12, 460)] == [(1, 1), (1, 7), (3, 4), (20, 23)]
    for factors in ((2, 2), (0, 6), (-2, -3)):
        with pytest.raises(ValueError, match=r"product of factors must be out_features=6, got \("):
            wf.KroneckerProjection(6, factors=factors)
    with pytest.raises(ValueError, match=r"CountSketch.adjoint: z must have shape \[6\], got \[5\]"):
        wf.CountSketch(6).bind(WEIGHTS).adjoint(torch.ones(5, dtype=torch.float64))
