"""The arms of a controlled study: what they share, what they hear, and that a donor is what it would be alone."""

from __future__ import annotations

from functools import partial
from typing import get_args

import pytest
import torch

import weight_feedback as wf
from helpers.lockstep_training import train
from weight_feedback.lab.data import datasets
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.toml import StudyError, load_study
from weight_feedback.lab.tasks.notebook import arms
from weight_feedback.lab.tasks.notebook.lockstep import Donor
from weight_feedback.lab.tasks.notebook.networks import build, count_parameters
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Pooled, Projected, SignalName, Training
from weight_feedback.lab.training.run import Options, run_trial

SUMMARY = Projected(k=8)
SETTINGS = Training(epochs=2, batch_size=125)
EPOCH_STEPS = 4
SIGNALS = [name for name in get_args(SignalName) if name != "none"]


def make(signal: str | None, seed: int = 3, **changes) -> NetworkTrial:
    summary = None if signal is None else SUMMARY
    fields = {
        "data": "generated",
        "training": SETTINGS,
        "model": "mnist-plain",
        "signal": signal,
        "summary": summary,
    }
    return NetworkTrial(**(fields | changes), seed=seed)


def arm(signal: str | None, seed: int = 3):
    trial = make(signal).model_copy(update={"seed": seed})  # unchecked: a donor's is out of bounds for trials
    return arms.build_arm(trial, EPOCH_STEPS)


def yoke(counted) -> Donor:
    donor, seed, listener = arms.build_donor(make("yoked"), counted, EPOCH_STEPS)
    return Donor(donor, seed, partial(arms.tell, donor, listener, counted))


def own_z(model, seed: int = 3) -> torch.Tensor:
    return wf.OwnWeights(arms.reads(model), arms.summary(SUMMARY, seed))().detach()


def test_arms_of_a_seed_share_all_initial_weights_and_counts() -> None:
    plain = dict(build("mnist-plain", 3).named_parameters())
    first = arm(SIGNALS[0])
    bound = (160 + 8) ** -0.5
    v = first.fc1.feedback_weight
    assert v.abs().max() <= bound
    assert v.abs().max() > 0.9 * bound
    for signal in SIGNALS:
        model = arm(signal)
        assert count_parameters(model) == 9950 + 8 * 50
        assert torch.equal(model.fc1.feedback_weight, v)
        for name, parameter in plain.items():
            assert torch.equal(model.get_parameter(name), parameter), name
    assert not torch.equal(arm(SIGNALS[0], seed=4).fc1.feedback_weight, v)


def test_what_the_arms_hear_at_the_start() -> None:
    z0 = own_z(build("mnist-plain", 3))
    assert z0.square().mean() == pytest.approx(1, rel=1e-5)
    heard = {signal: arm(signal).fc1.signal().detach() for signal in SIGNALS}
    for signal in ("constant", "stale", "own", "own-gradient"):
        assert torch.equal(heard[signal], z0), signal
    for signal in ("zeros", "yoked"):
        assert torch.equal(heard[signal], torch.zeros(8)), signal
    assert heard["noise"].norm() == pytest.approx(float(z0.norm()), rel=1e-5)
    assert heard["clock"].square().mean() == pytest.approx(1, rel=1e-5)
    assert not torch.equal(heard["permuted"], z0)


def test_what_the_arms_hear_after_two_epochs() -> None:
    data = datasets.load("generated")
    heard = {}
    for signal in SIGNALS:
        model = arm(signal)
        train(model, data, SETTINGS, 3)
        heard[signal] = model.fc1.signal().detach()
        if signal in ("own", "own-gradient"):
            listener = arm("constant")  # the scale is that of the initial weights
            fresh = wf.OwnWeights(arms.reads(listener), arms.summary(SUMMARY, 3)).summary
            assert torch.equal(heard[signal], fresh(*(read.tensor() for read in arms.reads(model))).detach())
    assert torch.equal(heard["constant"], own_z(build("mnist-plain", 3)))

    # One epoch old: what a network of own weights with that lag's history would have said.
    model, past = arm("stale"), []
    for _ in range(2):
        past.append(model.fc1.signal.signal().detach().clone())
        train(model, data, SETTINGS.model_copy(update={"epochs": 1}), 3)
    assert torch.equal(model.fc1.signal().detach(), past[1])


def test_zeros_equals_none_bit_for_bit() -> None:
    zeros, none = (run_trial(make(signal), Options(threads=1)).result for signal in ("zeros", None))
    for part in ("step_losses", "epochs"):
        assert zeros[part] == none[part]


def test_gradients_flow_through_the_signal_of_own_gradient_alone() -> None:
    data = datasets.load("generated")
    losses = {
        signal: train(arm(signal), data, SETTINGS, 3).step_losses for signal in ("own", "own-gradient", "constant")
    }
    assert losses["own"][0] == losses["own-gradient"][0] == losses["constant"][0]
    assert losses["own"] != losses["own-gradient"]
    assert losses["own"] != losses["constant"]
    assert arm("own-gradient").fc1.signal().requires_grad
    assert not arm("own").fc1.signal().requires_grad


def test_a_donor_is_bit_for_bit_what_it_is_when_trained_alone() -> None:
    data = datasets.load("generated")
    counted = arm("yoked")
    donor = yoke(counted)
    assert donor.seed == 2**31 + 3  # outside of every counted range
    train(counted, data, SETTINGS, 3, donor=donor)
    alone = arm("own", seed=donor.seed)
    train(alone, data, SETTINGS, donor.seed)
    for name, parameter in alone.named_parameters():
        assert torch.equal(donor.model.get_parameter(name), parameter), name


def test_a_yoked_network_hears_its_donor_before_each_step_by_its_own_projection() -> None:
    data = datasets.load("generated")
    counted, donor = arm("yoked"), arm("own", seed=2**31 + 3)
    projection = wf.OwnWeights(arms.reads(arm("own")), arms.summary(SUMMARY, 3)).summary
    heard, said = [], []
    counted.fc1.register_forward_hook(
        lambda layer, *_: heard.append(layer.signal().clone()) if layer.training else None
    )
    donor.fc1.register_forward_hook(
        lambda layer, *_: (
            said.append(projection(*(read.tensor() for read in arms.reads(donor))).detach())
            if layer.training
            else None
        )
    )
    train(counted, data, SETTINGS, 3, donor=yoke(counted))
    train(donor, data, SETTINGS, 2**31 + 3)
    assert len(heard) == 8
    for z, expected in zip(heard, said, strict=True):
        torch.testing.assert_close(z, expected)
    # In evaluation, after the last step, it hears the donor's last weights.
    torch.testing.assert_close(counted.fc1.signal(), projection(*(r.tensor() for r in arms.reads(donor))).detach())


def test_trials_of_all_arms_run_and_differ() -> None:
    results = {signal: run_trial(make(signal), Options(threads=1)).result for signal in SIGNALS}
    assert len({str(result["step_losses"]) for result in results.values()}) == len(SIGNALS)
    assert run_trial(make("yoked"), Options(threads=1)).result == results["yoked"]


@pytest.mark.parametrize("signal", ["own", "yoked"])
def test_film_arms(signal) -> None:
    trial = make(signal, conditioning="film")
    model = arms.build_arm(trial, EPOCH_STEPS)
    assert count_parameters(model) == 9950 + 2 * 8 * 50
    result = run_trial(trial, Options(threads=1)).result
    assert result["step_losses"] != run_trial(make(signal), Options(threads=1)).result["step_losses"]
    donor, *_ = arms.build_donor(make("yoked", conditioning="film"), model, EPOCH_STEPS)
    assert donor.fc1.conditioning == "film"


def test_keys_tell_arms_apart() -> None:
    keys = [make(signal).key() for signal in (None, *SIGNALS)]
    keys.append(make("own", summary=Projected(k=9)).key())
    keys.append(make("own", conditioning="film").key())
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("sketch", "kind"), [("count", wf.CountSketch), ("kronecker", wf.KroneckerProjection)])
def test_a_sketch_can_take_the_place_of_the_dense_projection(tmp_path, sketch, kind) -> None:
    text = STUDY.replace("summary = {k = 8}", f'summary = {{k = 8, sketch = "{sketch}"}}')
    study = read_study(tmp_path, text)
    trial = study.trial(study.arms[1], 0)
    model = arms.build_arm(trial, EPOCH_STEPS)
    summary = model.fc1.signal.summary
    assert type(summary) is kind
    assert (summary.out_features, summary.scale, summary.seed) == (8, "calibrated", 0)
    assert trial.settings()["summary"] == {"k": 8, "sketch": sketch, "scale": "calibrated"}
    assert study.declaration() != read_study(tmp_path, STUDY).declaration()
    with pytest.raises(StudyError, match=r"summary.sketch: .*'count' or 'kronecker', got 'other'"):
        read_study(tmp_path, text.replace(sketch, "other"))


STUDY = """
name = "c"
title = "C"
data = "generated"
seeds = 1
summary = {k = 8}
[[arms]]
name = "none"
model = "mnist-plain"
label = "none"
signal = "none"
[[arms]]
name = "own"
model = "mnist-plain"
label = "own"
signal = "own"
"""


def read_study(tmp_path, text: str) -> Study:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return load_study(str(path))


def test_none_is_the_plain_networks_trial(tmp_path) -> None:
    (_, none), (_, own) = read_study(tmp_path, STUDY).trials()
    assert none == make(None, seed=0, training=Training())
    assert own == make("own", seed=0, training=Training())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("summary = {k = 8}", "", "summary: needed by arms with a signal, here none, own"),
        ("k = 8", "k = 0", "summary.k: expected at least 1, got 0"),
        (
            'signal = "none"',
            'signal = "none"\nconditioning = "film"',
            "'none' has conditioning 'film', but hears nothing",
        ),
        ('signal = "own"', 'signal = "ours"', "arms.1.signal: .*got 'ours'"),
        ('signal = "own"', 'signal = "none"', "each must have other settings"),
        ('signal = "own"', 'signal = "none"\nsalt = 1', "each must have other settings"),
    ],
)
def test_wrong_arms_are_refused(tmp_path, old, new, message) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(tmp_path, STUDY.replace(old, new))


def test_a_summary_without_signals_is_refused() -> None:
    arms = (Arm(name="plain", model="mnist-plain", label="plain"),)
    with pytest.raises(ValueError, match="summary: must be left out"):
        Study(name="c", title="C", data="generated", seeds=1, summary=SUMMARY, arms=arms)


def test_the_notebooks_networks_take_no_signal() -> None:
    with pytest.raises(ValueError, match="'own' needs a plain network, but mnist-pooled has its own feedback"):
        run_trial(make("own", model="mnist-pooled"))


def test_a_salt_changes_the_projection_and_v_alone() -> None:
    first, salted = arm("own"), arms.build_arm(make("own", salt=1), EPOCH_STEPS)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, salted.get_parameter(name)) == (name != "fc1.feedback_weight"), name
    assert not torch.equal(first.fc1.signal(), salted.fc1.signal())
    settings = Training(epochs=1, batch_size=125)
    data = datasets.load("generated")
    for model in (first, salted):  # the same batches: without V the two are one network
        model.fc1.feedback_weight.data.zero_()
        model.fc1.feedback_weight.requires_grad_(False)
    assert train(first, data, settings, 3).step_losses == train(salted, data, settings, 3).step_losses


def test_a_salted_yoked_network_hears_by_the_projection_of_its_own_salt() -> None:
    trial = make("yoked", salt=2)
    counted, own = arms.build_arm(trial, EPOCH_STEPS), arms.build_arm(make("own", salt=2), EPOCH_STEPS)
    donor, seed, listener = arms.build_donor(trial, counted, EPOCH_STEPS)
    assert seed == 2**31 + 3

    def heard(summary: wf.Summary, model) -> torch.Tensor:
        return summary(*(read.tensor().detach() for read in arms.reads(model)))

    # Of its own weights it would hear what the arm of the same salt hears; the donor has that salt too.
    assert torch.equal(heard(listener, counted), own.fc1.signal())
    assert not torch.equal(heard(listener, counted), own_z(counted))
    arms.tell(donor, listener, counted)
    assert torch.equal(counted.fc1.signal(), heard(own.fc1.signal.summary, donor))
    salted = make("own", salt=2).model_copy(update={"seed": seed})
    alone = arms.build_arm(salted, EPOCH_STEPS)
    assert torch.equal(donor.fc1.signal(), alone.fc1.signal())
    assert torch.equal(donor.fc1.feedback_weight, alone.fc1.feedback_weight)


def test_weights_can_be_pooled_as_in_the_notebook() -> None:
    pooled = Pooled(k=26, kernels=((25, 22), (2, 25)))
    model = arms.build_arm(make("own", summary=pooled), EPOCH_STEPS)
    fc1, fc2 = model.fc1.weight.detach(), model.fc2.weight.detach()
    pooled_fc1 = torch.nn.functional.max_pool2d(fc1[None], (25, 22))[0]
    pooled_fc2 = torch.nn.functional.max_pool2d(fc2[None], (2, 25))[0]
    expected = [*torch.cat([pooled_fc1, pooled_fc2.T], dim=1).flatten(), *torch.ones(2)]
    z = model.fc1.signal()
    assert torch.equal(z, torch.stack(expected))
    assert z[-2:].tolist() == [1.0, 1.0]
    assert z[-3] < 1
    assert arms.build_arm(make("noise", summary=pooled), EPOCH_STEPS).fc1.signal()[-2:].tolist() == [1.0, 1.0]
