"""What keeps a contrast from being judged, and what is said beside a verdict."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from weight_feedback.lab.statistics.contrasts import Compared, compare
from weight_feedback.lab.statistics.gate import Passed
from weight_feedback.lab.statistics.outcomes import ArmResult
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.tasks.notebook.settings import Projected, Training

EPOCHS = 3
ARMS = (
    Arm(name="own", model="mnist-plain", label="own", signal="own"),
    Arm(name="zeros", model="mnist-plain", label="zeros", signal="zeros"),
    Arm(name="none", model="mnist-plain", label="none"),
)


def declaring(seeds: int, primary=(("own", "none"),), **declared) -> Study:
    return Study(
        name="made-up",
        title="Made up",
        data="generated",
        seeds=seeds,
        training=Training(epochs=EPOCHS),
        summary=Projected(k=2),
        arms=ARMS,
        declared=Declared(primary=primary, **{"margin": 0.5, **declared}),
    )


def arm(index: int, final, loss=None, diverged=()) -> ArmResult:
    """An arm whose accuracy rises to what is given, but for trials that diverged before their first epoch."""
    final = np.where(np.isin(np.arange(len(final)), diverged), 10.0, np.asarray(final, dtype=float))
    accuracy = np.minimum(final[:, None], [[50.0, 80.0, 100.0]])
    return ArmResult(
        arm=ARMS[index],
        seeds=tuple(range(len(final))),
        curves={
            "accuracy": accuracy,
            "loss": 2 - accuracy / 100
            if loss is None
            else np.repeat(np.asarray(loss, dtype=float)[:, None], EPOCHS, axis=1),
        },
        diagnostics={},
        seconds=np.ones(len(final)),
        diverged=dict.fromkeys(diverged, "step 1"),
    )


def judged(own, none, zeros=None, **declared) -> Compared:
    study = declaring(len(own.seeds), **declared)
    return compare(
        study, [own, zeros or arm(1, np.zeros(len(own.seeds))), none], study.seeds, Passed(), judge=True
    )[0]


SPREAD = np.array([97.1, 96.4, 97.3, 96.8, 97.0, 96.1, 97.2, 96.6, 96.9, 96.2])


@pytest.mark.parametrize("n", [2, 10])
def test_differences_without_spread_say_nothing(n) -> None:
    found = judged(arm(0, SPREAD[:n] + 0.1), arm(2, SPREAD[:n]))
    assert found.kind == "withheld"
    assert f"all {n} differences are 0.1, and without any spread nothing is known" in found.verdict
    # Accuracies that are equal where losses aren't: no difference, and no reason why there should be none.
    found = judged(arm(0, SPREAD[:n], loss=SPREAD[:n]), arm(2, SPREAD[:n]))
    assert found.kind == "withheld"
    assert "differences are 0, and" in found.verdict


def test_arms_that_are_the_same_stay_the_same() -> None:
    """As `zeros` and `none`, which differ in nothing that acts."""
    study = declaring(10, primary=(("zeros", "none"),))
    found = compare(study, [arm(0, SPREAD), arm(1, SPREAD), arm(2, SPREAD)], 10, Passed(), judge=True)[0]
    assert found.kind == "equivalent"
    assert "difference +0.00 points (the same numbers in every epoch of every pair; 10 seeds)" in found.verdict


def test_arms_that_are_the_same_may_report_a_metric_now_and_then_alone() -> None:
    """A metric that is reported once is known after the last epoch, and missing before it."""
    study = declaring(10, primary=(("zeros", "none"),))

    def once(index: int, validation=SPREAD) -> ArmResult:
        made, missing = arm(index, SPREAD), np.full((10, EPOCHS - 1), np.nan)
        return dataclasses.replace(made, curves={**made.curves, "validation": np.c_[missing, validation]})

    same = compare(study, [once(0), once(1), once(2)], 10, Passed(), judge=True)[0]
    assert same.kind == "equivalent"
    other = compare(study, [once(0), once(1), once(2, SPREAD + 1)], 10, Passed(), judge=True)[0]
    assert other.kind == "withheld"


def test_trials_that_all_diverged_say_nothing() -> None:
    everyone = range(10)
    found = judged(arm(0, SPREAD, diverged=everyone), arm(2, SPREAD, diverged=everyone))
    assert found.kind == "withheld"
    assert "20 of 20 trials diverged" in found.verdict
    most = judged(arm(0, SPREAD, diverged=range(8)), arm(2, SPREAD[::-1], diverged=range(1, 9)))
    assert "16 of 20 trials diverged" in most.verdict
    assert math.isnan(most.estimate.flip_p)


def test_one_arm_that_always_diverges_is_worse() -> None:
    found = judged(arm(0, SPREAD, diverged=range(10)), arm(2, SPREAD))
    assert found.kind == "worse"
    assert (
        "In 10 of the pairs a trial diverged; without them, own − none: verdict withheld: at least 2"
        in found.verdict
    )


def test_a_verdict_that_hangs_on_divergence_is_shown_without_it_too() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 20)
    base = np.resize(SPREAD, 20)
    found = judged(arm(0, base + noise, diverged=[3]), arm(2, base))
    assert found.kind == "undecided"
    assert "In 1 of the pairs a trial diverged; without them, own − none: equivalent within ±0.5" in found.verdict
    assert found.verdict.endswith("19 seeds).")
    # Where the verdict stays, nothing is added.
    assert "without them" not in judged(arm(0, base - 20 + 9 * noise, diverged=[3]), arm(2, base)).verdict


def to_threshold(own, none, threshold=99.0, **declared) -> Compared:
    return judged(arm(0, own), arm(2, none), outcome="epochs-to-threshold", threshold=threshold, **declared)


@pytest.mark.parametrize("n", [2, 10])
def test_a_threshold_that_nobody_reaches_says_nothing(n) -> None:
    found = to_threshold(SPREAD[:n], SPREAD[:n] - 1)
    assert found.kind == "withheld"
    assert f"{2 * n} of {2 * n} trials never reached the threshold, 99 % accuracy" in found.verdict
    # Not even of arms that are the same.
    assert to_threshold(SPREAD[:n], SPREAD[:n]).kind == "withheld"


def test_a_threshold_that_most_reach_is_judged_but_for_equivalence() -> None:
    """20 trials and two that never reach it: they count as 4 epochs, and may have needed any number more."""
    own, none = np.full(10, 99.5), np.full(10, 99.5)
    own[[2, 5]] = 95.0
    found = to_threshold(own, none, margin=3.0)
    assert found.kind == "undecided"
    assert "2 of 20 trials never reached the threshold, and count as 4 epochs" in found.verdict
    assert "equivalence isn't judged" in found.verdict
    same = np.full(10, 99.5) - 4.5 * (np.arange(10) == 3)
    found = to_threshold(same, same, margin=3.0)
    assert found.kind == "equivalent"
    assert "equivalence isn't judged" not in found.verdict
    # All of the one arm, and none of the other: a bound of the difference is above 0 already.
    found = to_threshold(np.full(10, 99.5) - np.arange(10) % 2 * 0.01, np.append(np.full(9, 95.0), 99.6))
    assert found.kind == "better"


def test_what_is_withheld_from_outside_is_said() -> None:
    study = declaring(10)
    arms = [arm(0, SPREAD), arm(1, SPREAD), arm(2, SPREAD[::-1])]
    found = compare(study, arms, 10, Passed(used={("own", "none"): "seen before"}), judge=True)[0]
    assert found.verdict == "own − none: verdict withheld: seen before."


def test_the_error_rate_of_both_families_together_is_declared() -> None:
    plain, both = declaring(10), declaring(10, error="both")
    assert plain.declaration() != both.declaration()
    assert plain.declaration() == declaring(10, error="each").declaration()
    # Six pairs of one sign: 0.031, below 5 % and above 2.5 %.
    own, none = arm(0, SPREAD[:6] + 1 + np.arange(6) / 10), arm(2, SPREAD[:6])
    assert [judged(own, none, error=error).kind for error in ("each", "both")] == ["better", "undecided"]


def test_trials_of_other_data_or_code_are_no_pairs() -> None:
    digits = ("digits", "1" * 64)
    here = dataclasses.replace(arm(0, SPREAD), data=frozenset({digits, ("code", "2" * 64)}))
    there = dataclasses.replace(arm(2, SPREAD[::-1] + 2), data=frozenset({digits, ("code", "3" * 64)}))
    found = judged(here, there)
    assert found.kind == "withheld"
    assert (
        "own and none come from different data or code (code 2222222222222222 against code 3333333333333333), "
        "so that their pairs aren't pairs"
    ) in found.verdict
    assert math.isnan(found.estimate.flip_p)
    assert judged(here, dataclasses.replace(there, data=here.data)).kind == "worse"


def test_a_threshold_of_a_loss_is_reached_from_above() -> None:
    """Losses of made-up arms are 1.5, 1.2 and, where accuracy rises to 97 %, 1.03."""
    low, high = np.full(10, 97.0) + SPREAD / 1000, np.full(10, 80.0)
    found = judged(arm(0, low), arm(2, high), metric="loss", outcome="first-past", threshold=1.1)
    assert found.differences == dict.fromkeys(range(10), -1.0)  # the third epoch against the fourth, which isn't
    assert "10 of 20 trials never reached the threshold" not in found.verdict
    found = judged(arm(0, high), arm(2, high), metric="loss", outcome="first-past", threshold=1.1)
    assert "20 of 20 trials never reached the threshold, 1.1 nats test loss, so that" in found.verdict
