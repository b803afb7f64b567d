"""The one forward of a diagnosis: it leaves no trace, and sees every call."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weight_feedback as wf
from helpers import cases
from helpers.diagnoses import Calls, Z, adding, decided, hearing, of, rms
from weight_feedback.diagnose import diagnose

# No trace


class Noisy(nn.Module):
    """All that a forward may change: running statistics, random states, buffers that are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cases.attached("conv1")
        self.drop = nn.Dropout(0.5)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        wf.attach(self, "net.fc2", signal=wf.OwnWeights([(self.head, "weight", "head.weight")], wf.Moments()))
        self.register_buffer("seen", torch.zeros(()))
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        with torch.enable_grad():
            y = self.head(self.drop(self.net(x)))
        if self.fails:
            raise RuntimeError("failed on purpose")
        return y


def trace(model: nn.Module) -> list[object]:
    hooks = [(*m._forward_hooks, *m._forward_pre_hooks, m.training) for m in model.modules()]
    buffers = [(name, id(buffer), buffer._version) for name, buffer in model.named_buffers()]
    return [hooks, buffers, torch.get_rng_state().tolist(), torch.is_grad_enabled()]


def values(model: nn.Module) -> list[Tensor]:
    kept = [*model.buffers(), *model.parameters()]
    return [
        tensor.detach().clone() for tensor in [*kept, *(p.grad for p in model.parameters() if p.grad is not None)]
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_leaves_no_trace(training: bool, fails: bool) -> None:
    torch.manual_seed(0)
    model = Noisy().train(training)
    model(cases.IMAGES).sum().backward()
    before, kept = trace(model), values(model)
    model.fails = fails
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            diagnose(model, cases.IMAGES)
    else:
        diagnose(model, cases.IMAGES)
    assert trace(model) == before
    assert all(map(torch.equal, values(model), kept))
    assert len(kept) > 20


def test_pending_backward_goes_on() -> None:
    model = cases.attached("conv1").train()
    loss = model(cases.IMAGES).square().sum()
    diagnose(model, cases.IMAGES)
    loss.backward()
    assert model.conv1.weight.grad is not None


def test_buffers_of_signals_are_not_copied() -> None:
    class Large(wf.Constant):
        def forward(self) -> Tensor:
            places.append(self.z.data_ptr())
            return self.z

    for model, name in ((nn.Linear(2, 3), ""), (nn.Sequential(nn.Linear(2, 3)), "0")):
        places: list[int] = []
        signal = Large(torch.ones(4))
        diagnose(wf.attach(model, name, signal=signal), torch.ones(1, 2))
        assert set(places) == {signal.z.data_ptr()}


def test_mode_of_the_model_counts() -> None:
    model = cases.attached()
    with torch.no_grad():
        model.norm.running_mean.fill_(0.5)
    for training in (True, False):
        model.train(training)
        heard = []
        handle = model.fc1.register_forward_hook(lambda *call, heard=heard: heard.append(call[2].detach().numpy()))
        copy.deepcopy(model)(cases.IMAGES)
        handle.remove()
        with torch.no_grad():
            added = model.fc1.feedback_weight @ model.fc1.signal()
        found = of(model, cases.IMAGES)
        assert found.rest == pytest.approx(rms(heard[0] - added.numpy()), rel=1e-5)


def test_inference_mode() -> None:
    expected = of(cases.attached("conv1"), cases.IMAGES)
    with torch.inference_mode():
        found = of(cases.attached("conv1"), cases.IMAGES + 0)
    # Built so, it has no gradients.
    assert found == dataclasses.replace(expected, reached=None, cancelled=None)


def test_compiled_models() -> None:
    expected = of(cases.attached(), cases.IMAGES)
    model = cases.attached()
    model.compile(backend="eager")
    with torch.no_grad():
        model(cases.IMAGES)  # compiled now, without hooks
    assert of(model, cases.IMAGES) == expected
    assert of(torch.compile(cases.attached(), backend="eager"), cases.IMAGES) == expected


# Calls


def test_called_twice() -> None:
    torch.manual_seed(5)
    plain = nn.Linear(6, 5).double()
    layer = hearing(copy.deepcopy(plain), conditioning="film")
    one, two = torch.randn(2, 6, dtype=torch.float64), 1 + torch.randn(3, 4, 6, dtype=torch.float64)
    found = of(Calls(lambda m, x, y: m.fc(x).sum() + m.fc(y).sum() + m.fc(x[:0]).sum(), fc=layer), one, two)
    whole, rest = ([module(x).detach().numpy() for x in (one, two)] for module in (layer, plain))
    added = rms(np.concatenate([(w - r).ravel() for w, r in zip(whole, rest, strict=True)]))
    assert found.calls == 2
    assert found.added == pytest.approx(added, rel=1e-12)
    assert found.rest == pytest.approx(rms(np.concatenate([r.ravel() for r in rest])), rel=1e-12)
    assert found.saturated == pytest.approx(decided(whole, rest, 0))
    assert decided(whole, rest, 0) not in [decided([w], [r], 0) for w, r in zip(whole, rest, strict=True)]


def test_never_called() -> None:
    model = Calls(lambda _, x: x, fc=hearing(nn.Linear(2, 3)))
    report = diagnose(model, torch.ones(2), z0=Z)
    found = report.layers["fc"]
    assert (found.calls, found.norm, found.explained) == (0, pytest.approx(float(Z.norm())), pytest.approx(1))
    assert {found.added, found.rest, found.share, found.saturated, found.normalised_by} == {None}
    assert found.conclusion == "never called: this forward doesn't use the layer, so nobody hears its z."
    assert "audible" not in str(report)
    words = [text.get_text() for text in report.plot().subfigs[0].axes[0].texts]
    assert words == ["never called", "never called"]


def test_inputs_as_the_forward_takes_them() -> None:
    model = Calls(lambda m, left, right: m.fc(input=left + right), fc=hearing(nn.Linear(2, 3)))
    left, right = torch.randn(2, 4, 2)
    expected = of(model, left, right)
    assert expected.calls == 1
    assert of(model, left, right=right) == expected
    batch = {"left": left, "right": right}
    assert of(model, **batch) == expected


# Batch normalisation


def test_batch_norm_cancels_a_bias() -> None:
    model = cases.attached("conv1").train()
    found = of(model, cases.IMAGES)
    assert found.normalised_by == "norm"
    assert "in training 'norm', the normalisation that comes next, cancels all that z adds" in found.conclusion
    assert "softmax" not in found.conclusion
    silent = copy.deepcopy(model)
    with torch.no_grad():
        silent.conv1.feedback_weight.zero_()
    assert of(silent, cases.IMAGES).conclusion == "silent: V is zero."
    torch.testing.assert_close(silent(cases.IMAGES), model(cases.IMAGES), rtol=1e-4, atol=1e-5)
    film = of(cases.attached("conv1", conditioning="film"), cases.IMAGES)
    assert "cancels z's shift and the size of its scale" in film.conclusion
    assert of(cases.attached("fc1"), cases.IMAGES).normalised_by is None


@pytest.mark.parametrize(
    ("function", "shape", "name"),
    [
        (lambda m, x: m.bn(m.fc(x)), (4, 4), "bn"),
        (lambda m, x: m.bn(input=m.fc(x).view(4, 4)), (4, 4), "bn"),
        (lambda m, x: m.bn(m.fc(x)) + m.other(m.fc(x)), (4, 4), "bn"),
        (lambda m, x: m.bn(m.fc(x)) + m.fc(x), (4, 4), None),
        (lambda m, x: m.bn(m.fc(x) + 1), (4, 4), None),
        (lambda m, x: m.bn(m.fc(x).relu_()), (4, 4), None),
        (lambda m, x: m.bn(m.fc(x).T), (4, 4), None),
        (lambda m, x: m.bn(m.fc(x)[:2]), (4, 4), None),
        # Here the batch normalisation's channels aren't those of the layer.
        (lambda m, x: m.bn(m.fc(x)), (2, 4, 4), None),
        # The output is gone, and one of the other tensors would get its memory.
        (lambda m, x: m.fc(x).sum() + sum(map(m.bn, [x * 2 for _ in range(50)])), (4096, 4), None),
    ],
)
def test_batch_norm_must_take_the_output_itself(function, shape: tuple[int, ...], name: str | None) -> None:
    model = Calls(function, fc=hearing(nn.Linear(4, 4)), bn=nn.BatchNorm1d(4), other=nn.BatchNorm1d(4))
    assert of(model, torch.randn(shape)).normalised_by == name


# What follows


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_keys_of_an_attention_are_cancelled(conditioning: str) -> None:
    torch.manual_seed(0)
    query, key, value = (nn.Linear(6, 6).double() for _ in range(3))
    hear = {"key": hearing(key, conditioning=conditioning), "value": hearing(value, conditioning=conditioning)}

    def attend(m: nn.Module, x: Tensor) -> Tensor:
        return torch.softmax(m.query(x) @ m.key(x).transpose(-1, -2), -1) @ m.value(x)

    x = torch.randn(2, 5, 6, dtype=torch.float64)
    model = Calls(attend, query=query, **hear)
    layers = diagnose(model, x).layers
    # What is added to all keys alike, the softmax takes away; a scale of each it doesn't.
    assert (layers["key"].cancelled, layers["value"].cancelled) == (conditioning == "concat", False)
    assert layers["key"].conclusion.startswith("cancelled: z makes up") == (conditioning == "concat")
    assert "a softmax does with what all keys of an attention have in common" in layers["key"].conclusion or (
        conditioning == "film"
    )
    before, outputs = model(x), []
    for layer in hear.values():
        with torch.no_grad():
            kept = layer.feedback_weight.clone()
            layer.feedback_weight.neg_()
            outputs.append(float((model(x) - before).detach().abs().max()))
            layer.feedback_weight.copy_(kept)
    assert (outputs[0] < 1e-12) == (conditioning == "concat")
    assert outputs[1] > 1e-2


@pytest.mark.parametrize(
    ("function", "reached"),
    [
        (lambda m, x: m.fc(x) * 0, False),
        (lambda m, x: m.fc(x).detach() + x.sum() * m.other(x), False),
        (lambda m, x: m.fc(x) * 1e-30, True),
        (lambda m, x: m.fc(x).relu_(), True),
        # Of three dimensions, a layer's output is a view; written to in place, it still counts.
        (lambda m, x: m.fc(x[None]).add_(1), True),
        (lambda m, x: m.other(m.fc(x)), True),
        (lambda m, x: [{"y": m.fc(x)}, None], True),
    ],
)
def test_whether_the_outputs_depend_on_the_layer(function, reached: bool) -> None:
    model = Calls(function, fc=hearing(nn.Linear(4, 4)), other=nn.Linear(4, 4))
    found = of(model, torch.linspace(-1, 1, 20).view(5, 4))
    assert found.reached is reached
    assert found.heard is True
    assert found.conclusion.startswith("without effect: z makes up") == (not reached)
    assert found.cancelled is (False if reached else None)


def test_derivatives_that_are_unknown() -> None:
    model = Calls(lambda m, x: m.fc(x).argmax(1), fc=hearing(nn.Linear(4, 4)))
    found = of(model, torch.ones(5, 4))
    assert (found.reached, found.cancelled) == (None, None)
    found = of(Calls(lambda m, x: m.fc(x), fc=hearing(nn.Linear(4, 4)).bfloat16()), torch.ones(5, 4).bfloat16())
    assert (found.reached, found.cancelled) == (None, None)  # too coarse to tell what cancels

    def run(m: nn.Module, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(m.fc, x, use_reentrant=True)

    found = of(Calls(run, fc=hearing(nn.Linear(4, 4))), torch.ones(5, 4, requires_grad=True))
    assert (found.reached, found.cancelled) == (None, None)
    assert "audible" in found.conclusion or "outweighs" in found.conclusion


# Not finite


def test_z_that_is_not_finite() -> None:
    layer = hearing(nn.Linear(2, 3), torch.tensor([1.0, float("nan"), 0.0, float("inf")]))
    report = diagnose(layer, torch.ones(2, 2), z0=torch.ones(4), previous=torch.ones(4))
    found = report.layers[""]
    assert found.conclusion == "broken: 2 of the 4 entries of z are not finite, so what it reads has diverged."
    assert (found.dead, found.saturated) == (0.75, 0)
    assert np.isnan([found.norm, found.share, found.explained, found.drift, found.change]).all()
    plain = report.to_dict()[""]
    assert plain["z"] == [1, None, 0, None]
    assert plain["share"] is None
    report.plot()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weight", "feedback_weight"])
def test_output_that_is_not_finite(where: str, bad: float) -> None:
    layer = adding(1.0)
    with torch.no_grad():
        getattr(layer, where)[0, 0] = bad
    assert of(layer, torch.ones(3, 2)).conclusion == (
        "broken: z is finite but the layer's output isn't, so its input, its weights or V have diverged."
    )
