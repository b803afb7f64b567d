"""Conditioning by scale and shift, over every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weight_feedback as wf
from helpers import cases

K = 3
each_layer = pytest.mark.parametrize("case", cases.LAYERS, ids=cases.ids(cases.LAYERS))


def film(case: cases.LayerCase, init: str = "default", dtype: torch.dtype = torch.float64):
    """A base layer, the same with feedback, and an input."""
    torch.manual_seed(0)
    base, layer = case.base().to(dtype), case.base().to(dtype)
    layer.load_state_dict(base.state_dict())
    signal = wf.Constant(torch.randn(K, dtype=dtype))
    model = nn.Sequential(layer)
    wf.attach(model, "0", signal=signal, init=init, conditioning="film")
    return base, model, torch.randn(case.shape, dtype=dtype)


@each_layer
def test_equals_scale_and_shift_with_gradients(case: cases.LayerCase) -> None:
    base, model, x = film(case)
    layer = model[0]
    out = layer.weight.shape[0]
    assert layer.feedback_weight.shape == (2 * out, K)
    s, v = layer.feedback_weight.detach().clone().requires_grad_(), layer.signal()
    scale, shift = 1 + s[:out] @ v, s[out:] @ v
    places = [1] * (layer.weight.dim() - 2)
    scale, shift = scale.view(-1, *places), shift.view(-1, *places)
    expected = scale * base(x) + shift
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(model(x).square().sum(), [layer.feedback_weight, layer.weight])
    theirs = torch.autograd.grad(expected.square().sum(), [s, base.weight])
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@each_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_equal_the_base_bit_for_bit(case: cases.LayerCase, dtype: torch.dtype) -> None:
    base, model, x = film(case, "zeros", dtype)
    assert torch.equal(model(x), base(x))


@each_layer
def test_folds_to_rounding(case: cases.LayerCase) -> None:
    base, model, x = film(case)
    plain = wf.fold(model)
    assert type(plain[0]) is type(base)
    assert not hasattr(plain[0], "conditioning")
    torch.testing.assert_close(plain(x), model(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(plain[0].weight, base.weight)
    z = torch.randn(K, dtype=torch.float64)
    heard = wf.fold(model, z)(x)
    model[0].signal = wf.Constant(z)
    torch.testing.assert_close(heard, model(x), rtol=1e-12, atol=1e-12)
    # The model is as it was, and shares nothing with the copy.
    assert torch.equal(model[0].weight, base.weight)
    with torch.no_grad():
        plain[0].weight.zero_()
    assert torch.equal(model[0].weight, base.weight)


def test_folding_keeps_requires_grad() -> None:
    _, model, _ = film(cases.LAYERS[0])
    model[0].weight.requires_grad_(False)
    assert not wf.fold(model)[0].weight.requires_grad
    assert wf.fold(model)[0].bias.requires_grad


def test_removing_gives_back_the_base() -> None:
    base, model, x = film(cases.LAYERS[0])
    wf.remove(model)
    assert vars(model[0]).keys() == vars(base).keys()
    assert torch.equal(model(x), base(x))


def test_own_weights_with_film() -> None:
    model = cases.network()
    wf.attach(model, "0", summary=wf.DenseProjection(K), init="default", conditioning="film")
    assert model[0].feedback_weight.shape == (2 * model[0].out_features, K)
    wf.remove(model)
    wf.attach(model, "0", summary=wf.Moments(), conditioning="film")
    assert model[0].conditioning == "film"


def test_errors() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="conditioning must be one of concat, film, got 'gain'"):
        wf.attach(model, "0", signal=wf.Zeros(2), conditioning="gain")
    assert type(model[0]) is nn.Linear
    layer = wf.FeedbackLinear(2, 2, 2, conditioning="film")
    with pytest.raises(AttributeError, match="full_weight"):
        _ = layer.full_weight
