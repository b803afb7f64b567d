"""Damage: whatever happens to the file of a result, it is seen, set aside, and the trial run again."""

from __future__ import annotations

import hashlib
import json
import os
import random

import pytest

from helpers.made_up_records import OWN, PROVENANCE, RECORD, SWAP, TRIAL, record
from helpers.studies import PLAIN, compare_networks
from weight_feedback.files import write_atomically
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.store.store import Damaged, Record, Store, StoreError
from weight_feedback.lab.tasks.fields import digest
from weight_feedback.lab.training.run import Options, run_trial


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "study")


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
        with pytest.raises(Damaged, match=f"found a result with the key {other.key()};"):
            store.read(TRIAL)
    settings = TRIAL.settings() | {"signal": "telepathy"}
    assert damaged(store, forged(RECORD.result | {"trial": settings}, PROVENANCE))
    with pytest.raises(Damaged, match=f"found a result with the key {digest(settings)};"):
        store.read(TRIAL)
    for result in ({"measured": settings}, {"swap": settings}):
        assert damaged(store, forged(result, PROVENANCE))
        with pytest.raises(Damaged, match="found settings that this version doesn't know"):
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


@pytest.fixture(scope="module")
def real() -> Record:
    return run_trial(TRIAL, Options(threads=1))


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
    study = compare_networks(seeds=1, training=TRIAL.training, arms=[PLAIN])
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
