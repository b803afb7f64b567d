"""What `check`, `attach` and `diagnose` say of other people's networks and of small ones, beside what happens."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import random
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations

import weight_feedback as wf
from helpers import architectures, integration_architectures, observed_feedback, small_networks
from helpers.architectures import Architecture, Conditioning, drawn
from helpers.diagnoses import Calls
from helpers.observed_feedback import Truth

pytestmark = pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad=True. Gradients will be None:UserWarning"
)

#: Words of `Truth.of` for layers that don't learn to hear, whatever is trained.
UNHEARD = ("uncalled", "lost", "moves alone")
NETWORKS = [*architectures.CASES, *integration_architectures.CASES]
ALL = [*NETWORKS, *small_networks.CASES]


@dataclasses.dataclass(frozen=True)
class Tried:
    """An architecture in one of its modes, with one way of conditioning."""

    case: Architecture
    conditioning: Conditioning
    training: bool

    def __str__(self) -> str:
        return f"{self.case.name}-{self.conditioning}-{'train' if self.training else 'eval'}"

    def silent(self) -> nn.Module:
        return self.case.attached(self.training, self.conditioning)

    def speaking(self) -> nn.Module:
        return observed_feedback.speak_up(self.silent())

    @functools.cached_property
    def truth(self) -> Truth:
        return observed_feedback.find(self.speaking(), self.case.inputs())

    @property
    def used(self) -> Mapping[str, set[str]]:
        return used_otherwise(self.case)


@functools.cache
def used_otherwise(case: Architecture) -> Mapping[str, set[str]]:
    base = case.base()
    names = architectures.able(base)
    used = case.used or observed_feedback.used_otherwise(base, names, case.inputs())
    return {name: set(used.get(name, ())) for name in names}


TRIED = [
    *(Tried(case, "concat", training=False) for case in ALL),
    *(Tried(case, "concat", training=True) for case in ALL if case.training or case.in_training),
    *(Tried(case, "film", training=False) for case in ALL if case.film),
]


def each_tried(tried: Sequence[Tried]) -> list:
    """Other people's networks run no line of the library that small ones don't; counting lines doubles the time."""
    untraced = {True: (), False: pytest.mark.no_cover}
    return [pytest.param(one, marks=untraced[one.case in small_networks.CASES], id=str(one)) for one in tried]


of_tried = pytest.mark.parametrize("tried", each_tried(TRIED))


@of_tried
def test_what_truly_happens_is_what_is_known(tried: Tried) -> None:
    found = tried.truth
    words = {name: found.of(name) for name in found.calls}
    assert words == {name: tried.case.expected(name, tried.training) for name in words}
    # Folding gives a layer another bias, and with film another weight: others that use these get them too.
    changed = {"concat": {"bias"}, "film": {"bias", "weight"}}[tried.conditioning]
    spoilt = any(changed & used for used in tried.used.values())
    if tried.case.folds is not None:
        spoilt = not tried.case.folds
    assert (found.folded > observed_feedback.ROUNDING) == spoilt
    assert spoilt or tried.conditioning == "film" or found.folded == 0


def checked(model: nn.Module, tried: Tried) -> tuple[wf.Check, bool]:
    """Return what `check` found, and whether it raised."""
    try:
        with observed_feedback.seeded():
            return wf.check(model, **tried.case.inputs()), False
    except wf.CheckError as error:
        return error.report, True


@of_tried
def test_check_says_what_truly_happens(tried: Tried) -> None:
    report, raised = checked(tried.silent(), tried)
    found = tried.truth
    assert {name: layer.calls for name, layer in report.layers.items()} == found.calls
    assert {name: layer.gradient for name, layer in report.layers.items()} == found.gradient
    assert {name: {*layer.used} for name, layer in report.layers.items()} == tried.used
    assert (report.fold_difference > observed_feedback.ROUNDING) == (found.folded > observed_feedback.ROUNDING)
    if found.folded == 0:
        assert report.fold_difference == 0
    unheard = [name for name in found.calls if found.of(name) in UNHEARD]
    assert raised == (bool(unheard) or found.folded > observed_feedback.ROUNDING) == bool(report.problems)
    assert all(report.layers[name].problems for name in unheard)
    for layer in report.layers.values():
        assert {*layer.problems} <= {*report.problems}


@pytest.mark.parametrize("case", small_networks.CASES, ids=lambda case: case.name)
def test_check_says_the_same_of_a_trained_model(case: Architecture) -> None:
    tried = Tried(case, "concat", training=False)
    (silent, _), (speaking, _) = checked(tried.silent(), tried), checked(tried.speaking(), tried)
    assert silent.layers == speaking.layers
    assert len(silent.problems) == len(speaking.problems)


@pytest.mark.parametrize(
    ("bias", "why"),
    [
        (True, "fold changes what is taken elsewhere: the bias of 'a', 'c' at .*py:[0-9]+ in forward"),
        (False, "fold gives a bias to 'a', 'c', whose weight is taken elsewhere and which had none"),
    ],
)
def test_check_says_why_a_fold_differs(bias: bool, why: str) -> None:
    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for layer in (model.a, model.c):
            x = torch.tanh(F.linear(x, layer.weight, layer.bias))
        return model.b(x)

    layers = {name: nn.Linear(6, 6, bias=bias) for name in "abc"}
    model = wf.attach(Calls(forward, **layers), ["a", "c"], summary=wf.CountSketch(3))
    with pytest.raises(wf.CheckError, match=why):
        wf.check(model, torch.rand(5, 6))


@pytest.mark.parametrize(
    "case",
    [case for case in ALL if case in small_networks.CASES or "uncalled" in case.layers.values()],
    ids=lambda case: case.name,
)
def test_fold_compares_where_inputs_are_given(case: Architecture) -> None:
    tried = Tried(case, "concat", training=False)
    model, inputs = tried.speaking(), case.inputs()
    if tried.truth.folded > observed_feedback.ROUNDING:
        with pytest.raises(ValueError, match="fold: on inputs= the folded model returns something else"):
            wf.fold(model, inputs=inputs)
    else:
        folded = wf.fold(model, inputs=inputs)
        assert not wf.feedback_layers(folded)


@pytest.mark.parametrize(
    "tried", each_tried([tried for tried in TRIED if tried.case in small_networks.CASES or tried.training])
)
@torch.no_grad()
def test_check_leaves_no_trace(tried: Tried) -> None:
    model, inputs = tried.speaking(), tried.case.inputs()
    output = observed_feedback.run(model, inputs)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    modules = [
        (m.training, m._forward_hooks.copy(), m._forward_pre_hooks.copy(), [*vars(m)]) for m in model.modules()
    ]
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])  # noqa: NPY002
    with contextlib.suppress(wf.CheckError):
        wf.check(model, **inputs)
    after = model.state_dict()
    assert [*after] == [*before]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    assert [*map(id, now.values())] == [*map(id, tensors.values())]
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [(m.training, m._forward_hooks, m._forward_pre_hooks, [*vars(m)]) for m in model.modules()] == modules
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    assert observed_feedback.distance(observed_feedback.run(model, inputs), output) == 0


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_attach_warns_of_weights_that_others_take(case: Architecture) -> None:
    base = case.base()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wf.attach(base, architectures.able(base), signal=wf.Constant(drawn(2)))
    texts = [str(w.message) for w in caught if "uses a layer without calling it" in str(w.message)]
    assert len(texts) <= 1
    warned: dict[str, set[str]] = {}
    for what, names in re.findall(r"takes the (weight|bias) of ((?:'[^']*'(?:, )?)+)", "".join(texts)):
        for name in re.findall("'([^']*)'", names):
            warned.setdefault(name, set()).add(what)
    expected = {name: parts for name, parts in used_otherwise(case).items() if parts}
    for pattern, parts in case.warned.items():
        expected |= dict.fromkeys(fnmatch.filter(used_otherwise(case), pattern), parts)
    if case in small_networks.CASES:
        expected = {}  # their functions aren't methods, and so nothing shows
    assert warned == expected


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, utils.spectral_norm])
@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_a_power_iteration_that_has_just_begun_makes_no_difference(norm, conditioning: str, training: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(16, 16)), nn.Tanh(), norm(nn.Linear(16, 16))).train(training)
    wf.attach(model, ["0", "2"], summary=wf.CountSketch(3), conditioning=conditioning)
    report = wf.check(model, torch.rand(5, 16))
    assert report.fold_difference < observed_feedback.ROUNDING


def test_a_check_costs_one_forward_and_one_of_the_fold() -> None:
    kinds = []

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        kinds.append(type(model.a))
        return model.a(x)

    model = wf.attach(Calls(forward, a=nn.Linear(6, 4)), "a", summary=wf.CountSketch(3))
    wf.check(model, torch.rand(5, 6))
    assert kinds == [wf.FeedbackLinear, nn.Linear]


#: Those with functions of their own, which `torch.autograd.grad` can't go through, or which lead to no V.
OPAQUE = ("checkpoint-reentrant", "reversible")


@pytest.mark.parametrize(
    "tried",
    each_tried([tried for tried in TRIED if tried.case.name != "vmap"]),  # under which nothing can be measured
)
def test_diagnose_knows_what_is_cancelled(tried: Tried) -> None:
    model = tried.speaking()
    with observed_feedback.seeded():
        found = wf.diagnose(model, **tried.case.inputs()).layers
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: layer.calls for name, layer in found.items()} == tried.truth.calls
    for name, layer in found.items():
        word = tried.truth.of(name)
        if word == "heard" and tried.case.name in OPAQUE:
            assert (layer.reached, layer.cancelled) in ((True, False), (None, None)), name
        elif word == "heard":
            assert (layer.reached, layer.cancelled) == (True, False), name
        elif word == "cancelled":
            assert layer.cancelled or layer.reached is False, name
        else:
            assert not layer.reached, (name, word)
