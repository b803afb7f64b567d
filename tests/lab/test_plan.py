"""The plan: exact counts, a time in the right order, and what the seeds can show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from statsmodels.stats.power import TTestPower

from helpers.cpu_graphs import Tapes
from helpers.studies import change
from weight_feedback.lab.data import datasets
from weight_feedback.lab.execution.planning import plan
from weight_feedback.lab.statistics.sensitivity import sensitivity
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook import timing as planning
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.networks import count_parameters
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Training
from weight_feedback.lab.tasks.notebook.timing import time_trial

STUDY = change(load_study("controls-mnist-5k"), data="generated", seeds=5)


def test_a_plan_has_exact_counts_and_a_time_for_each_arm(monkeypatch) -> None:
    monkeypatch.setattr(planning, "STEPS", 2)
    arms = plan(STUDY)
    assert [arm.name for arm in arms] == [arm.name for arm in STUDY.arms]
    for planned, arm in zip(arms, STUDY.arms, strict=True):
        assert planned.parameters == count_parameters(build_arm(STUDY.trial(arm, 0), 1))
        assert planned.trials == 5
        assert planned.seconds > 0


def test_some_arms_and_another_number_of_seeds_can_be_planned() -> None:
    arms = plan(STUDY, arms=["own", "none"], seeds=2)
    assert [(arm.name, arm.trials) for arm in arms] == [("none", 2), ("own", 2)]
    with pytest.raises(ValueError, match="arms: expected names among"):
        plan(STUDY, arms=["nobody"])
    with pytest.raises(ValueError, match="seeds: expected at most"):
        plan(STUDY, seeds=10**9)


@pytest.mark.parametrize("cohort", [1, 4])
def test_a_trial_of_a_cohort_costs_its_share(monkeypatch, cohort) -> None:
    data = datasets.load("generated")  # 500 images for training, 100 for testing
    training = Training(epochs=3, batch_size=100, cohort=cohort)
    trial = NetworkTrial(data="generated", training=training, model="mnist-plain", seed=0)
    seconds = iter([40.0, 1.0, 300.0])  # of evaluating, of measuring what is heard, of an epoch with both
    monkeypatch.setattr(planning, "_seconds", lambda _: next(seconds))
    timed = time_trial(trial, data, torch.device("cpu"), steps=2)
    assert timed.image == 40 / cohort / 100
    assert timed.hearing == 1
    assert timed.step == (300 - 40 - 2 * cohort) / cohort / 2
    assert timed.seconds(training, 1000, 70) == pytest.approx(3 * (10 * timed.step + 70 * timed.image + 1))


def test_steps_are_timed_once_they_are_recorded(monkeypatch) -> None:
    data, recorder, before = datasets.load("generated"), Tapes(), []

    def seconds(work) -> float:
        before.append([*recorder.events])
        work()
        return 1.0

    monkeypatch.setattr(planning, "recorder_for", lambda _: recorder)
    monkeypatch.setattr(planning, "_seconds", seconds)
    trial = NetworkTrial(data="generated", training=Training(batch_size=100), model="mnist-plain", seed=0)
    time_trial(trial, data, torch.device("cpu"), steps=4)
    assert before[-1] == [*["warm up"] * 3, "record", "replay"]
    assert recorder.events == [*before[-1], *["replay"] * 4]
    recorder.events.clear()
    time_trial(trial, data, torch.device("cpu"), steps=4, graphs=False)
    assert not recorder.events


def test_what_cannot_be_run_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="expected images of shape"):
        plan(change(load_study("notebook-cifar10"), data="generated"))


def test_what_the_seeds_can_show() -> None:
    declared = Declared(primary=(("a", "b"), ("a", "c")), margin=0.5)
    shown = sensitivity(20, declared)
    for effect, alpha in ((shown.alone, 0.05), (shown.family, 0.025)):
        assert TTestPower().power(effect, 20, alpha) == pytest.approx(0.8, abs=1e-6)
    # Two one-sided tests at 2.5 %, simulated: equivalence is shown in 80 % of studies of arms without a difference.
    samples = np.random.default_rng(0).standard_normal((200_000, 20))
    mean, error = samples.mean(axis=1), samples.std(axis=1, ddof=1) / np.sqrt(20)
    within = np.abs(mean) + 2.093024 * error < shown.equivalence  # t(19) at 97.5 %
    assert within.mean() == pytest.approx(0.8, abs=0.005)
    assert sensitivity(1, declared) is None
