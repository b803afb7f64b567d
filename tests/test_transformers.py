"""Hugging Face's ``Conv1D``, a linear layer with a transposed weight: a faithful stand-in, and the real one."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import types

import pytest
import torch
from torch import nn

import weight_feedback as wf
from weight_feedback import registry

K = 3
INSTALLED = importlib.util.find_spec("transformers") is not None


class Conv1D(nn.Module):
    """The definition of transformers 5."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size_out = (*x.size()[:-1], self.nf)
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return x.view(size_out)


Conv1D.__module__ = "transformers.pytorch_utils"


@pytest.fixture(params=["stand-in", "installed"])
def conv1d(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    if request.param == "installed":
        return pytest.importorskip("transformers.pytorch_utils").Conv1D
    home = types.ModuleType("transformers.pytorch_utils")
    home.Conv1D = Conv1D
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", home)
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    return Conv1D


def network(conv1d: type[nn.Module], dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(conv1d(6, 4), nn.Tanh(), conv1d(5, 6)).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize("shape", [(4,), (7, 4), (2, 3, 4)])
def test_without_v_it_is_the_base_bit_for_bit(conv1d, shape, conditioning: str, dtype: torch.dtype) -> None:
    model, x = network(conv1d, dtype), numbers(*shape, dtype=dtype)
    before = model(x)
    wf.attach(model, "*", summary=wf.DenseProjection(K), conditioning=conditioning)
    assert list(wf.feedback_layers(model)) == ["0", "2"]
    assert all(isinstance(layer, conv1d) for layer in wf.feedback_layers(model).values())
    assert model[0].feedback_weight.shape == ({"concat": 6, "film": 12}[conditioning], K)
    assert torch.equal(model(x), before)


def test_concat_equals_a_bias_that_moves(conv1d) -> None:
    base, model, x = network(conv1d), network(conv1d), numbers(7, 4)
    wf.attach(model, "0", summary=wf.DenseProjection(K), init="default")
    assert [read.name for read in model[0].signal.reads] == ["0.weight", "2.weight"]
    hidden = base[0](x) + model[0].feedback_weight @ model[0].signal()
    torch.testing.assert_close(model(x), base[2](hidden.tanh()), rtol=1e-12, atol=1e-12)


def test_initial_v_goes_by_the_inputs(conv1d) -> None:
    model = wf.attach(conv1d(300, 4), "", signal=wf.Zeros(K), init="default")
    assert 0.98 < model.feedback_weight.abs().max() / (4 + K) ** -0.5 <= 1


def test_film_equals_scale_and_shift(conv1d) -> None:
    base, model, x = network(conv1d), network(conv1d), numbers(7, 4)
    wf.attach(model, "0", summary=wf.DenseProjection(K), init="default", conditioning="film")
    scale, shift = (model[0].feedback_weight @ model[0].signal()).chunk(2)
    hidden = (1 + scale) * base[0](x) + shift
    torch.testing.assert_close(model(x), base[2](hidden.tanh()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_fold_and_remove(conv1d, conditioning: str) -> None:
    base, model, x = network(conv1d), network(conv1d), numbers(2, 3, 4)
    wf.attach(model, "*", summary=wf.DenseProjection(K), init="default", conditioning=conditioning)
    folded = wf.fold(model)
    assert [type(module) for module in folded] == [conv1d, nn.Tanh, conv1d]
    assert folded.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)
    assert conditioning == "film" or torch.equal(folded(x), model(x))
    assert not torch.allclose(folded(x), base(x))
    wf.remove(model)
    assert [type(module) for module in model] == [conv1d, nn.Tanh, conv1d]
    assert vars(model[0]).keys() == vars(base[0]).keys()
    assert torch.equal(model(x), base(x))


def test_pickle_and_deepcopy(conv1d) -> None:
    model, x = network(conv1d), numbers(7, 4)
    wf.attach(model, "0", signal=wf.Constant(numbers(K)), init="default")
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(other[0]) is type(model[0])
        assert torch.equal(other(x), model(x))
    # In a process that hasn't met the class yet, pickle makes it.
    registry._conv1d_of_transformers.cache_clear()
    assert issubclass(registry.FeedbackTransformersConv1D, conv1d)
    with pytest.raises(AttributeError, match="no attribute 'FeedbackConv4d'"):
        _ = registry.FeedbackConv4d


def test_only_its_own_name_counts() -> None:
    kinds = {
        "name": type("Conv1X", (Conv1D,), {"__module__": "transformers.pytorch_utils"}),
        "module": type("Conv1D", (Conv1D,), {"__module__": "elsewhere"}),
    }
    for kind in kinds.values():
        with pytest.raises(TypeError, match="must be one of"):
            wf.attach(nn.Sequential(kind(2, 2)), "0", signal=wf.Zeros(2))


@pytest.mark.skipif(not INSTALLED, reason="transformers isn't installed")
def test_gpt2() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.arange(8)[None]
    before = model(ids).logits
    wf.attach(model, "transformer.h.*.mlp.c_fc", summary=wf.DenseProjection(K), reads="all")
    assert len(wf.feedback_layers(model)) == 2
    assert torch.equal(model(ids).logits, before)
    names = [read.name for read in wf.signals(model)["transformer.h.1.mlp.c_fc"].reads]
    # The embedding is tied to the head: read once, by its first name.
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names
    for layer in wf.feedback_layers(model).values():
        layer.reset_feedback()
    assert not torch.equal(model(ids).logits, before)
    assert torch.equal(wf.fold(model)(ids).logits, model(ids).logits)
    assert torch.equal(wf.remove(model)(ids).logits, before)
