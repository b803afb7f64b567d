"""The store: all or nothing, and no damage goes unseen."""

from __future__ import annotations

import json
import os

import pytest

from weight_feedback.files import write_atomically
from weight_feedback.lab.settings import Projected, Training, Trial
from weight_feedback.lab.spec import Arm, Declared, Study
from weight_feedback.lab.store import Record, Store, StoreError

TRIAL = Trial(data="generated", training=Training(), model="mnist-plain", seed=0)
RECORD = Record({"epochs": [{"accuracy": 97.3, "loss": 0.1}], "step_losses": [2.3, 1e-17]}, {"host": "ä"})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "study")


def test_what_was_written_is_read(store) -> None:
    assert store.read(TRIAL) is None
    path = store.write(TRIAL, RECORD)
    assert store.read(TRIAL) == RECORD
    assert path == store.path(TRIAL)
    assert list(store.trials.iterdir()) == [path]
    other = TRIAL.model_copy(update={"seed": 1})
    assert store.read(other) is None


def test_every_truncation_is_seen(store) -> None:
    path = store.write(TRIAL, RECORD)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="delete it to run the trial again"):
            store.read(TRIAL)


@pytest.mark.parametrize("part", ["result", "provenance"])
def test_a_changed_value_is_seen(store, part) -> None:
    path = store.write(TRIAL, RECORD)
    content = json.loads(path.read_bytes())
    content[part]["added"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=f"checksum of its {part}"):
        store.read(TRIAL)


@pytest.mark.parametrize(("content", "found"), [('{"format": 2}', "2"), ("[]", "None")])
def test_another_format_is_refused(store, content, found) -> None:
    path = store.write(TRIAL, RECORD)
    path.write_text(content)
    with pytest.raises(StoreError, match=f"expected format 1, found {found}"):
        store.read(TRIAL)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_declaration_is_kept_and_a_changed_one_refused(store) -> None:
    arms = tuple(Arm(name=name, model=f"mnist-{name}", label=name) for name in ("plain", "pooled"))
    study = Study(name="s", title="S", data="generated", seeds=1, arms=arms)
    store.declare(study)
    assert not store.folder.exists()

    declared = study.model_copy(update={"declared": Declared(primary=(("pooled", "plain"),), margin=0.5)})
    store.declare(declared)
    kept = (store.folder / "declaration.json").read_bytes()
    assert json.loads(kept)["declaration"] == declared.declaration()
    store.declare(declared)
    changed = declared.model_copy(update={"declared": Declared(primary=(("pooled", "plain"),), margin=0.6)})
    with pytest.raises(StoreError, match=f"declared otherwise.*found {declared.declaration()}.*new name"):
        store.declare(changed)
    assert (store.folder / "declaration.json").read_bytes() == kept


def test_another_result_of_the_same_settings_is_refused(store) -> None:
    store.write(TRIAL, RECORD)
    store.write(TRIAL, Record(RECORD.result, {"host": "another"}))
    other = Record(RECORD.result | {"step_losses": [2.4]}, {"host": "there", "torch": "3"})
    store.write(TRIAL, Record(RECORD.result, {"host": "here", "torch": "2"}))
    with pytest.raises(
        StoreError, match=r"gave another result here, on here with torch 2, than on there with torch 3"
    ):
        store.write(TRIAL, other)
    assert store.read(TRIAL).result == RECORD.result


def test_a_failure_is_noted_until_the_trial_finishes(store) -> None:
    assert store.failure(TRIAL) is None
    store.fail(TRIAL, "OSError: why\nwhere")
    assert store.failure(TRIAL) == "OSError: why\nwhere"
    assert not store.finished(TRIAL)
    store.write(TRIAL, RECORD)
    assert store.failure(TRIAL) is None
    assert store.finished(TRIAL)


def test_a_trial_that_keeps_weights_is_finished_with_them_alone(store) -> None:
    own = TRIAL.model_copy(update={"signal": "own", "summary": Projected(k=2)})
    store.write(own, RECORD)
    assert not store.finished(own)
    write_atomically(store.weights(own), b"")
    assert store.finished(own)


def test_numbers_that_json_has_no_word_for_are_refused(store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(TRIAL, Record({"loss": float("nan")}, {}))
    assert store.read(TRIAL) is None
