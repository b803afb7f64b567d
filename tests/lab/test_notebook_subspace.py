"""Studies in a random subspace: networks move in it alone, and hear the coordinates that they should."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import weight_feedback as wf
from helpers.interrupted_trials import STEPS, TRAINING, few_images, make
from helpers.lockstep_training import trained
from helpers.studies import BASE
from weight_feedback.lab.data import datasets
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.fields import explain
from weight_feedback.lab.tasks.notebook import arms
from weight_feedback.lab.tasks.notebook.building import build_cohort, check_fit
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Subspace
from weight_feedback.lab.tasks.notebook.subspace import Confined, projection
from weight_feedback.lab.training.run import Options, run_trial

SUBSPACE = Subspace(dimensions=7)


def trial(signal: str | None, **changes):
    return make(signal, summary=None, training={"subspace": SUBSPACE, "lr": 0.5}, **changes)


def lockstep(signal: str | None) -> tuple[ConvNet, Lockstep]:
    one = trial(signal)
    models, donors = build_cohort([one], STEPS, torch.device("cpu"))
    return models[0], Lockstep(models, few_images(), one.training, [one.seed], donors)


def heard(model: ConvNet) -> Tensor:
    return model.fc1.signal().clone()


@pytest.mark.parametrize("kind", ["count", "kronecker", "dense"])
def test_training_is_that_of_the_librarys_subspace(kind: str) -> None:
    data = few_images()
    x = data.train_images[:20].double() / 255
    settings = Subspace(dimensions=9, projection=kind)

    def network() -> ConvNet:
        return arms.build_arm(make(None), STEPS).double()

    plain, reference = network(), wf.Subspace(network(), projection(settings, seed=4))
    confined = Confined(plain, settings, seed=4)
    ours, theirs = (torch.optim.SGD([module.coordinates], lr=0.5, momentum=0.5) for module in (confined, reference))
    for _ in range(3):
        plain.zero_grad()
        F.nll_loss(plain(x), data.train_labels[:20]).backward()
        confined.collect()
        ours.step()
        confined.move()
        theirs.zero_grad()
        F.nll_loss(reference(x), data.train_labels[:20]).backward()
        theirs.step()
    assert confined.coordinates.abs().min() > 0
    torch.testing.assert_close(confined.coordinates, reference.coordinates, rtol=1e-12, atol=1e-14)
    for name, moved in reference.weights().items():
        torch.testing.assert_close(plain.get_parameter(name), moved, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("signal", ["none", "zeros", "own", "yoked"])
def test_weights_are_where_the_coordinates_say(signal: str) -> None:
    model, learning = lockstep(signal)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained(learning)
    v = learning.tensors()["network.0.coordinates"]
    assert v.abs().min() > 0
    moved = projection(SUBSPACE, seed=trial(signal).seed).bind(start).adjoint(v)
    for (name, begin), by in zip(start.items(), moved, strict=True):
        torch.testing.assert_close(model.get_parameter(name).detach(), begin + by)


def test_own_hears_its_coordinates_and_zeros_nothing() -> None:
    model, learning = lockstep("own")
    assert not heard(model).any()
    trained(learning)
    assert torch.equal(heard(model), learning.tensors()["network.0.coordinates"])
    silent, quiet = lockstep("zeros")
    trained(quiet)
    assert not heard(silent).any()
    assert learning.histories[0].step_losses[0] == quiet.histories[0].step_losses[0]
    assert learning.histories[0].step_losses[2] != quiet.histories[0].step_losses[2]


def test_yoked_hears_the_coordinates_of_a_donor_that_hears_its_own(monkeypatch) -> None:
    data = few_images()
    monkeypatch.setattr(datasets, "load", lambda *_: data)
    model, learning = lockstep("yoked")
    trained(learning)
    told = heard(model)
    assert torch.equal(told, learning.tensors()["donor.0.coordinates"])
    assert not torch.equal(told, learning.tensors()["network.0.coordinates"])
    # The donor is the network that it would be alone.
    alone = trial("own").model_copy(update={"seed": arms.DONOR_SEEDS + trial("own").seed})
    networks, _ = build_cohort([alone], STEPS, torch.device("cpu"))
    own = Lockstep(networks, data, alone.training, [alone.seed])
    trained(own)
    assert torch.equal(told, own.tensors()["network.0.coordinates"])


def test_what_is_recorded(monkeypatch) -> None:
    data = few_images()
    monkeypatch.setattr(datasets, "load", lambda *_: data)
    result = run_trial(trial("own"), Options(threads=1)).result
    assert result["parameters"] == 7
    assert result["trial"]["training"]["subspace"] == {"dimensions": 7, "projection": "count"}
    first, last = result["hearings"][0], result["hearings"][-1]
    assert (first["norm"], first["drift"]) == (0, 0)
    assert last["drift"] == last["norm"] > 0  # it began at 0: there is no other unit


def study(**changes) -> str:
    """Return what is said of a study in a subspace that is wrong in one thing."""
    training = {"epochs": 1, "batch_size": 500, "subspace": {"dimensions": 5}} | changes.pop("training", {})
    document = {name: value for name, value in BASE.items() if name != "summary"} | {"training": training} | changes
    with pytest.raises(ValueError, match=r".") as caught:
        Study.model_validate(document)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"summary": {"k": 3}}, "summary: must be left out with training.subspace"),
        ({"training": {"cohort": 2}}, "training.cohort: must be left out with training.subspace"),
        ({"training": {"subspace": {"dimensions": 0}}}, "training.subspace.dimensions: expected at least 1"),
        ({"training": {"subspace": {"dimensions": 5, "projection": "ones"}}}, "training.subspace.projection"),
        ({"arm": {"signal": "clock"}}, "arms: 'own' must hear one of none, zeros, yoked, own in a subspace, got"),
        ({"arm": {"salt": 1}}, "arms: 'own' must have no salt in a subspace, got 1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_in_a_subspace_is_refused(changes: dict, message: str) -> None:
    if "arm" in changes:
        changes = {"arms": [BASE["arms"][0], BASE["arms"][1] | changes["arm"]]}
    assert study(**changes).startswith(message)


@pytest.mark.parametrize(
    ("signal", "conditioning", "settings", "message"),
    [
        ("none", "concat", {"dimensions": 9951}, "must be at most the network's 9950 parameters, got 9951"),
        ("own", "concat", {"dimensions": 107_375, "projection": "dense"}, "must be at most 199, for a matrix"),
        ("own", "film", {"dimensions": 107_375, "projection": "dense"}, "must be at most 99, for a matrix"),
    ],
)
def test_a_subspace_that_is_too_large_is_refused(signal, conditioning, settings, message) -> None:
    large = trial(signal, conditioning=conditioning)
    training = TRAINING.model_copy(update={"subspace": Subspace(**settings)})
    with pytest.raises(ValueError, match=re.escape(f"training.subspace.dimensions: {message}")):
        check_fit(large.model_copy(update={"training": training}), few_images())


def test_the_built_in_study_compares_networks_with_as_many_parameters() -> None:
    built_in = load_study("subspace-mnist-5k")
    (dimensions,) = {built_in.trial(arm, 0).training.subspace.dimensions for arm in built_in.arms}
    assert dimensions > 0
    assert built_in.declared is not None
    assert built_in.declared.primary == (("own", "zeros"), ("own", "yoked"))
    assert not list(built_in.swaps())
