"""Folding a whole model, checking it, and using it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import weight_feedback as wf
from helpers import cases
from helpers.cases import IMAGES as X
from helpers.cases import ConvNet, attached, net

# fold


def everywhere() -> ConvNet:
    model = attached()
    wf.attach(model, "conv1", signal=wf.Noise(torch.randn(4)), init="default")
    return wf.attach(model, "fc2", summary=wf.Moments(), init="default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_fold_is_exact(dtype: torch.dtype, training: bool) -> None:
    model, x = everywhere().to(dtype).train(training), X.to(dtype)
    state = copy.deepcopy(model.state_dict())
    folded = wf.fold(model)
    assert [type(module) for module in folded.modules()] == [type(module) for module in net().modules()]
    assert list(folded.state_dict()) == list(net().state_dict())
    assert torch.equal(folded(x), model(x))
    # The model is as it was, apart from the statistics that this forward gathered.
    assert wf.feedback_layers(model).keys() == {"conv1", "fc1", "fc2"}
    after = model.state_dict()
    assert all(torch.equal(state[name], after[name]) for name in state if not name.startswith("norm"))


def test_fold_of_a_plain_model_is_a_copy() -> None:
    model = net()
    folded = wf.fold(model)
    assert folded is not model
    assert torch.equal(folded(X), model(X))


def test_fold_shares_no_memory() -> None:
    model = everywhere()
    model.fc1.register_buffer("extra", torch.zeros(2))
    folded = wf.fold(model)
    ours = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    assert not ours & {tensor.data_ptr() for tensor in [*folded.parameters(), *folded.buffers()]}
    expected = folded(X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(folded(X), expected)


def test_fold_with_given_z() -> None:
    model = wf.attach(attached(), "fc2", signal=wf.Zeros(3), init="default")
    z, other = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.5, -4.0])
    heard = copy.deepcopy(model)
    heard.fc1.signal, heard.fc2.signal = wf.Constant(z), wf.Constant(z)
    assert torch.equal(wf.fold(model, z)(X), heard(X))
    heard.fc2.signal = wf.Constant(other)
    assert torch.equal(wf.fold(model, {"fc1": z, "fc2": other})(X), heard(X))
    heard.fc1.signal = model.fc1.signal
    assert torch.equal(wf.fold(model, {"fc2": other})(X), heard(X))


def test_fold_errors() -> None:
    model = attached()
    with pytest.raises(KeyError, match=r"z names 'fc2', which isn't a feedback layer; these are: \['fc1'\]"):
        wf.fold(model, {"fc2": torch.zeros(3)})
    for z in (torch.zeros(4), {"fc1": torch.zeros(4)}):
        with pytest.raises(ValueError, match=r"z must have shape \[3\], got \[4\]"):
            wf.fold(model, z)


def test_fold_copies_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attached()
    stale = wf.Stale(wf.OwnWeights([(model.fc1, "weight", "fc1.weight")], wf.Moments()), 2)
    wf.attach(model, "fc2", signal=stale)

    def refuse(self: nn.Module, memo: object) -> None:
        raise AssertionError(f"{type(self).__name__} was copied")

    for kind in (wf.Signal, wf.Summary):
        monkeypatch.setattr(kind, "__deepcopy__", refuse, raising=False)
    folded = wf.fold(model)
    assert not any(isinstance(module, wf.Signal | wf.Summary) for module in folded.modules())


class Itself(nn.Module):
    def __init__(self, copies: str) -> None:
        super().__init__()
        self.layer, self.copies = nn.Linear(4, 4), copies

    def __deepcopy__(self, memo: dict[int, object]) -> Itself:
        return self if self.copies == "none" else Itself("anew")


@pytest.mark.parametrize(("copies", "why"), [("none", "returns what it should copy"), ("new", "builds a new one")])
def test_what_is_not_copied_keeps_its_feedback(copies: str, why: str) -> None:
    model = wf.attach(nn.Sequential(Itself(copies)), "0.layer", summary=wf.CountSketch(2), init="default")
    with pytest.raises(ValueError, match=why):
        wf.fold(model)
    assert list(wf.feedback_layers(model)) == ["0.layer"]


class Collecting(nn.Module):
    """Keeps a loss of each forward, as mixtures of experts do, with its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.losses = nn.Linear(4, 4), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        self.losses.append({"balance": y.var()})
        return torch.tanh(y)


def test_fold_of_a_model_that_keeps_losses_in_a_list() -> None:
    model = wf.attach(Collecting(), "layer", summary=wf.CountSketch(2), init="default")
    x = torch.rand(3, 4)
    expected = model(x)
    folded = wf.fold(model)
    assert torch.equal(folded(x), expected)
    assert folded.losses[0]["balance"].is_leaf
    assert torch.equal(folded.losses[0]["balance"], model.losses[0]["balance"])
    model.losses[0]["balance"].backward()


@pytest.mark.parametrize("part", [False, True])
def test_fold_of_what_is_wrapped_by_compile(part: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    wf.attach(model, "0", summary=wf.CountSketch(2), init="default")
    x = torch.rand(3, 4)
    expected = model(x)
    if part:
        model[0] = torch.compile(model[0], backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    assert torch.equal(model(x), expected)
    assert wf.check(model, x).fold_difference == 0
    folded = wf.fold(model, inputs=x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(folded(x), expected)


def test_fold_of_a_layer_used_twice() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    wf.attach(model, "0", summary=wf.Moments(), init="default")
    x = torch.randn(3, 4)
    folded = wf.fold(model)
    assert folded[0] is folded[2]
    assert torch.equal(folded(x), model(x))


# check


def test_check_finds_a_replaced_module() -> None:
    model = attached()
    wf.check(model)
    wf.check(copy.deepcopy(model))
    wf.check(pickle.loads(pickle.dumps(model)))
    wf.check(net())
    model.fc2 = nn.Linear(6, 4)
    with pytest.raises(ValueError, match=r"the signal of 'fc1' reads fc2.weight, whose module is no longer"):
        wf.check(model)
    with pytest.raises(ValueError, match="no longer in the model"):
        wf.fold(model)
    wf.attach(wf.remove(model), "fc1", summary=wf.Moments())
    wf.check(model)


def test_check_finds_a_submodule_copied_alone() -> None:
    model = attached()
    model.fc1 = copy.deepcopy(model.fc1)
    with pytest.raises(ValueError, match=r"fc2\.weight"):
        wf.check(model)


def test_check_looks_into_stale_signals() -> None:
    model = net()
    wf.attach(model, "fc1", signal=wf.Stale(wf.OwnWeights([(nn.Linear(2, 2), "weight", "w")], wf.Moments()), 1))
    with pytest.raises(ValueError, match="reads w, whose module"):
        wf.check(model)


# In use


@pytest.mark.parametrize("case", cases.SIGNALS, ids=cases.ids(cases.SIGNALS))
def test_an_attached_model_trains(case: cases.SignalCase) -> None:
    model = case.attached()
    x = torch.linspace(-2, 2, 60, dtype=torch.float64).sin().view(10, 6)
    y = x[:, :3].square()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        wf.advance(model)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_compiled_model_sees_weight_updates() -> None:
    model = cases.network(torch.float32)
    wf.attach(model, "2", summary=wf.DenseProjection(4), reads=["0", "2"], init="default")
    # This backend takes the same one graph, which is what could freeze a weight, but needs no C++ compiler.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 6)
    for _ in range(3):
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
        before = model(x)
        with torch.no_grad():
            model[0].weight.mul_(-1.5)
            model[2].weight.add_(0.5)
        assert not torch.isclose(model(x), before, rtol=1e-3).any()
