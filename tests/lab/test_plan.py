"""The plan: exact counts, a time in the right order, and what the seeds can show."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from weight_feedback.lab.controls import build_arm
from weight_feedback.lab.models import count_parameters
from weight_feedback.lab.plan import plan, sensitivity
from weight_feedback.lab.spec import Declared, load_study

STUDY = load_study("controls-mnist-5k").model_copy(update={"data": "generated", "seeds": 5})


def test_a_plan_has_exact_counts_and_a_time_for_each_arm() -> None:
    arms = plan(STUDY)
    assert [arm.name for arm in arms] == [arm.name for arm in STUDY.arms]
    for planned, arm in zip(arms, STUDY.arms, strict=True):
        assert planned.parameters == count_parameters(build_arm(STUDY.trial(arm, 0), 1))
        assert planned.trials == 5
        assert planned.seconds > 0


def test_what_cannot_be_run_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="expected images of shape"):
        plan(STUDY.model_copy(update={"data": "generated", "arms": load_study("notebook-cifar10").arms}))


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
