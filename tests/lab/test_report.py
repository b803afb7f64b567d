"""Tables: numbers against numpy and scipy called directly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from weight_feedback.lab.report import accuracies, cells, markdown, summarise
from weight_feedback.lab.spec import Arm, Study
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
    text = markdown(STUDY, summarise(STUDY, RECORDS), "weight-feedback run tiny", PROVENANCE, "accuracy.png")
    assert r"| w/o \| &lt;b> | 9,950 | 3 |" in text
    for part in ("# Tiny", "](accuracy.png)", "`weight-feedback run tiny`", "learning rate 0.01", "torch 2"):
        assert part in text
