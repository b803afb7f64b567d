"""Tables: numbers against numpy and scipy called directly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from weight_feedback.lab.report import accuracies, cells, compare, contrast_cells, decide, markdown, summarise
from weight_feedback.lab.settings import Projected
from weight_feedback.lab.spec import Arm, Declared, Study
from weight_feedback.lab.store import Record

STUDY = Study(
    name="tiny",
    title="Tiny",
    data="generated",
    seeds=3,
    arms=(
        Arm(name="plain", model="mnist-plain", label="w/o | <b>"),
        Arm(name="pooled", model="mnist-pooled", label="w/"),
        Arm(name="absent", model="mnist-projected", label="not run"),
    ),
)
ACCURACY = np.array([[90.0, 97.0, 96.0], [91.0, 95.0, 97.5], [90.5, 94.0, 95.0]])
PROVENANCE = {"weight_feedback": "0", "torch": "2", "python": "3", "device": "cpu", "threads": 1}


def record(accuracy, loss: float = 0.5) -> Record:
    epochs = [{"accuracy": value, "loss": loss, "correct": 0} for value in accuracy]
    return Record({"epochs": epochs, "parameters": 9950}, PROVENANCE)


RECORDS = {"plain": [record(row, 0.1 * i) for i, row in enumerate(ACCURACY)], "pooled": [record(ACCURACY[0])]}


def test_accuracies() -> None:
    np.testing.assert_array_equal(accuracies(RECORDS["plain"]), ACCURACY)


def test_summary_has_final_and_best_epoch_and_leaves_out_what_was_not_run() -> None:
    plain, pooled = summarise(STUDY, RECORDS)
    assert (plain.label, plain.parameters, plain.seeds, pooled.seeds) == ("w/o | <b>", 9950, 3, 1)
    for found, values in (
        (plain.final, [96.0, 97.5, 95.0]),
        (plain.best, [97.0, 97.5, 95.0]),
        (plain.loss, [0.0, 0.1, 0.2]),
    ):
        expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx(expected)
        assert found.mean == pytest.approx(np.mean(values))


def test_cells_show_intervals_where_there_are_any() -> None:
    headings, (plain, pooled) = cells(summarise(STUDY, RECORDS))
    assert headings == ["arm", "parameters", "seeds", "final accuracy %", "best epoch %", "final test loss"]
    assert plain[:4] == ["w/o | <b>", "9,950", "3", "96.17 [93.04, 99.29]"]
    assert pooled[3:] == ["96.00", "97.00", "0.5000"]


def test_markdown_is_whole_and_harmless() -> None:
    text = markdown(
        STUDY, summarise(STUDY, RECORDS), [], [], "weight-feedback run tiny", PROVENANCE, ["accuracy.png"]
    )
    assert r"| w/o \| &lt;b> | 9,950 | 3 |" in text
    for part in ("# Tiny", "](accuracy.png)", "`weight-feedback run tiny`", "learning rate 0.01", "torch 2"):
        assert part in text
    assert "Declaration" not in text


SIGNALS = ("none", "constant", "yoked", "own")
CONTROLLED = Study(
    name="controlled",
    title="Controlled",
    data="generated",
    seeds=6,
    summary=Projected(k=2),
    arms=tuple(Arm(name=name, model="mnist-plain", label=name, signal=name) for name in SIGNALS),
    declared=Declared(primary=(("own", "none"), ("own", "yoked")), margin=0.5),
)
FINAL = np.random.default_rng(0).normal(97, 0.1, (len(SIGNALS), 6)) + np.array([[0], [0.2], [0], [1]])


def seeded(accuracy: float, seed: int) -> Record:
    made = record([50.0, accuracy])
    return Record(made.result | {"trial": {"seed": seed}}, made.provenance)


OUTCOMES = {
    name: [seeded(value, seed) for seed, value in enumerate(row)] for name, row in zip(SIGNALS, FINAL, strict=True)
}


def test_contrasts_are_the_declared_ones_and_each_arm_against_what_they_compare_with() -> None:
    compared = compare(CONTROLLED, OUTCOMES)
    assert [(row.a, row.b, row.primary) for row in compared] == [
        ("own", "none", True),
        ("own", "yoked", True),
        ("constant", "none", False),
        ("yoked", "none", False),
        ("constant", "yoked", False),
    ]
    for row in compared:
        differences = FINAL[SIGNALS.index(row.a)] - FINAL[SIGNALS.index(row.b)]
        interval = stats.t.interval(0.95, 5, loc=differences.mean(), scale=stats.sem(differences))
        assert row.estimate.t == pytest.approx((differences.mean(), *interval))
        assert row.estimate.n == 6
    assert compare(STUDY, RECORDS) == []


def test_pairs_are_of_the_same_seed_even_if_trials_are_missing() -> None:
    some = OUTCOMES | {"own": OUTCOMES["own"][2:], "none": OUTCOMES["none"][:4]}
    (row,) = (row for row in compare(CONTROLLED, some) if (row.a, row.b) == ("own", "none"))
    assert row.estimate.n == 2
    assert row.estimate.mean == pytest.approx((FINAL[3] - FINAL[0])[2:4].mean())
    assert [(row.a, row.b) for row in compare(CONTROLLED, {"own": OUTCOMES["own"]})] == []


def test_verdicts_wait_for_all_trials() -> None:
    compared = compare(CONTROLLED, OUTCOMES)
    assert decide(CONTROLLED, compared, 23) == ["No verdicts yet: 23 of 24 trials are finished."]
    sentences = decide(CONTROLLED, compared, 24)
    assert len(sentences) == 2
    for sentence, other in zip(sentences, ("none", "yoked"), strict=True):
        assert f"own − {other}: " in sentence
        assert "6 seeds" in sentence
    assert decide(STUDY, [], 0) == []


def test_contrast_cells_leave_blank_what_cannot_be_said() -> None:
    _, (first, *_) = contrast_cells(compare(CONTROLLED, OUTCOMES))
    assert first[:3] == ["own − none", "yes", "6"]
    one = {name: records[:1] for name, records in OUTCOMES.items()}
    _, (first, *_) = contrast_cells(compare(CONTROLLED, one))
    assert first[4:7] == ["-", "-", "-"]


def test_the_report_of_a_declared_study_begins_with_its_verdicts() -> None:
    compared = compare(CONTROLLED, OUTCOMES)
    text = markdown(
        CONTROLLED, summarise(CONTROLLED, OUTCOMES), compared, ["own − none: verdict"], "weight-feedback run x",
        PROVENANCE, ["accuracy.png", "contrasts.png"],
    )  # fmt: skip
    assert text.splitlines()[2] == "- own − none: verdict"
    for part in (
        "](contrasts.png)",
        f"`{CONTROLLED.declaration()}`",
        "±0.5 points",
        "| constant − none | no | 6 |",
    ):
        assert part in text
