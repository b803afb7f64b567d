"""The store: all or nothing, what was published stays, and what can be known before is said before."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.made_up_records import OWN, RECORD, SWAP, TRIAL, record
from helpers.studies import compare_networks
from weight_feedback import files
from weight_feedback.files import write_atomically
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import FOLDERS, Damaged, Record, Store, StoreError
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Training


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
    store.write(SWAP, record(SWAP))
    assert store.read(SWAP) == record(SWAP)


def test_names_in_the_folder(store) -> None:
    path = store.checkpoint(TRIAL)
    assert path == store.folder / "checkpoints" / f"{TRIAL.file_name}.safetensors"
    places = (store.path(TRIAL), store.path(SWAP), store.weights(TRIAL), path)
    assert {place.parent.name for place in places} < set(FOLDERS)


def test_the_store_can_be_written_to(store) -> None:
    store.probe()
    store.probe(needed=1)
    assert list(store.folder.iterdir()) == []
    leftover = store.trials / f".{'0' * 32}.tmp"
    write_atomically(leftover, b"half")
    os.utime(leftover, (0, 0))
    store.probe()
    assert list(store.trials.iterdir()) == []


@pytest.mark.parametrize("place", FOLDERS)
def test_a_folder_that_cannot_be_written_to_is_found_before(store, monkeypatch, place) -> None:
    path = store.folder / place / "file"
    write_atomically(path, b"")
    prepare = files.prepare

    def refuse(folder: Path) -> None:
        if folder == path.parent:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        prepare(folder)

    monkeypatch.setattr("weight_feedback.lab.store.store.prepare", refuse)
    with pytest.raises(
        StoreError, match=rf"study: results can't be kept here: .*{place}.*Read-only file system.*--out"
    ):
        store.probe()


def test_too_little_space_is_found_before(store, monkeypatch) -> None:
    free = shutil.disk_usage(store.folder.parent)._replace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    store.probe(needed=2_000_000)
    with pytest.raises(StoreError, match=r"study: expected 3\.5 MB of free space.*found 2\.0 MB"):
        store.probe(needed=3_500_000)


def test_a_file_in_the_way_of_the_folder_is_found_before(store) -> None:
    store.folder.write_bytes(b"")
    with pytest.raises(StoreError, match=r"study: results can't be kept here: .*move away what is in the place"):
        store.probe()


@pytest.mark.parametrize("name", ["with spaces", "🙂 émoji", "two\nlines", "é" * 127, "-", "$HOME; rm"])
def test_a_folder_of_any_name_and_links_to_it(tmp_path, name) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    for store in (Store(tmp_path / name / "study"), Store(tmp_path / "link" / "other")):
        store.probe()
        store.fail(TRIAL, "why")
        store.write(TRIAL, RECORD)
        assert store.read(TRIAL) == RECORD
        assert store.failure(TRIAL) is None
        store.path(OWN).write_bytes(b"{")
        assert store.set_aside(store.path(OWN), "why").exists()
        merged = store.folder.with_name(f"{store.folder.name} merged")
        assert merge(merged, [store.folder]).trials == 1
        assert Store(merged).read(TRIAL) == RECORD


def test_the_longest_names_fit_with_what_is_added_to_them(store) -> None:
    longest = NetworkTrial(
        data="generated",
        training=Training(),
        model="m" * 64,
        signal="own-gradient",
        summary=Projected(k=2),
        conditioning="film",
        salt=1000,
        seed=2**31 - 1,
    )
    swap = Swap(trial=longest, heard="initial")
    assert store.write(swap, record(swap)).exists()
    assert store.set_aside(store.path(swap), "why").exists()


DECLARED = compare_networks(declared={"primary": [["pooled", "plain"]], "margin": 0.5})


def test_a_declaration_is_kept_and_a_changed_one_refused(store) -> None:
    store.declare(DECLARED.model_copy(update={"declared": None}))
    assert not store.folder.exists()

    declared = DECLARED
    store.declare(declared)
    kept = (store.folder / "declaration.json").read_bytes()
    assert json.loads(kept)["declaration"] == declared.declaration()
    store.declare(declared)
    changed = declared.model_copy(update={"declared": Declared(primary=(("pooled", "plain"),), margin=0.6)})
    with pytest.raises(StoreError, match=f"declared otherwise.*found {declared.declaration()}.*new name"):
        store.declare(changed)
    assert (store.folder / "declaration.json").read_bytes() == kept


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"declaration": "x"}', b'{"study": {}}'])
def test_a_damaged_declaration_decides_nothing_anew(store, content) -> None:
    path = store.folder / "declaration.json"
    write_atomically(path, content)
    with pytest.raises(Damaged, match=r"declaration.json: expected JSON with.*put back a copy of the file"):
        store.declare(DECLARED)
    assert path.read_bytes() == content


def test_a_declaration_whose_digest_is_damaged_is_not_taken_for_another(store) -> None:
    store.declare(DECLARED)
    path, digest = store.folder / "declaration.json", DECLARED.declaration()
    content = path.read_bytes().replace(digest.encode(), b"0" * 16)
    path.write_bytes(content)
    with pytest.raises(
        Damaged, match=f"expected {digest} of the study in it, found 0000000000000000: damaged;.*copy"
    ):
        store.declare(DECLARED)
    assert path.read_bytes() == content


def test_another_result_of_the_same_settings_is_refused(store) -> None:
    store.write(TRIAL, Record(RECORD.result, {"host": "here", "torch": "2"}))
    other = Record(RECORD.result | {"step_losses": [2.4]}, {"host": "there", "torch": "3"})
    with pytest.raises(
        StoreError, match=r"gave another result here, on here with torch 2, than on there with torch 3"
    ):
        store.write(TRIAL, other)
    assert store.read(TRIAL).result == RECORD.result


def test_what_is_published_stays(store) -> None:
    whole = store.write(TRIAL, RECORD).read_bytes()
    store.write(TRIAL, Record(RECORD.result, {"host": "another"}))
    assert store.path(TRIAL).read_bytes() == whole


def test_a_failure_is_noted_until_the_trial_finishes(store) -> None:
    assert store.failure(TRIAL) is None
    store.fail(TRIAL, "OSError: why\nwhere")
    assert store.failure(TRIAL) == "OSError: why\nwhere"
    assert not store.finished(TRIAL)
    store.write(TRIAL, RECORD)
    assert store.failure(TRIAL) is None
    assert store.finished(TRIAL)


def test_a_note_that_is_damaged_is_still_a_note(store) -> None:
    store.fail(TRIAL, "why")
    (note,) = (store.folder / "failures").iterdir()
    for content in (b"", b"{", b"[]", b"{}"):
        note.write_bytes(content)
        assert store.failure(TRIAL) == f"unknown: {note}: expected JSON with 'reason' in it; the file is damaged"
    store.write(TRIAL, RECORD)
    assert store.failure(TRIAL) is None


def test_no_note_stays_beside_a_result(store, monkeypatch) -> None:
    store.fail(TRIAL, "why")

    def fail(*_: object) -> None:
        assert store.failure(TRIAL) is None
        raise OSError

    monkeypatch.setattr("weight_feedback.lab.store.store.write_atomically", fail)
    with pytest.raises(OSError):  # noqa: PT011 - it has no message
        store.write(TRIAL, RECORD)


def test_a_trial_that_keeps_weights_is_finished_with_them_alone(store) -> None:
    store.write(OWN, record(OWN))
    assert not store.finished(OWN)
    write_atomically(store.weights(OWN), b"")
    assert store.finished(OWN)


def test_numbers_that_json_has_no_word_for_are_refused(store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(TRIAL, Record({"loss": float("nan")}, {}))
    assert store.read(TRIAL) is None
