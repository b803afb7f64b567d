from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weight_feedback as wf


def z(summary: wf.Moments, *weights: torch.Tensor) -> torch.Tensor:
    return summary.bind({f"w{index}": weight for index, weight in enumerate(weights)})(*weights)


def test_by_hand() -> None:
    weight = torch.tensor([[4.0, -2.0], [0.0, 2.0]], dtype=torch.float64)
    expected = [1, math.sqrt(5), -2, -0.5, 1, 2.5, 4, 2, math.sqrt(6), 4]
    np.testing.assert_allclose(z(wf.Moments(), weight), expected, rtol=1e-15)


def test_one_block_for_each_tensor() -> None:
    one, two = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[5.0, 7.0]])
    both = z(wf.Moments(), one, two)
    assert torch.equal(both, torch.cat([z(wf.Moments(), one), z(wf.Moments(), two)]))


@settings(max_examples=50)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
    quantiles=st.lists(st.floats(0, 1), max_size=4),
)
def test_quantiles_equal_numpy(values: list[float], quantiles: list[float]) -> None:
    weight = torch.tensor(values, dtype=torch.float64)
    result = z(wf.Moments(quantiles, norms=[]), weight)
    expected = [np.mean(values), np.std(values), *np.quantile(values, quantiles)]
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)


def test_norms_are_on_one_scale_whatever_the_size() -> None:
    weight = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    norms = [1, 1.5, 2, 5, math.inf]
    small, large = z(wf.Moments([], norms), weight), z(wf.Moments([], norms), weight.repeat(50, 4))
    torch.testing.assert_close(small, large, rtol=1e-12, atol=1e-12)
    assert large[-1] == 4


@pytest.mark.parametrize(
    "weight", [torch.tensor([3.0]), torch.tensor(-2.0), torch.full((4, 2), 1.5), torch.zeros(5)]
)
def test_no_spread(weight: torch.Tensor) -> None:
    weight = weight.double().requires_grad_()
    result = z(wf.Moments(norms=[1, 1.5, 2, 3, math.inf]), weight)
    value = float(weight.detach().flatten()[0])
    torch.testing.assert_close(
        result, torch.tensor([value, 0.0] + 5 * [value] + 5 * [abs(value)], dtype=torch.float64)
    )
    (gradient,) = torch.autograd.grad(result.sum(), weight)
    assert gradient.isfinite().all()


def test_errors() -> None:
    for quantiles in ([-0.1], [0.5, 1.1], [math.nan]):
        with pytest.raises(ValueError, match=r"Moments: quantiles must lie from 0 to 1, got \["):
            wf.Moments(quantiles)
    for norms in ([0.5], [2, math.nan]):
        with pytest.raises(ValueError, match=r"Moments: norms must be of order 1 or more, got \["):
            wf.Moments(norms=norms)
