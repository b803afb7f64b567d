"""Tables of trials: every number is there, and spreadsheets find no formula."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.made_up_study import ACCURACY, EPOCHS, HEARINGS, LOSS, SEEDS, SIGNALS, STUDY, declare, fill, record
from helpers.studies import change_arm
from weight_feedback.lab.report.export import export
from weight_feedback.lab.store.store import Record, Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "study")


def read(path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=True)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_number_is_there(store, tmp_path, kind) -> None:
    path = tmp_path / "deep" / f"trials.{kind}"
    assert export(STUDY, fill(store, seeds=SEEDS + 2), path, kind) == len(SIGNALS) * (SEEDS + 2) * EPOCHS
    table = read(path)
    assert set(table["declaration"]) == {STUDY.declaration()}
    for row in table.itertuples():
        i = SIGNALS.index(row.arm)
        assert row.accuracy == ACCURACY[i, row.seed, row.epoch - 1]
        assert row.loss == LOSS[i, row.seed, row.epoch - 1]
        hearing = (row.z_norm, row.z_drift, row.z_share)
        if row.arm == "none":
            assert np.isnan(hearing).all()
        else:
            assert hearing == tuple(HEARINGS[i, row.seed, row.epoch])
        assert (row.trial_seconds, row.parameters, row.status) == (1.0 + i, 9950 + 100 * (i > 0), "finished")
    assert table.groupby(["arm", "seed"]).size().eq(EPOCHS).all()


COLUMNS = [
    *("study", "declaration", "arm", "label", "model", "signal", "conditioning", "salt", "seed", "key", "status"),
    *("epoch", "accuracy", "loss", "correct", "parameters", "z_norm", "z_drift", "z_share"),
    *("trial_seconds", "torch", "host"),
]


def test_settings_are_there(store, tmp_path) -> None:
    trial = STUDY.trial(STUDY.arms[3], 1)
    declare(store).write(trial, record(trial, "own"))
    export(STUDY, store, tmp_path / "t.parquet", "parquet")
    table = read(tmp_path / "t.parquet")
    assert list(table) == COLUMNS
    row = table.iloc[0]
    assert row[COLUMNS[:12]].tolist() == [
        "made-up", STUDY.declaration(), "own", "own | <b>", "mnist-plain", "own", "concat", 0, 1, trial.key(),
        "finished", 1,
    ]  # fmt: skip
    assert (row["correct"], row["torch"], row["host"]) == (round(ACCURACY[3, 1, 0]), "2.13.0", "here")


def test_types_do_not_depend_on_what_is_missing(tmp_path) -> None:
    types = []
    for i, epochs in ((0, EPOCHS), (3, EPOCHS), (3, 1)):
        store = Store(tmp_path / f"{i}-{epochs}")
        trial = STUDY.trial(STUDY.arms[i], 0)
        store.write(trial, record(trial, SIGNALS[i], epochs=epochs))
        export(STUDY, store, tmp_path / "t.parquet", "parquet")
        types.append(dict(zip(COLUMNS, pq.read_schema(tmp_path / "t.parquet").types, strict=True)))
    assert types[0] == types[1] == types[2]
    assert (types[0]["correct"], types[0]["z_norm"]) == (pa.int64(), pa.float64())


def test_as_many_seeds_as_asked_for(store, tmp_path) -> None:
    for arm, trial in STUDY.trials(arms=["own"], seeds=3):
        store.write(trial, record(trial, arm.name))
    assert export(STUDY, store, tmp_path / "t.csv", "csv", seeds=2) == 2 * EPOCHS
    assert set(read(tmp_path / "t.csv")["seed"]) == {0, 1}
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        export(STUDY, store, tmp_path / "t.csv", "csv", seeds=0)


def test_what_is_missing_is_an_empty_field_and_text_alone_is_quoted(store, tmp_path) -> None:
    for i, epochs in ((0, EPOCHS), (3, 1)):  # one that hears nothing, and one that diverged
        trial = STUDY.trial(STUDY.arms[i], 0)
        store.write(trial, record(trial, SIGNALS[i], epochs=epochs))
    study = STUDY.model_copy(update={"declared": None})
    export(study, store, tmp_path / "t.csv", "csv")
    heading, *lines = [line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines()]
    assert heading == [f'"{name}"' for name in COLUMNS]
    silent, diverged = (dict(zip(COLUMNS, line, strict=True)) for line in (lines[0], lines[-1]))
    assert [silent[name] for name in ("z_norm", "z_drift", "z_share")] == ["", "", ""]
    assert [diverged[name] for name in ("correct", "z_norm")] == ["", ""]
    assert (silent["declaration"], silent["arm"]) == ('""', '"none"')  # a text that is empty isn't missing
    assert (silent["seed"], silent["accuracy"]) == ("0", str(ACCURACY[0, 0, 0]))
    table = read(tmp_path / "t.csv")
    assert [table[name].dtype for name in ("accuracy", "z_norm", "z_drift", "z_share")] == [np.float64] * 4


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("label", ["ä → 重み 🧠", 'a "b", c', "a\nb", "\u202e", "n/a?"])
def test_labels_of_any_text(store, tmp_path, label, kind) -> None:
    arms = (STUDY.arms[0].model_copy(update={"label": label}), *STUDY.arms[1:])
    study = STUDY.model_copy(update={"arms": arms})
    trial = study.trial(study.arms[0], 0)
    store.write(trial, record(trial, "none"))
    export(study, store, tmp_path / f"t.{kind}", kind)
    assert read(tmp_path / f"t.{kind}")["label"].iloc[0] == label


def test_a_diverged_trial_is_filled_with_chance(store, tmp_path) -> None:
    trial = STUDY.trial(STUDY.arms[3], 0)
    store.write(trial, record(trial, "own", epochs=1))
    export(STUDY, store, tmp_path / "t.csv", "csv")
    table = read(tmp_path / "t.csv")
    assert table["accuracy"].tolist() == [ACCURACY[3, 0, 0], 10.0, 10.0]
    assert table["loss"].tolist() == [LOSS[3, 0, 0], math.log(10), math.log(10)]
    assert table["correct"].isna().tolist() == [False, True, True]
    assert set(table["status"]) == {"diverged"}


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_formulas_are_text_in_a_spreadsheet(store, tmp_path, label) -> None:
    arms = tuple(arm.model_copy(update={"label": label + arm.name}) for arm in STUDY.arms)
    study = STUDY.model_copy(update={"arms": arms})
    export(study, fill(store, study), tmp_path / "t.csv", "csv")
    assert read(tmp_path / "t.csv")["label"].str.startswith("'" + label).all()
    export(study, store, tmp_path / "t.parquet", "parquet")
    assert read(tmp_path / "t.parquet")["label"].str.startswith(label).all()


def test_what_cannot_be_exported(store, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"no finished trials in .*; weight-feedback run made-up makes them"):
        export(STUDY, store, tmp_path / "t.csv", "csv")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    with pytest.raises(ValueError, match=r"pip install 'weight-feedback\[parquet\]'"):
        export(STUDY, store, tmp_path / "t.parquet", "parquet")


def test_a_study_that_declares_nothing_on_other_data_with_another_arm(store, tmp_path) -> None:
    arm = change_arm(STUDY.arms[3], salt=4, conditioning="film")
    study = STUDY.model_copy(update={"arms": (arm,), "declared": None})
    trial = study.trial(arm, 0)
    made = record(trial, "own", epochs=1)
    store.write(trial, Record(made.result | {"classes": 4}, made.provenance))
    export(study, store, tmp_path / "t.parquet", "parquet")
    table = read(tmp_path / "t.parquet")
    assert table[["declaration", "conditioning", "salt"]].iloc[0].tolist() == ["", "film", 4]
    assert table[["accuracy", "loss"]].iloc[-1].tolist() == [25.0, math.log(4)]
