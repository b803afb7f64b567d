from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weight_feedback as wf
from helpers import cases
from weight_feedback.layers import FeedbackConv1d, FeedbackConv3d

K = 3
each_layer = pytest.mark.parametrize("case", cases.LAYERS, ids=cases.ids(cases.LAYERS))
linear = pytest.mark.parametrize("bias", [True, False])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def hearing(case: cases.LayerCase, dtype: torch.dtype = torch.float64) -> wf.FeedbackLayer:
    layer = case.make(K).to(dtype)
    layer.signal = wf.Constant(numbers(K, seed=1, dtype=dtype))
    return layer


def planes(layer: wf.FeedbackLayer, x: Tensor, z: Tensor) -> Tensor:
    """The convolution of x with z as ``k`` more constant planes, which V meets at the kernel's middle tap.

    That tap never leaves the planes in the cases at hand, so zero padding doesn't show.
    """
    v = torch.zeros(layer.out_channels, len(z), *layer.kernel_size, dtype=x.dtype)
    places = len(layer.kernel_size)
    v[:, :, *[1] * places] = layer.feedback_weight
    wide = layer.base(
        layer.in_channels + len(z), layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
        layer.dilation, padding_mode=layer.padding_mode, dtype=x.dtype,
    )  # fmt: skip
    wide.weight = nn.Parameter(torch.cat([layer.weight, v], dim=1))
    wide.bias = nn.Parameter(torch.zeros(layer.out_channels, dtype=x.dtype) if layer.bias is None else layer.bias)
    flat = z.view(-1, *[1] * places).expand(*x.shape[: -places - 1], -1, *x.shape[-places:])
    return wide(torch.cat([x, flat], dim=-places - 1))


@each_layer
def test_equals_bias_form_with_gradients(case: cases.LayerCase) -> None:
    layer, x = hearing(case), numbers(*case.shape).requires_grad_()
    plain = case.base().double()
    plain.load_state_dict({name: layer.state_dict()[name] for name in plain.state_dict()})
    v = layer.feedback_weight.detach().clone().requires_grad_()
    shift = v @ layer.signal()
    expected = plain(x) + shift.view(-1, *[1] * (layer.weight.dim() - 2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(layer(x).square().sum(), [x, layer.feedback_weight, layer.weight])
    theirs = torch.autograd.grad(expected.square().sum(), [x, v, plain.weight], retain_graph=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)
    if layer.bias is not None:
        (ours,) = torch.autograd.grad(layer(x).square().sum(), layer.bias)
        (theirs,) = torch.autograd.grad(expected.square().sum(), plain.bias)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)


@each_layer
def test_equals_concatenated_form(case: cases.LayerCase) -> None:
    layer, x = hearing(case), numbers(*case.shape)
    z = layer.signal()
    if isinstance(layer, wf.FeedbackLinear):
        wide = torch.cat([x, z.expand(*x.shape[:-1], K)], dim=-1)
        expected = F.linear(wide, torch.cat([layer.weight, layer.feedback_weight], dim=1), layer.bias)
    elif layer.groups == 1:
        expected = planes(layer, x, z)
    else:
        pytest.skip("groups would split the planes")
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@linear
def test_gradients_of_the_concatenated_form(bias: bool) -> None:
    layer = wf.FeedbackLinear(6, 5, K, bias=bias, dtype=torch.float64)
    layer.signal = wf.Constant(numbers(K, seed=1))
    full = layer.full_weight.detach().clone().requires_grad_()
    x = numbers(7, 6)
    expected = F.linear(torch.cat([x, layer.signal().expand(7, K)], 1), full, layer.bias)
    (theirs,) = torch.autograd.grad(expected.square().sum(), full)
    ours = torch.autograd.grad(layer(x).square().sum(), [layer.weight, layer.feedback_weight])
    torch.testing.assert_close(torch.cat(ours, dim=1), theirs, rtol=1e-12, atol=1e-12)


@each_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fold_is_exact(case: cases.LayerCase, dtype: torch.dtype) -> None:
    layer, x = hearing(case, dtype), numbers(*case.shape, dtype=dtype)
    plain = layer.fold()
    assert type(plain) is type(case.base())
    assert torch.equal(plain(x), layer(x))
    assert set(plain.state_dict()) == {"weight", "bias"}
    assert torch.equal(plain.bias, layer.plain_parameters()[1])
    z = numbers(K, seed=2, dtype=dtype)
    other = layer.fold(z)
    assert not torch.equal(other.bias, plain.bias)
    layer.signal = wf.Constant(z)
    assert torch.equal(other(x), layer(x))


@each_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_v_equals_base(case: cases.LayerCase, dtype: torch.dtype) -> None:
    layer, x = hearing(case, dtype), numbers(*case.shape, dtype=dtype)
    nn.init.zeros_(layer.feedback_weight)
    plain = case.base().to(dtype)
    plain.load_state_dict({name: layer.state_dict()[name] for name in plain.state_dict()})
    assert torch.equal(layer(x), plain(x))


@each_layer
def test_silent_until_a_signal_is_set(case: cases.LayerCase) -> None:
    layer, x = case.make(K), numbers(*case.shape, dtype=torch.float32)
    assert type(layer.signal) is wf.Zeros
    assert (layer.bias is None) == (case.base().bias is None)
    plain = case.base()
    plain.load_state_dict({name: layer.state_dict()[name] for name in plain.state_dict()})
    assert torch.equal(layer(x), plain(x))
    assert set(layer.state_dict()) == {*plain.state_dict(), "feedback_weight", "signal.z"}


@each_layer
def test_fold_shares_no_memory(case: cases.LayerCase) -> None:
    layer, x = hearing(case), numbers(*case.shape)
    layer.register_buffer("extra", torch.zeros(2))
    plain = layer.fold()
    expected = plain(x)
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.add_(1)
    assert torch.equal(plain(x), expected)
    assert plain.extra.tolist() == [0, 0]


@each_layer
def test_fold_keeps_everything_else(case: cases.LayerCase) -> None:
    layer, x = hearing(case), numbers(*case.shape)
    layer.note = "kept"
    layer.eval()
    layer.register_forward_hook(lambda *call: call[-1] + 1)
    plain = layer.fold()
    assert plain.note == "kept"
    assert not plain.training
    assert torch.equal(plain(x), layer(x))
    assert plain.extra_repr().split(", bias=")[0] == case.base().extra_repr().split(", bias=")[0]
    plain.register_forward_hook(lambda *call: call[-1] * 0)
    assert not torch.equal(layer(x), plain(x))
    # A whole layer: it can be copied, saved and trained.
    assert torch.equal(copy.deepcopy(layer.fold())(x), layer(x))


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (True, False), (False, True), (False, False)])
def test_fold_keeps_requires_grad(weight: bool, bias: bool) -> None:
    layer = hearing(cases.LAYERS[0])
    layer.weight.requires_grad_(weight)
    layer.bias.requires_grad_(bias)
    plain = layer.fold()
    assert (plain.weight.requires_grad, plain.bias.requires_grad) == (weight, bias)
    assert plain.weight.is_leaf
    assert plain.bias.is_leaf


def test_fold_keeps_memory_layout() -> None:
    layer = wf.FeedbackConv2d(4, 6, 3, K).to(memory_format=torch.channels_last)
    assert layer.fold().weight.is_contiguous(memory_format=torch.channels_last)


def test_fold_takes_z_of_another_dtype() -> None:
    layer, x = hearing(cases.LAYERS[0]), numbers(7, 6)
    assert layer.fold(torch.ones(K))(x).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), ()])
def test_fold_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"fold: z must have shape \[3\], got \["):
        hearing(cases.LAYERS[0]).fold(torch.zeros(shape))


def test_plain_parameters() -> None:
    layer = hearing(cases.LAYERS[0])
    z = numbers(K, seed=5)
    weight, bias = layer.plain_parameters(z)
    assert torch.equal(weight, layer.weight)
    assert not bias.requires_grad
    torch.testing.assert_close(bias, layer.bias.detach() + layer.feedback_weight.detach() @ z, rtol=1e-14, atol=0)
    assert torch.equal(layer.plain_parameters()[1], layer.plain_parameters(layer.signal())[1])
    layer.bias = None
    torch.testing.assert_close(layer.plain_parameters(z)[1], layer.feedback_weight.detach() @ z, rtol=1e-14, atol=0)


def test_full_weight() -> None:
    layer = wf.FeedbackLinear(6, 5, K)
    assert layer.full_weight.shape == (5, 6 + K)
    assert torch.equal(layer.full_weight[:, :6], layer.weight)
    assert torch.equal(layer.full_weight[:, 6:], layer.feedback_weight)
    (gradient,) = torch.autograd.grad(layer.full_weight.sum(), layer.feedback_weight)
    assert torch.equal(gradient, torch.ones(5, K))


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [(lambda: wf.FeedbackLinear(20, 300, 16), 36), (lambda: wf.FeedbackConv2d(4, 300, 3, 16, groups=2), 18 + 16)],
)
def test_initial_v(make, fan_in: int) -> None:
    torch.manual_seed(0)
    v = make().feedback_weight.detach()
    bound = fan_in**-0.5
    n = v.numel()
    assert v.abs().max() <= bound
    assert abs(v.mean()) < 5 * bound / (3 * n) ** 0.5
    # A uniform variable's square has variance 4/45 of the bound to the fourth.
    assert abs(v.square().mean() - bound**2 / 3) < 5 * bound**2 * (4 / 45 / n) ** 0.5
    assert not torch.equal(make().feedback_weight, v)


def test_add_and_remove_feedback() -> None:
    layer = wf.FeedbackLinear(6, 5, K, dtype=torch.float64)
    signal = wf.Zeros(4, dtype=torch.float64)
    assert layer.add_feedback(signal) is layer
    assert torch.equal(layer.feedback_weight, torch.zeros(5, 4, dtype=torch.float64))
    assert layer.signal is signal
    with pytest.raises(ValueError, match="init must be one of zeros, default, got 'ones'"):
        layer.add_feedback(signal, init="ones")
    layer.remove_feedback()
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert type(layer) is torch.nn.Linear


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_sizes(k: float) -> None:
    with pytest.raises(ValueError, match="FeedbackLinear: out_features must be a whole number"):
        wf.FeedbackLinear(2, 2, k)
    for conv in (FeedbackConv1d, wf.FeedbackConv2d, FeedbackConv3d):
        with pytest.raises(ValueError, match=f"{conv.__name__}: out_features must be a whole number"):
            conv(2, 2, 1, k)


@pytest.mark.parametrize("conv", [FeedbackConv1d, wf.FeedbackConv2d, FeedbackConv3d])
def test_constructor_takes_the_arguments_of_the_base_in_their_order(conv) -> None:
    places = conv.base(1, 1, 1).weight.dim() - 2
    arguments = (5 - places, 2, 4 - places, 2, False, "circular")
    ours, base = conv(4, 6, 3, K, *arguments), conv.base(4, 6, 3, *arguments)
    assert ours.extra_repr() == f"{base.extra_repr()}, signal_features={K}, conditioning='concat'"
    assert ours.feedback_weight.shape == (6, K)
    assert conv(4, 6, 3, K, conditioning="film", dtype=torch.float64).feedback_weight.shape == (12, K)
    assert conv(4, 6, 3, K, dtype=torch.float64).signal().dtype == torch.float64


def test_meta() -> None:
    with torch.device("meta"):
        layer = wf.FeedbackLinear(6, 5, K)
    assert layer(torch.empty(2, 6, device="meta")).shape == (2, 5)
    assert wf.FeedbackConv2d(4, 6, 3, K, device=torch.device("meta"))(torch.empty(4, 9, 9, device="meta")).is_meta
