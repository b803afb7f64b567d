"""Merging: everything that is missing is copied, nothing is overwritten, and contradictions are loud."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from helpers.made_up_study import STUDY, fill, record
from weight_feedback.files import write_atomically
from weight_feedback.lab.store.merge import Merged, merge
from weight_feedback.lab.store.store import Damaged, Record, Store, StoreError
from weight_feedback.lab.tasks.fields import weights_digest

TRIALS = {(arm.name, trial.seed): trial for arm, trial in STUDY.trials()}
STATE = {"w": np.arange(3, dtype=np.float32)}


@pytest.fixture
def source(tmp_path) -> Store:
    store = fill(Store(tmp_path / "source"))
    store.declare(STUDY)
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_folder_becomes_a_copy(source, tmp_path) -> None:
    swaps = len(list(STUDY.swaps()))
    target = tmp_path / "target"
    assert merge(target, [source.folder]) == Merged(len(TRIALS), swaps, 0, 0)
    assert contents(target) == contents(source.folder)
    written = {path: path.stat().st_ino for path in target.rglob("*")}
    assert merge(target, [source.folder]) == Merged(0, 0, 0, len(TRIALS) + swaps)
    assert {path: path.stat().st_ino for path in target.rglob("*")} == written


def test_halves_from_two_places_make_a_whole_and_what_was_there_stays(source, tmp_path) -> None:
    other, target = Store(tmp_path / "other"), Store(tmp_path / "target")
    for store, seeds in ((other, (0, 1)), (target, (1, 2))):
        for (arm, seed), trial in TRIALS.items():
            if seed in seeds:
                made = record(trial, arm)
                store.write(trial, Record(made.result, made.provenance | {"host": store.folder.name}))
    merged = merge(target.folder, [other.folder, source.folder])
    assert merged.trials == len(TRIALS) - 8
    hosts = {seed: target.read(TRIALS["own", seed]).provenance["host"] for seed in range(4)}
    assert hosts == {0: "other", 1: "target", 2: "target", 3: "here"}


def test_another_result_of_the_same_settings_is_loud_and_nothing_is_copied(source, tmp_path) -> None:
    target = Store(tmp_path / "target")
    trial = TRIALS["own", 3]
    made = record(trial, "own")
    target.write(trial, Record(made.result | {"step_losses": [1.0]}, made.provenance))
    before = contents(target.folder)
    with pytest.raises(StoreError, match=f"{trial.file_name}.*and .*{trial.file_name}.*different results"):
        merge(target.folder, [source.folder])
    assert contents(target.folder) == before
    with pytest.raises(StoreError, match="different results"):  # likewise between two sources
        merge(tmp_path / "new", [source.folder, target.folder])
    assert not (tmp_path / "new").exists()


def test_damage_and_other_studies_are_refused(source, tmp_path) -> None:
    target = tmp_path / "target"
    with pytest.raises(StoreError, match="nowhere: expected the folder of a study"):
        merge(target, [tmp_path / "nowhere"])
    other = Store(tmp_path / "other")
    other.declare(STUDY.model_copy(update={"seeds": 5}))
    with pytest.raises(StoreError, match="these are two studies"):
        merge(other.folder, [source.folder])
    other.trials.mkdir()
    with pytest.raises(StoreError, match="these are two studies"):  # likewise between two sources
        merge(target, [source.folder, other.folder])
    assert not target.exists()
    path = source.path(TRIALS["none", 0])
    path.write_bytes(path.read_bytes().replace(b'"parameters": 9950', b'"parameters": 9951'))
    with pytest.raises(Damaged, match=f"{path.name}: .*the file is damaged"):
        merge(target, [source.folder])
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["{file_name}-0.json", "{file_name}0.json", "{called}-0{key}.json", "{called}-0123456789abcdef.json"]
)
def test_a_result_under_another_name_is_refused(source, tmp_path, name) -> None:
    for found in (TRIALS["none", 0], next(STUDY.swaps())[1]):
        path, key = source.path(found), found.key()
        called = found.file_name.removesuffix(f"-{key}")
        other = path.with_name(name.format(file_name=found.file_name, called=called, key=key))
        path.rename(other)
        with pytest.raises(
            Damaged,
            match=f"{other.name}: expected the result that its name says, found a result with the key {key};",
        ):
            merge(tmp_path / "target", [source.folder])
        assert not (tmp_path / "target").exists()
        other.rename(path)
    merge(tmp_path / "target", [source.folder])


def test_damage_in_the_target_is_named_and_not_overwritten(source, tmp_path) -> None:
    target = Store(tmp_path / "target")
    path = target.path(TRIALS["own", 0])
    write_atomically(path, b"damaged")
    with pytest.raises(Damaged, match=f"target/trials/{path.name}: .*sets it aside"):
        merge(target.folder, [source.folder])
    assert contents(target.folder) == {f"trials/{path.name}": b"damaged"}


def test_damage_in_a_source_is_refused_though_the_target_has_the_result(source, tmp_path) -> None:
    merge(tmp_path / "target", [source.folder])
    path = source.path(TRIALS["own", 0])
    path.write_bytes(path.read_bytes().replace(b'"host": "here"', b'"host": "hera"'))
    with pytest.raises(Damaged, match=f"source/trials/{path.name}: "):
        merge(tmp_path / "target", [source.folder])


def test_what_was_set_aside_or_is_unfinished_is_left_behind(source, tmp_path) -> None:
    for kind in ("damaged", "checkpoints"):
        write_atomically(source.folder / kind / "x.json", b"{")
        write_atomically(source.folder / kind / "x.safetensors", b"{")
    merge(tmp_path / "target", [source.folder])
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"declaration.json", "trials", "swaps"}


def test_weights_are_copied_if_they_are_the_trials(source, tmp_path) -> None:
    trial = TRIALS["own", 0]
    made = record(trial, "own")
    source.path(trial).unlink()
    source.write(trial, Record(made.result | {"weights": weights_digest(STATE)}, made.provenance))
    write_atomically(source.weights(trial), save(STATE))
    assert merge(tmp_path / "target", [source.folder]).weights == 1
    assert Store(tmp_path / "target").finished(trial)

    write_atomically(source.weights(trial), save({"w": np.zeros(3, dtype=np.float32)}))
    with pytest.raises(StoreError, match="not the weights of"):
        merge(tmp_path / "another", [source.folder])


def test_a_failure_is_forgotten_once_someone_finished_the_trial(source, tmp_path) -> None:
    target, other = Store(tmp_path / "target"), Store(tmp_path / "other")
    (other.folder / "trials").mkdir(parents=True)
    target.fail(TRIALS["own", 0], "here")
    extra = STUDY.trial(STUDY.arms[0], 50)
    other.fail(TRIALS["own", 1], "there")
    other.fail(extra, "there")
    merge(target.folder, [source.folder, other.folder])
    assert [target.failure(t) for t in (TRIALS["own", 0], TRIALS["own", 1], extra)] == [None, None, "there"]


def test_the_study_itself_is_copied_where_there_is_none(source, tmp_path) -> None:
    other, target = Store(tmp_path / "other"), tmp_path / "target"
    fill(other)
    for store, title in ((source, "First"), (other, "Second")):
        store.describe(STUDY.model_copy(update={"title": title}))
    merge(target, [source.folder, other.folder])
    kept = (target / "study.json").read_bytes()
    assert kept == (source.folder / "study.json").read_bytes()
    merge(target, [other.folder])
    assert (target / "study.json").read_bytes() == kept


def test_writes_that_were_cut_short_are_left_behind(source, tmp_path) -> None:
    (source.folder / "trials" / ".cut.json.0123.tmp").write_text("{")
    (source.folder / "trials" / ".cut.json").write_text(json.dumps({}))
    merge(tmp_path / "target", [source.folder])
    assert not list((tmp_path / "target" / "trials").glob(".*"))


def test_a_study_of_another_name_is_another_study(tmp_path) -> None:
    source, other = Store(tmp_path / "source"), Store(tmp_path / "other")
    source.trials.mkdir(parents=True)
    source.declare(STUDY)
    other.declare(STUDY.model_copy(update={"name": "renamed"}))
    with pytest.raises(StoreError, match="these are two studies"):
        merge(other.folder, [source.folder])


def test_what_the_target_has_is_counted_once(tmp_path) -> None:
    target, *others = (Store(tmp_path / name) for name in ("target", "laptop", "server"))
    for store in (target, *others):
        store.write(TRIALS["own", 0], record(TRIALS["own", 0], "own"))
    assert merge(target.folder, [store.folder for store in others]) == Merged(0, 0, 0, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("declaration.json", r"declaration\.json: expected JSON with 'declaration'"),
        ("failures/x.json", r"x\.json: expected JSON with 'reason'"),
        (f"weights/{TRIALS['own', 0].file_name}.safetensors", "not the weights of"),
    ],
)
def test_every_damaged_file_is_named_before_anything_is_copied(tmp_path, name, message) -> None:
    source, trial = Store(tmp_path / "source"), TRIALS["own", 0]
    source.write(trial, record(trial, "own"))
    for content in (b"", b"{", b"[]", b"{}"):
        write_atomically(source.folder / name, content)
        with pytest.raises(StoreError, match=message):
            merge(tmp_path / "target", [source.folder])
        assert not (tmp_path / "target").exists()


def test_weights_that_are_there_stay_and_those_of_no_trial_are_left_behind(source, tmp_path) -> None:
    target, (trial, orphan) = Store(tmp_path / "target"), (TRIALS["own", 0], STUDY.trial(STUDY.arms[3], 50))
    write_atomically(target.weights(trial), b"there")
    write_atomically(source.weights(trial), b"not compared")
    write_atomically(source.weights(orphan), save(STATE))
    assert merge(target.folder, [source.folder]).weights == 0
    assert contents(target.folder / "weights") == {target.weights(trial).name: b"there"}


def test_no_trial_arrives_before_its_weights(source, tmp_path) -> None:
    trial, target = TRIALS["own", 0], Store(tmp_path / "target")
    made = record(trial, "own")
    source.path(trial).unlink()
    source.write(trial, Record(made.result | {"weights": weights_digest(STATE)}, made.provenance))
    write_atomically(source.weights(trial), save(STATE))
    target.folder.mkdir()
    (target.folder / "weights").write_bytes(b"in the way of the folder")
    with pytest.raises(OSError, match="weights"):
        merge(target.folder, [source.folder])
    assert not target.trials.exists()


def test_the_targets_own_note_of_a_failure_stays(source, tmp_path) -> None:
    target, trial = Store(tmp_path / "target"), STUDY.trial(STUDY.arms[0], 50)
    target.fail(trial, "here")
    source.fail(trial, "there")
    merge(target.folder, [source.folder])
    assert target.failure(trial) == "here"


def test_of_two_notes_the_first_is_copied(tmp_path) -> None:
    trial, sources = TRIALS["own", 0], [Store(tmp_path / name) for name in ("laptop", "server")]
    for store in sources:
        store.trials.mkdir(parents=True)
        store.fail(trial, store.folder.name)
    merge(tmp_path / "target", [store.folder for store in sources])
    assert Store(tmp_path / "target").failure(trial) == "laptop"


def test_sources_with_nothing_to_copy_are_refused(source, tmp_path) -> None:
    target = tmp_path / "target"
    with pytest.raises(StoreError, match="expected the folder to copy into, then one or more to copy from"):
        merge(target, [])
    with pytest.raises(StoreError, match="source: expected another folder than the one that is copied into"):
        merge(source.folder, [source.folder / ".." / "source"])
    (tmp_path / "empty" / "trials").mkdir(parents=True)
    with pytest.raises(StoreError, match="empty: expected finished trials to copy, found none"):
        merge(target, [tmp_path / "empty"])
    assert not target.exists()
