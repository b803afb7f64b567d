"""What `check`, `diagnose` and `fold` leave behind in models that keep state of their own: nothing."""

from __future__ import annotations

import collections
import copy
import gc
import random
import re
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import weight_feedback as wf
from helpers.diagnoses import Calls

X = torch.linspace(-1, 1, 24).view(4, 6)


def attached(model: nn.Module, into: str = "a", **options) -> nn.Module:
    return wf.attach(model, into, summary=wf.CountSketch(3), init="default", **options)


def toy(forward: Callable[..., object]) -> nn.Module:
    return Calls(forward, a=nn.Linear(6, 6), b=nn.Linear(6, 4))


def look(model: nn.Module) -> None:
    wf.check(model, X)
    wf.diagnose(model, X)
    wf.fold(model, inputs=X)


# State in plain attributes


class Recurrent(nn.Module):
    """Keeps all kinds of state in plain attributes, and returns what depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.hidden = nn.Linear(6, 6), [nn.BatchNorm1d(6)]
        self.count, self.state, self.cache = 0, None, torch.zeros(8, 6)
        self.seen: dict[str, list[Tensor]] = {"outputs": []}
        self.last: collections.deque[int] = collections.deque([0, 0], maxlen=2)
        self.sizes: set[int] = set()
        self.generator, self.random = torch.Generator(), random.Random(0)
        self.numpy = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.hidden[0](self.a(x))
        y = y + torch.rand(6, generator=self.generator) + self.random.random() + float(self.numpy.random())
        if self.state is not None:
            y = y + self.state + self.cache.sum()
        self.cache.data[self.count] = y[0].detach()
        self.count += 1
        self.state = y
        self.seen["outputs"].append(y)
        self.seen.setdefault("more", [])
        self.last.append(self.count)
        self.sizes.add(self.count)
        if not hasattr(self, "late"):
            self.late = nn.Linear(6, 2)
        return self.late(torch.tanh(y))

    def kept(self) -> list[object]:
        norm = self.hidden[0]
        tensors = [self.cache, norm.running_mean, norm.num_batches_tracked, self.generator.get_state()]
        return [
            *(tensor.tolist() for tensor in tensors),
            *(self.count, id(self.state), [*map(id, self.seen["outputs"])], [*self.seen], [*self.last]),
            *({*self.sizes}, self.random.getstate(), self.numpy.bit_generator.state, sorted(vars(self))),
            [*self._modules],
        ]


@pytest.mark.parametrize("forwards", [0, 2])
def test_state_in_plain_attributes_is_as_before(forwards: int) -> None:
    model = attached(Recurrent())
    for _ in range(forwards):
        model(X)
    before = model.kept()
    report = wf.check(model, X)
    assert report.fold_difference == 0  # as each run begins with the same state
    wf.diagnose(model, X)
    assert model.kept() == before


def test_a_pending_backward_goes_on_over_state() -> None:
    model = attached(Recurrent())
    loss = model(X).sum()
    look(model)
    loss.backward()
    assert model.a.feedback_weight.grad.any()


# Hooks


@pytest.mark.parametrize("register", ["register_post_accumulate_grad_hook", "register_hook"])
def test_an_optimiser_in_a_hook_takes_no_step(register: str) -> None:
    model = attached(toy(lambda model, x: model.b(checkpoint(model.a, x, use_reentrant=True))))
    parameters = [*model.parameters()]
    steps = []
    for parameter in parameters:
        getattr(parameter, register)(lambda _: steps.append(1) and None)
    x = X.clone().requires_grad_()
    wf.check(model, x)
    wf.diagnose(model, x)
    assert not steps
    model(x).sum().backward()
    assert len(steps) == len(parameters)


# Memory


@pytest.mark.parametrize("look", [lambda m: wf.check(m, X), lambda m: wf.diagnose(m, X), wf.fold, wf.remove])
def test_a_model_that_was_looked_at_is_freed(look: Callable[[nn.Module], object]) -> None:
    model = attached(toy(lambda model, x: model.b(torch.tanh(model.a(x)))))
    report = look(model)
    if report is model:
        del report
    freed = weakref.ref(model.a)
    del model
    gc.collect()
    assert freed() is None


def test_a_model_whose_diagnosis_failed_is_freed() -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        raise ValueError(f"failed on purpose: {model.a(x).shape}")

    model = attached(toy(forward))
    with pytest.raises(ValueError, match="failed on purpose"):
        wf.diagnose(model, X)
    freed = weakref.ref(model.a)
    del model
    gc.collect()
    assert freed() is None


# V that is computed


def halved(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "feedback_weight", 0.5)


def normed(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer, "feedback_weight")


def bounded(layer: nn.Module) -> None:
    parametrizations.spectral_norm(layer, "feedback_weight")


def scaled(layer: nn.Module) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        nn.utils.weight_norm(layer, "feedback_weight")


@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize("compute", [halved, normed, bounded, scaled])
def test_v_that_is_computed_goes_with_all_that_computes_it(compute: Callable, conditioning: str) -> None:
    base = toy(lambda model, x: model.b(torch.tanh(model.a(x))))
    model = attached(copy.deepcopy(base), conditioning=conditioning)
    compute(model.a)
    model(X)
    before = copy.deepcopy(model.state_dict())
    assert wf.check(model, X).layers["a"].gradient
    wf.diagnose(model, X)
    folded = wf.fold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(folded.eval()(X), model.eval()(X))
    for plain in (folded, wf.remove(model)):
        assert [*plain.state_dict()] == [*base.state_dict()]
        assert type(plain.a) is nn.Linear
        assert not plain.a._forward_pre_hooks
    assert torch.equal(model(X), base(X))


# Modes and values


def test_check_under_inference_mode() -> None:
    model = attached(toy(lambda model, x: model.b(torch.tanh(model.a(x)))))
    with torch.inference_mode():
        assert wf.check(model, X).layers["a"].gradient


def test_diagnosis_of_a_forward_under_inference_mode() -> None:
    model = toy(torch.inference_mode()(lambda model, x: model.b(torch.tanh(model.a(x)))))
    assert wf.diagnose(attached(model), X).layers["a"].share > 0


class WithoutDerivative(torch.autograd.Function):
    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(*_) -> None:
        pass


def test_diagnosis_where_an_operation_has_no_derivative() -> None:
    model = attached(toy(lambda model, x: model.b(WithoutDerivative.apply(model.a(x)))))
    assert wf.diagnose(model, X).layers["a"].reached is not True


@pytest.mark.parametrize("look", [wf.check, wf.diagnose])
def test_what_cannot_be_run_yet(look: Callable[..., object]) -> None:
    lazy = attached(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.LazyBatchNorm1d(affine=False)), "0", reads="0")
    with pytest.raises(ValueError, match="lazy and has no shape yet; run one batch"):
        look(lazy, X)
    lazy(X)
    look(lazy, X)
    with torch.device("meta"):
        model = attached(toy(lambda model, x: model.b(torch.tanh(model.a(x)))))
    with pytest.raises(ValueError, match="weights are on the meta device"):
        look(model, X)
    weights = toy(lambda model, x: model.b(torch.tanh(model.a(x)))).state_dict()
    for name in weights:
        part, _, attribute = name.partition(".")
        setattr(getattr(model, part), attribute, nn.Parameter(weights[name]))
    model.a.feedback_weight = nn.Parameter(torch.ones(6, 3))
    with pytest.raises(
        ValueError, match=re.escape("call to_empty(device=…) of each of weight_feedback.signals(model)")
    ):
        look(model, X)
    for signal in wf.signals(model).values():
        signal.to_empty(device="cpu")
    look(model, X)
    assert (model.a.feedback_weight == 1).all()
