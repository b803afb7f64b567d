from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import weight_feedback as wf
from helpers.cases import IMAGES as X
from helpers.cases import attached, net


def read_names(model: nn.Module, layer: str = "fc1") -> list[str]:
    return [read.name for read in wf.signals(model)[layer].reads]


# attach


@pytest.mark.parametrize("into", ["fc1", "conv1", "fc2"])
@pytest.mark.parametrize("training", [True, False])
def test_output_stays_bit_for_bit(into: str, training: bool) -> None:
    before = net().train(training)(X)
    model = net().train(training)
    assert wf.attach(model, into, summary=wf.DenseProjection(3)) is model
    assert torch.equal(model(X), before)
    outputs = {"conv1": 3, "fc1": 6, "fc2": 4}[into]
    assert torch.equal(wf.feedback_layers(model)[into].feedback_weight, torch.zeros(outputs, 3))


def test_layer_stays_the_same_object() -> None:
    model = net()
    layer, weight, bias = model.fc1, model.fc1.weight, model.fc1.bias
    wf.attach(model, "fc1", summary=wf.Moments())
    assert model.fc1 is layer
    assert model.fc1.weight is weight
    assert model.fc1.bias is bias
    assert type(layer) is wf.FeedbackLinear
    assert type(attached("conv1").conv1) is wf.FeedbackConv2d


def test_earlier_optimiser_and_hooks_stay_right() -> None:
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []
    model.fc1.register_forward_hook(lambda *call: calls.append(call[-1].shape))
    wf.attach(model, "fc1", summary=wf.Moments(), init="default")
    before = copy.deepcopy(model.state_dict())
    model(X).square().sum().backward()
    optimiser.step()
    assert calls == [(8, 6)]
    assert not torch.equal(model.fc1.weight, before["fc1.weight"])
    assert not torch.equal(model.fc1.bias, before["fc1.bias"])
    assert torch.equal(model.fc1.feedback_weight, before["fc1.feedback_weight"])


def test_base_keys_keep_names_and_shapes() -> None:
    base, state = net().state_dict(), attached().state_dict()
    assert {name: state[name].shape for name in base} == {name: tensor.shape for name, tensor in base.items()}
    assert set(state) - set(base) == {"fc1.feedback_weight", "fc1.signal.summary._extra_state"}


def test_default_reads() -> None:
    assert read_names(attached()) == ["fc1.weight", "fc2.weight"]
    assert read_names(attached("conv1"), "conv1") == ["conv1.weight", "fc1.weight", "fc2.weight"]
    assert read_names(attached("fc2"), "fc2") == ["fc2.weight"]
    # A later layer that has feedback already counts too.
    assert read_names(wf.attach(attached("fc2"), "fc1", summary=wf.Moments())) == ["fc1.weight", "fc2.weight"]


def test_named_reads() -> None:
    model = attached(reads=["fc2", "fc1.full_weight", "norm.running_mean", "conv1.bias", "norm"])
    assert read_names(model) == ["fc2.weight", "fc1.full_weight", "norm.running_mean", "conv1.bias", "norm.weight"]
    tensors = [read.tensor() for read in model.fc1.signal.reads]
    expected = [
        model.fc2.weight,
        model.fc1.full_weight,
        model.norm.running_mean,
        model.conv1.bias,
        model.norm.weight,
    ]
    assert all(map(torch.equal, tensors, expected))
    assert torch.equal(tensors[1][:, 48:], model.fc1.feedback_weight)


def test_root_layer() -> None:
    x = torch.randn(2, 5)
    for reads in (None, [""], ["weight"]):
        layer = nn.Linear(5, 4)
        before = layer(x)
        model = wf.attach(layer, "", summary=wf.Moments(), reads=reads)
        assert model is layer
        assert read_names(model, "") == ["weight"]
        assert torch.equal(model(x), before)
        assert torch.equal(wf.fold(model)(x), before)
        assert type(wf.remove(model)) is nn.Linear
    assert read_names(wf.attach(layer, "", summary=wf.DenseProjection(2), reads=["full_weight"]), "") == [
        "full_weight"
    ]


def test_detach_is_passed_on() -> None:
    assert attached().fc1.signal.detach is True
    assert attached(detach=False).fc1.signal.detach is False


def test_summary_is_copied() -> None:
    summary = wf.DenseProjection(3, seed=8)
    one, two = net(), net()
    for model in (one, two):
        wf.attach(model, "fc1", summary=summary)
        assert model.fc1.signal.summary.seed == 8
    assert summary.names == ()
    assert one.fc1.signal.summary is not two.fc1.signal.summary


def test_size_known_only_once_bound() -> None:
    pooled = wf.MaxPool([(3, 16), (2, 2)], transpose=[False, False])
    model = wf.attach(net(), "fc1", summary=pooled, reads=["fc1", "fc2"])
    assert model.fc1.feedback_weight.shape == (6, 2 * 3 + 2 * 3)
    with pytest.raises(KeyError, match="it holds V, whose size isn't known before this summary is bound"):
        wf.attach(net(), "fc1", summary=wf.Moments(), reads=["fc1.full_weight"])


def test_given_signal() -> None:
    signal = wf.Noise(torch.randn(5))
    model = wf.attach(net(), "fc1", signal=signal)
    assert model.fc1.signal is signal
    assert model.fc1.feedback_weight.shape == (6, 5)


def test_initial_v() -> None:
    assert attached(init="default").fc1.feedback_weight.abs().max() <= (48 + 3) ** -0.5
    assert attached(init="default").fc1.feedback_weight.count_nonzero() == 18
    assert attached(init="zeros").fc1.feedback_weight.count_nonzero() == 0


SILENT = {"signal": wf.Zeros(2)}
KINDS = "must be one of torch.nn's Linear, Conv1d, Conv2d, Conv3d or transformers' Conv1D"
BAD = {
    "neither": (ValueError, "either summary= .* or signal=, got neither", "fc1", {}),
    "both": (ValueError, "got both", "fc1", {"summary": wf.Moments(), "signal": wf.Zeros(2)}),
    "signal with reads": (
        ValueError,
        "reads= belongs to summary=",
        "fc1",
        {"signal": wf.Zeros(2), "reads": ["fc1"]},
    ),
    "no such layer": (KeyError, "no module 'fc3'; did you mean 'fc[12]' or 'fc[12]'", "fc3", SILENT),
    "nothing near": (KeyError, "no module 'zzz'.$", "zzz", SILENT),
    "wrong kind": (
        TypeError,
        f"'norm' {KINDS}, got torch.nn.modules.batchnorm.BatchNorm2d; .* such as 'conv1' or 'fc2' or 'fc1'",
        "norm",
        SILENT,
    ),
    "wrong root": (
        TypeError,
        f"'' {KINDS}, got helpers.cases.ConvNet; attach to 'conv1' or 'fc1' or 'fc2', inside of it",
        "",
        SILENT,
    ),
    "no such read": (
        KeyError,
        "can't read 'fc1.wieght': .* no such parameter.* did you mean 'fc1.weight'",
        "fc1",
        {"summary": wf.DenseProjection(2), "reads": ["fc1.wieght"]},
    ),
    "no such module read": (
        KeyError,
        "can't read 'conv'.* did you mean 'conv1'",
        "fc1",
        {"summary": wf.Moments(), "reads": ["conv"]},
    ),
    "no full weight of a plain layer": (
        KeyError,
        "can't read 'fc2.full_weight': the model has no such parameter",
        "fc1",
        {"summary": wf.DenseProjection(2), "reads": ["fc2.full_weight"]},
    ),
    "not floating": (
        ValueError,
        "can't read norm.num_batches_tracked",
        "fc1",
        {"summary": wf.Moments(), "reads": ["norm.num_batches_tracked"]},
    ),
    "summary fails": (ValueError, "is more than the", "fc2", {"summary": wf.DenseProjection(25)}),
    "unknown init": (ValueError, "init must be", "fc1", {"summary": wf.Moments(), "init": "ones"}),
    "unknown init, V first": (
        ValueError,
        "init must be",
        "fc1",
        {"summary": wf.DenseProjection(2), "init": "?"},
    ),
    "unknown init, signal": (ValueError, "init must be", "fc1", {"signal": wf.Zeros(2), "init": "?"}),
}


@pytest.mark.parametrize("name", list(BAD))
def test_failed_attach_leaves_the_model_as_it_was(name: str) -> None:
    error, message, into, options = BAD[name]
    model, untouched = net(), net()
    with pytest.raises(error, match=message):
        wf.attach(model, into, **options)
    assert [type(module) for module in model.modules()] == [type(module) for module in untouched.modules()]
    assert model.state_dict().keys() == untouched.state_dict().keys()
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in untouched.modules()]
    assert torch.equal(model(X), untouched(X))
    wf.attach(model, "fc1", summary=wf.Moments())  # nothing is in the way of a second try


def test_attach_twice() -> None:
    model = attached()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'fc1' has feedback already; call weight_feedback.remove"):
        wf.attach(model, "fc1", summary=wf.Moments())
    assert model.state_dict().keys() == before.keys()
    wf.check(model)


# remove


def test_remove_gives_the_model_back() -> None:
    untouched = net()
    model = wf.attach(wf.attach(net(), "fc1", summary=wf.Moments()), "conv1", signal=wf.Clock(2), init="default")
    assert not torch.equal(wf.advance(model) or model(X), untouched(X))
    assert wf.remove(model) is model
    assert [type(module) for module in model.modules()] == [type(module) for module in untouched.modules()]
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert torch.equal(model(X), untouched(X))
    assert wf.remove(model)(X).equal(untouched(X))
    assert wf.feedback_layers(model) == {}
    model.load_state_dict(untouched.state_dict())


def test_remove_then_attach_again() -> None:
    model = attached()
    assert torch.equal(wf.attach(wf.remove(model), "fc1", summary=wf.Moments())(X), net()(X))


# feedback_layers, signals, advance


def test_listing() -> None:
    model = wf.attach(attached("fc2"), "conv1", signal=wf.Zeros(2))
    assert list(wf.feedback_layers(model)) == ["conv1", "fc2"]
    assert wf.feedback_layers(model)["fc2"] is model.fc2
    assert list(wf.signals(model).values()) == [model.conv1.signal, model.fc2.signal]
    assert wf.signals(net()) == {}


def test_advance_moves_each_signal_once() -> None:
    shared, alone = wf.Clock(2), wf.Clock(3)
    model = net()
    for into, signal in (("conv1", shared), ("fc1", alone), ("fc2", shared)):
        wf.attach(model, into, signal=signal)
    wf.advance(model)
    wf.advance(model)
    assert (int(shared.step), int(alone.step)) == (2, 2)
    wf.advance(net())  # nothing to move
