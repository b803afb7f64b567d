"""The store: all or nothing, no damage goes unseen, and what was published stays."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from weight_feedback import files
from weight_feedback.files import write_atomically
from weight_feedback.lab.merge import merge
from weight_feedback.lab.runner import run
from weight_feedback.lab.settings import Projected, Swap, Training, Trial
from weight_feedback.lab.spec import Arm, Declared, Study
from weight_feedback.lab.store import FOLDERS, Damaged, Record, Store, StoreError
from weight_feedback.lab.trial import run_trial

TRIAL = Trial(data="generated", training=Training(epochs=1, batch_size=125), model="mnist-plain", seed=0)
OWN = TRIAL.model_copy(update={"signal": "own", "summary": Projected(k=2)})
SWAP = Swap(trial=OWN, heard="zeros")
PROVENANCE = {"host": "ä", "torch": "2"}


def record(trial: Trial | Swap, **changes: object) -> Record:
    kind = type(trial).__name__.lower()
    result = {kind: trial.settings(), "epochs": [{"accuracy": 97.3, "loss": -0.0}], "step_losses": [2.3, 1e-17]}
    return Record(result | changes, PROVENANCE)


RECORD = record(TRIAL)


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


def seen(store: Store) -> bool:
    """Say whether the store sees that the file of the trial is damaged."""
    try:
        store.read(TRIAL)
    except Damaged as error:
        return f"{store.path(TRIAL)}: " in str(error) and "sets it aside and runs the trial again" in str(error)
    return False


def damaged(store: Store, content: bytes) -> bool:
    store.path(TRIAL).write_bytes(content)
    return seen(store) and not store.finished(TRIAL)


def sha256(part: object) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()


def forged(result: object, provenance: object, **changes: object) -> bytes:
    """Return a file whose checksums are right."""
    checksums = {"result": sha256(result), "provenance": sha256(provenance)}
    content = {"format": 1, "result": result, "provenance": provenance, "sha256": checksums}
    return json.dumps(content | changes).encode()


def test_what_parses_to_the_same_but_was_not_written_so_is_seen(store) -> None:
    whole = store.write(TRIAL, RECORD).read_bytes()
    assert whole == forged(RECORD.result, RECORD.provenance)
    content, text = json.loads(whole), whole.decode()
    for other in (
        b"\xef\xbb\xbf" + whole,
        whole + b"\n",
        whole + b"{}",
        whole.replace(b"\\u00e4", "ä".encode()),
        whole.replace(b"\\u00e4", b"\\u00E4"),
        whole.replace(b"97.3", b"97.30"),
        whole.replace(b"97.3", b"9.73e1"),
        whole.replace(b": ", b":"),
        whole.replace(b'"format": 1', b'"format": 1, "format": 1'),
        whole.replace(b'"host"', b'"host": "x", "host"'),
        text.encode("utf-16"),
        text.encode("utf-32"),
        json.dumps(content, indent=1).encode(),
        json.dumps(content, sort_keys=True).encode(),
        json.dumps({**content, "more": 1}).encode(),
    ):
        assert other != whole
        assert damaged(store, other)


def test_what_is_no_record_is_seen(store) -> None:
    store.trials.mkdir(parents=True)
    deep = b"[" * 100_000
    for content in (
        b"",
        b"\0" * 100,
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{}",
        deep,
        deep + b"]" * 100_000,
        b"9" * 5000,
    ):
        assert damaged(store, content)
    for number in (float("nan"), float("inf")):
        assert damaged(store, forged(RECORD.result | {"loss": number}, PROVENANCE))
    assert damaged(store, forged(RECORD.result | {"loss": 1.5}, PROVENANCE).replace(b"1.5", b"1e999"))
    for result in (None, [], "trial", {}, {"trial": None}, {"trial": {}}, {"swap": TRIAL.settings()}):
        assert damaged(store, forged(result, PROVENANCE))
    for provenance in (None, [], "x"):
        assert damaged(store, forged(RECORD.result, provenance))


@pytest.mark.parametrize("part", ["result", "provenance"])
def test_a_changed_value_is_seen(store, part) -> None:
    content = json.loads(store.write(TRIAL, RECORD).read_bytes())
    content[part]["added"] = 1
    assert damaged(store, json.dumps(content).encode())


def test_the_result_of_another_trial_is_seen(store) -> None:
    for other in (TRIAL.model_copy(update={"seed": 1}), OWN, SWAP):
        content = store.write(other, record(other)).read_bytes()
        store.trials.mkdir(exist_ok=True)
        assert damaged(store, content)
        with pytest.raises(Damaged, match=f"found that of {other.file_name};"):
            store.read(TRIAL)
    settings = RECORD.result | {"trial": TRIAL.settings() | {"signal": "telepathy"}}
    assert damaged(store, forged(settings, PROVENANCE))
    with pytest.raises(Damaged, match="found that of settings that this version doesn't know"):
        store.read(TRIAL)


@pytest.mark.parametrize("content", [b'{"format": 2}', forged(RECORD.result, PROVENANCE, format=2, sha256="")])
def test_another_format_is_refused_and_is_no_damage(store, content) -> None:
    path = store.write(TRIAL, RECORD)
    path.write_bytes(content)
    for read in (store.read, store.finished, lambda trial: store.write(trial, RECORD)):
        with pytest.raises(StoreError, match=r"expected format 1, found 2; this version can't read it") as caught:
            read(TRIAL)
        assert not isinstance(caught.value, Damaged)
    assert path.read_bytes() == content


@pytest.mark.parametrize("found", [0, -1, 2, 9, True, 1.0, "1", None, [1]])
def test_a_number_of_the_format_that_nobody_wrote_is_damage(store, found) -> None:
    store.trials.mkdir(parents=True)
    assert damaged(store, forged(RECORD.result, PROVENANCE, format=found))
    if found != 2 and found != 9:
        assert damaged(store, json.dumps({"format": found}).encode())


def test_a_damaged_file_is_set_aside_when_the_trial_is_written(store) -> None:
    path = store.write(TRIAL, RECORD)
    whole = path.read_bytes()
    for number in (1, 2):
        path.write_bytes(whole[:-number])
        store.write(TRIAL, RECORD)
        assert path.read_bytes() == whole
        assert (store.folder / "damaged" / f"{path.stem}.{number}.json").read_bytes() == whole[:-number]
        note = (store.folder / "damaged" / f"{path.stem}.{number}.txt").read_text()
        assert note.startswith(f"{path}\n")
        assert "don't fit its checksums" in note


def test_nothing_is_overwritten_when_a_file_is_set_aside(store) -> None:
    path = store.checkpoint(TRIAL)
    there = store.folder / "damaged"
    there.mkdir(parents=True)
    for name, content in ((f"{path.stem}.1.txt", b"a note"), (f"{path.stem}.2.safetensors", b"a file")):
        (there / name).write_bytes(content)
    write_atomically(path, b"damaged")
    moved = store.set_aside(path, "why")
    assert moved == there / f"{path.stem}.3.safetensors"
    assert moved.read_bytes() == b"damaged"
    assert moved.with_suffix(".txt").read_text() == f"{path}\nwhy\n"
    assert (there / f"{path.stem}.1.txt").read_bytes() == b"a note"
    assert (there / f"{path.stem}.2.safetensors").read_bytes() == b"a file"
    assert not path.exists()


def test_what_another_process_has_set_aside_is_no_error(store) -> None:
    store.folder.mkdir()
    assert store.set_aside(store.path(TRIAL), "why") == store.folder / "damaged"
    assert list((store.folder / "damaged").iterdir()) == []


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

    monkeypatch.setattr("weight_feedback.lab.store.prepare", refuse)
    with pytest.raises(StoreError, match=rf"study: results can't be kept here: .*Read-only file system.*{place}"):
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
    longest = Trial(
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


DECLARED = Study(
    name="s",
    title="S",
    data="generated",
    seeds=1,
    arms=tuple(Arm(name=name, model=f"mnist-{name}", label=name) for name in ("plain", "pooled")),
    declared=Declared(primary=(("pooled", "plain"),), margin=0.5),
)


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
    with pytest.raises(Damaged, match=r"declaration.json: expected JSON with.*put back a copy of it"):
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

    monkeypatch.setattr("weight_feedback.lab.store.write_atomically", fail)
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


@pytest.fixture(scope="module")
def real() -> Record:
    return run_trial(TRIAL, threads=1)


def test_every_truncation_is_seen(store, real) -> None:
    path = store.write(TRIAL, real)
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        assert seen(store), length
    assert not store.finished(TRIAL)


def test_every_flipped_bit_is_seen(store, real) -> None:
    path = store.write(TRIAL, real)
    whole = path.read_bytes()
    # And each bit of the first bytes, with the number of the format, which no checksum covers.
    bits = [*random.Random(0).choices(range(8 * len(whole)), k=10_000), *range(8 * 40)]
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            at = bit // 8
            os.pwrite(file.fileno(), bytes([whole[at] ^ 1 << bit % 8]), at)
            assert seen(store), bit
            os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert store.finished(TRIAL)


def test_damage_in_a_run_is_set_aside_and_the_trial_run_again(tmp_path, real) -> None:
    study = Study(
        name="s",
        title="S",
        data="generated",
        seeds=1,
        training=TRIAL.training,
        arms=(Arm(name="plain", model="mnist-plain", label="plain"),),
    )
    store = Store(tmp_path)
    whole = store.write(TRIAL, real).read_bytes()
    for content in (b"", whole[:500], whole.replace(b"[", b"{", 1), whole.replace(b'"format": 1', b'"format": 3')):
        store.path(TRIAL).write_bytes(content)
        with pytest.warns(
            UserWarning, match=f"{TRIAL.file_name}.json: .*damaged; .* it is now {tmp_path}/damaged/"
        ):
            assert run(study, store, jobs=1) == 1
        assert store.read(TRIAL).result == real.result
        assert content in [path.read_bytes() for path in (tmp_path / "damaged").glob("*.json")]
    assert run(study, store, jobs=1) == 0
