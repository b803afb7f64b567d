"""PyTorch's transformer encoder, whose fused path in evaluation calls none of its submodules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import weight_feedback as wf

X = torch.linspace(-2, 2, 3 * 5 * 8).sin().view(3, 5, 8)
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])


def encoder_layer(**options) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options).eval()


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(encoder_layer(), 2).eval()


def hearing(model: nn.Module, into: str = "linear1", **options) -> nn.Module:
    wf.attach(model, into, signal=wf.Constant(torch.tensor([1.0, -2.0, 0.5])), init="default", **options)
    return model


def fused_calls(model: nn.Module, *inputs, **options) -> int:
    """How many fused kernels a forward runs."""
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(*inputs, **options)
    return sum(event.name == "aten::_transformer_encoder_layer_fwd" for event in profile.events())


@pytest.mark.parametrize("into", ["linear1", "linear2"])
@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_feedback_is_heard_in_evaluation_too(into: str, conditioning: str, norm_first: bool) -> None:
    model = hearing(encoder_layer(norm_first=norm_first), into, conditioning=conditioning)
    base, folded = encoder_layer(norm_first=norm_first), wf.fold(model)
    with torch.no_grad():
        evaluated = model(X)
        torch.testing.assert_close(evaluated, folded(X), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(evaluated, model.train()(X), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(evaluated, base(X), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(evaluated, model(X).detach(), rtol=1e-5, atol=1e-5)


def test_the_fused_path_is_shut_until_fold_or_remove() -> None:
    assert fused_calls(encoder_layer(), X) == 1
    model = hearing(encoder_layer())
    assert fused_calls(model, X) == 0
    assert fused_calls(copy.deepcopy(model), X) == 0
    assert fused_calls(wf.fold(model), X) == 1
    assert fused_calls(model, X) == 0
    wf.remove(model)
    assert fused_calls(model, X) == 1
    assert vars(model).keys() == vars(encoder_layer()).keys()
    with torch.no_grad():
        assert torch.equal(model(X), encoder_layer()(X))
    assert fused_calls(wf.remove(hearing(encoder_layer(activation="gelu"))), X) == 1
    assert wf.remove(hearing(encoder_layer(activation="gelu"))).activation_relu_or_gelu == 2


def test_a_second_layer_keeps_the_fused_path_shut() -> None:
    model = hearing(hearing(encoder_layer()), "linear2")
    assert fused_calls(model, X) == 0
    assert fused_calls(wf.remove(model), X) == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_nested_tensors_are_left_aside_in_the_encoder_around(conditioning: str) -> None:
    base, model = encoder(), hearing(encoder(), "layers.1.linear1", conditioning=conditioning)
    assert fused_calls(base, X, src_key_padding_mask=PADDED) == 2
    with torch.no_grad():
        before = base(X, src_key_padding_mask=PADDED)
        heard = model(X, src_key_padding_mask=PADDED)
        folded = wf.fold(model)(X, src_key_padding_mask=PADDED)
    # The nested path fills what is padded with zeros, the plain one with anything.
    torch.testing.assert_close(heard[~PADDED], folded[~PADDED], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(heard[~PADDED], before[~PADDED], rtol=1e-2, atol=1e-2)
    # The layer without feedback stays fused.
    assert fused_calls(model, X, src_key_padding_mask=PADDED) == 1
    assert fused_calls(wf.fold(model), X, src_key_padding_mask=PADDED) == 2
    wf.remove(model)
    with torch.no_grad():
        assert torch.equal(model(X, src_key_padding_mask=PADDED), before)


def test_a_failed_attach_leaves_the_fused_path_open() -> None:
    model = encoder_layer()
    with pytest.raises(ValueError, match="is more than the"):
        wf.attach(model, "linear1", summary=wf.DenseProjection(10_000))
    assert fused_calls(model, X) == 1


def test_the_projection_after_attention_is_refused() -> None:
    model = encoder()
    for into in ("layers.0.self_attn.out_proj", "layers.*.self_attn.out_proj", model.layers[0].self_attn.out_proj):
        with pytest.raises(TypeError, match=r"'layers.0.self_attn.out_proj' would hear nothing.*such as linear1"):
            wf.attach(model, into, signal=wf.Zeros(2))
    # As an ordinary linear layer it would pass for one that can hear.
    attention = nn.MultiheadAttention(8, 2)
    attention.out_proj = nn.Linear(8, 8)
    with pytest.raises(TypeError, match="'out_proj' would hear nothing"):
        wf.attach(attention, "out_proj", signal=wf.Zeros(2))
