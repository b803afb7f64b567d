"""What a study found, against numpy and scipy called directly on made-up trials."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from helpers.made_up_study import ACCURACY, EPOCHS, HEARINGS, LOSS, SEEDS, SIGNALS, STUDY, fill, record
from helpers.studies import change
from weight_feedback.lab.report.markdown import error_rates
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.statistics.outcomes import study_outcome
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.study import Study

FINAL = ACCURACY[:, :SEEDS, -1]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "made-up")


def declaring(**changes) -> Study:
    return STUDY.model_copy(update={"declared": Declared(primary=(("own", "none"), ("own", "yoked")), **changes)})


def test_arms_are_arrays_of_their_trials(store) -> None:
    analysis = analyse(STUDY, fill(store))
    assert [result.arm.name for result in analysis.arms] == list(SIGNALS)
    for i, result in enumerate(analysis.arms):
        assert set(result.curves) == {"accuracy", "loss"}
        np.testing.assert_array_equal(result.curves["accuracy"], ACCURACY[i, :SEEDS])
        np.testing.assert_array_equal(result.curves["loss"], LOSS[i, :SEEDS])
        assert (result.epochs, result.facts) == (EPOCHS, {"parameters": 9950 + 100 * (i > 0)})
        assert result.data == {("generated", "0" * 64)}
        assert result.seeds == tuple(range(SEEDS))
        assert result.seconds.tolist() == [1.0 + i] * SEEDS
    assert analysis.arms[0].diagnostics == {}
    for j, name in enumerate(("z_norm", "z_drift", "z_share")):
        np.testing.assert_array_equal(analysis.arms[3].diagnostics[name], HEARINGS[3, :SEEDS, :, j])
    assert analysis.data == {"generated": {"0" * 64: SEEDS * len(SIGNALS) + 3 * SEEDS}}
    assert len(analysis.provenance) == SEEDS * len(SIGNALS)


def test_contrasts_are_the_declared_ones_and_each_arm_against_what_they_compare_with(store) -> None:
    analysis = analyse(STUDY, fill(store))
    assert [(row.a, row.b, row.primary) for row in analysis.contrasts] == [
        ("own", "none", True),
        ("own", "yoked", True),
        ("constant", "none", False),
        ("yoked", "none", False),
        ("constant", "yoked", False),
    ]
    for row in analysis.contrasts:
        differences = FINAL[SIGNALS.index(row.a)] - FINAL[SIGNALS.index(row.b)]
        interval = stats.t.interval(0.95, SEEDS - 1, loc=differences.mean(), scale=stats.sem(differences))
        assert row.estimate.t == pytest.approx((differences.mean(), *interval))
        assert row.differences == pytest.approx(dict(enumerate(differences)))
        assert bool(row.verdict) == row.primary
    assert [row.kind for row in analysis.contrasts[:2]] == ["better", "better"]
    assert [sentence.split(":")[0] for sentence in analysis.sentences] == ["own − none", "own − yoked"]


def test_a_study_that_declares_nothing_has_no_contrasts(store) -> None:
    study = STUDY.model_copy(update={"declared": None})
    analysis = analyse(study, fill(store, study))
    assert (analysis.contrasts, analysis.sentences, analysis.swaps) == ([], [], [])


@pytest.mark.parametrize(
    ("outcome", "values", "kind", "unit"),
    [
        (
            {"outcome": "area-under-curve"},
            (ACCURACY[..., :-1] + ACCURACY[..., 1:]).mean(axis=2) / 2,
            "better",
            "points",
        ),
        ({"outcome": "final-loss"}, LOSS[..., -1], "better", "nats"),
        (
            {"outcome": "epochs-to-threshold", "threshold": 97.0},
            np.where(ACCURACY >= 97.0, np.arange(1, EPOCHS + 1), EPOCHS + 1).min(axis=2),
            None,
            "epochs",
        ),
        (
            {"metric": "loss", "outcome": "first-past", "threshold": 0.6},
            np.where(LOSS <= 0.6, np.arange(1, EPOCHS + 1), EPOCHS + 1).min(axis=2),
            None,
            "epochs",
        ),
        ({"outcome": "mean-of-last", "last": 2}, ACCURACY[..., -2:].mean(axis=2), "better", "points"),
        ({"metric": "loss", "outcome": "mean-of-last", "last": 1}, LOSS[..., -1], "better", "nats"),
        ({"outcome": "best"}, ACCURACY.max(axis=2), "better", "points"),
        ({"metric": "loss", "outcome": "best"}, LOSS.min(axis=2), "better", "nats"),
        (
            {"metric": "loss", "outcome": "area"},
            (LOSS[..., :-1] + LOSS[..., 1:]).mean(axis=2) / 2,
            "better",
            "nats",
        ),
        (
            {"outcome": "at-best-of", "of": "loss"},
            np.take_along_axis(ACCURACY, LOSS.argmin(axis=2)[..., None], axis=2)[..., 0],
            "better",
            "points",
        ),
        (
            {"metric": "loss", "outcome": "at-best-of", "of": "accuracy"},
            np.take_along_axis(LOSS, ACCURACY.argmax(axis=2)[..., None], axis=2)[..., 0],
            "better",
            "nats",
        ),
    ],
)
def test_other_outcomes_can_be_declared(store, outcome, values, kind, unit) -> None:
    study = declaring(margin=1e-6, **outcome)
    first = analyse(study, fill(store, study)).contrasts[0]
    assert first.differences == pytest.approx(dict(enumerate((values[3] - values[0])[:SEEDS])))
    assert f" {unit} (" in first.verdict
    if kind:  # a lower loss is better
        assert first.kind == kind


LESS, MORE = False, True


@pytest.mark.parametrize(
    ("declared", "title", "unit", "differences", "more_is_better"),
    [
        ({}, "final accuracy", "%", "points", MORE),
        ({"metric": "loss"}, "final test loss", "nats", "nats", LESS),
        ({"outcome": "mean-of-last", "last": 5}, "mean accuracy of the last 5 epochs", "%", "points", MORE),
        ({"outcome": "best"}, "best accuracy (optimistic)", "%", "points", MORE),
        ({"metric": "loss", "outcome": "best"}, "best test loss (optimistic)", "nats", "nats", LESS),
        (
            {"outcome": "at-best-of", "of": "loss"},
            "accuracy at the epoch of the best test loss",
            "%",
            "points",
            MORE,
        ),
        (
            {"metric": "loss", "outcome": "at-best-of", "of": "accuracy"},
            "test loss at the epoch of the best accuracy",
            "nats",
            "nats",
            LESS,
        ),
        ({"outcome": "area"}, "mean accuracy over training", "%", "points", MORE),
        ({"metric": "loss", "outcome": "area"}, "mean test loss over training", "nats", "nats", LESS),
        ({"outcome": "first-past", "threshold": 96.5}, "epochs to 96.5 % accuracy", "epochs", "epochs", LESS),
        (
            {"metric": "loss", "outcome": "first-past", "threshold": 0.25},
            "epochs to 0.25 nats test loss",
            "epochs",
            "epochs",
            LESS,
        ),
    ],
)
def test_an_outcome_has_title_units_and_direction(declared, title, unit, differences, more_is_better) -> None:
    outcome = study_outcome(declaring(margin=1.0, **declared))
    assert (outcome.title, outcome.unit, outcome.differences) == (title, unit, differences)
    assert outcome.more_is_better == more_is_better
    assert outcome.epochs == (declared.get("outcome") == "first-past")
    # Of these, the best value alone is chosen by what is judged.
    assert bool(outcome.note) == (declared.get("outcome") == "best")


def test_the_best_value_is_said_to_be_optimistic(store) -> None:
    study = declaring(margin=0.5, outcome="best")
    analysis = analyse(study, fill(store, study))
    note = (
        "The best epoch is chosen by the very values that are compared, so that accuracy is optimistic: more "
        "epochs, or noisier ones, make it look better."
    )
    assert analysis.outcome.note == note
    assert note in error_rates(analysis)
    final = analyse(STUDY, fill(Store(store.folder.parent / "final")))
    assert "optimistic" not in error_rates(final)


def test_a_study_that_declares_nothing_shows_the_final_value_of_the_first_metric() -> None:
    outcome = study_outcome(STUDY.model_copy(update={"declared": None}))
    assert (outcome.title, outcome.unit, outcome.more_is_better) == ("final accuracy", "%", True)


@pytest.mark.parametrize(
    ("declared", "title", "unit"),
    [
        ({}, "final score", ""),
        ({"outcome": "best"}, "best score (optimistic)", ""),
        ({"outcome": "first-past", "threshold": 90.0}, "epochs to 90 score", "epochs"),
    ],
)
def test_a_study_says_what_a_metric_is_called_and_which_way_is_better(store, declared, title, unit) -> None:
    metrics = {"accuracy": {"unit": "", "better": "lower", "label": "score"}}
    study = change(STUDY, metrics=metrics, declared={"primary": [["own", "none"]], "margin": 0.25, **declared})
    analysis = analyse(study, fill(store, study))
    assert (analysis.outcome.title, analysis.outcome.unit, analysis.outcome.differences) == (title, unit, unit)
    assert not analysis.outcome.more_is_better
    (verdict,) = analysis.sentences
    if unit:
        assert "13 of 16 trials never reached the threshold, 90 score, so that" in verdict
    else:
        assert analysis.contrasts[0].kind == "worse"  # as this arm has more
        assert re.search(r": worse on .*: difference \+[\d.]+ \(95 % interval ", verdict)


def test_verdicts_and_differences_wait_for_all_trials_of_the_primary_contrasts_alone(store) -> None:
    fill(store)
    trials = {(arm.name, trial.seed): trial for arm, trial in STUDY.trials()}
    store.path(trials["constant", 2]).unlink()
    analysis = analyse(STUDY, store)
    assert len(analysis.sentences) == 2
    constant = next(row for row in analysis.contrasts if row.a == "constant")
    assert sorted(constant.differences) == [0, 1, 3, 4, 5, 6, 7]

    store.path(trials["own", 2]).unlink()
    analysis = analyse(STUDY, store, command="weight-feedback run made-up")
    (sentence,) = analysis.sentences
    assert sentence.startswith(
        "No verdicts yet: 1 trials of the declared contrasts are still to be run, as by weight-feedback run made-up"
    )
    assert analysis.contrasts == []

    analysis = analyse(STUDY, store, peek=True)
    assert not any(row.verdict for row in analysis.contrasts)
    expected = np.delete(FINAL[3] - FINAL[0], 2)
    assert analysis.contrasts[0].estimate.mean == pytest.approx(expected.mean())


def test_a_failed_trial_is_a_missing_pair_and_too_many_withhold_the_verdict(store) -> None:
    fill(store)
    trials = {(arm.name, trial.seed): trial for arm, trial in STUDY.trials()}
    store.path(trials["own", 2]).unlink()
    store.fail(trials["own", 2], "MemoryError: no room\nTraceback …")
    analysis = analyse(STUDY, store)
    assert analysis.waiting == 0
    assert analysis.arms[3].failed == {2: "MemoryError: no room\nTraceback …"}
    # One of eight pairs is more than 5 %.
    assert [row.kind for row in analysis.contrasts[:2]] == ["withheld", "withheld"]
    assert "1 of 8 pairs are missing" in analysis.sentences[0]


def test_a_diverged_trial_counts_as_chance_from_then_on(store) -> None:
    fill(store)
    trial = next(trial for arm, trial in STUDY.trials() if (arm.name, trial.seed) == ("own", 1))
    store.path(trial).unlink()
    store.write(trial, record(trial, "own", epochs=2))
    analysis = analyse(STUDY, store)
    own = analysis.arms[3]
    assert own.diverged == {1: "step 17"}
    assert own.curves["accuracy"][1].tolist() == [*ACCURACY[3, 1, :2], 10.0]
    assert own.curves["loss"][1].tolist() == [*LOSS[3, 1, :2], math.log(10)]
    assert np.isnan(own.diagnostics["z_norm"][1]).tolist() == [False, False, False, True]
    assert analysis.contrasts[0].differences[1] == pytest.approx(10 - FINAL[0, 1])
    assert analysis.contrasts[0].estimate.n == SEEDS


def test_swaps_are_paired_with_what_the_same_network_reached(store) -> None:
    analysis = analyse(STUDY, fill(store))
    assert [(swap.arm, swap.under) for swap in analysis.swaps] == [
        ("own", "z = 0"),
        ("own", "its initial z"),
        ("own", "another seed's final z"),
    ]
    for swap, drop in zip(analysis.swaps, (2.0, 0.5, 1.0), strict=True):
        changes = -(drop + 0.1 * np.arange(SEEDS))
        assert swap.changes == pytest.approx(dict(enumerate(changes)))
        interval = stats.t.interval(0.95, SEEDS - 1, loc=changes.mean(), scale=stats.sem(changes))
        assert swap.change == pytest.approx((changes.mean(), *interval))
        assert swap.value.mean == pytest.approx((FINAL[3] + changes).mean())


def test_more_seeds_than_declared_are_exploratory(store) -> None:
    analysis = analyse(STUDY, fill(store))
    assert (analysis.extended, analysis.exploratory) == (SEEDS, [])
    before = analysis.sentences
    analysis = analyse(STUDY, fill(store, seeds=SEEDS + 2))
    assert analysis.extended == SEEDS + 2
    assert analysis.sentences == before
    assert analysis.arms[0].curves["accuracy"].shape == (SEEDS, EPOCHS)
    assert not any(row.verdict for row in analysis.exploratory)
    differences = ACCURACY[3, :, -1] - ACCURACY[0, :, -1]
    assert analysis.exploratory[0].estimate.n == SEEDS + 2
    assert analysis.exploratory[0].estimate.mean == pytest.approx(differences.mean())
