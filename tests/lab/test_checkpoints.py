"""Epoch checkpoints: training that goes on from one ends with the same bits; one that can't be used is said so."""

from __future__ import annotations

import base64
import copy
import errno
import functools
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from safetensors.torch import save

from weight_feedback.lab import checkpoints, datasets, trial
from weight_feedback.lab.checkpoints import CheckpointError, Header, decode, encode
from weight_feedback.lab.controls import build_arm
from weight_feedback.lab.evaluation import Evaluation, Hearing
from weight_feedback.lab.settings import Pooled, Projected, SignalName, Sketched, Training, Trial
from weight_feedback.lab.store import Record
from weight_feedback.lab.training import History, Lockstep
from weight_feedback.lab.trial import build_cohort, run_cohort, run_trial

TRAINING = Training(epochs=3, batch_size=32, lr=0.05)
STEPS = 3
SIGNALS = [name for name in get_args(SignalName) if name != "none"]


@pytest.fixture(autouse=True)
def data(monkeypatch) -> datasets.Dataset:
    """Few images, so that an epoch is three steps: of 32, 32 and 16."""
    few = part_of(datasets.load("generated"))
    monkeypatch.setattr(datasets, "load", lambda *_: few)
    return few


@functools.cache
def part_of(data: datasets.Dataset) -> datasets.Dataset:
    return replace(
        data,
        train_images=data.train_images[:80],
        train_labels=data.train_labels[:80],
        test_images=data.test_images[:40],
        test_labels=data.test_labels[:40],
    )


class Cut(Exception):  # noqa: N818 - an interruption, not an error
    """Training is cut short here."""


def make(signal: str | None = "own", *, training: dict | None = None, **changes) -> Trial:
    fields = {
        "data": "generated",
        "training": TRAINING.model_copy(update=training or {}),
        "model": "mnist-plain",
        "signal": signal,
        "summary": Projected(k=8) if signal else None,
        "seed": 2,
    }
    return Trial(**(fields | changes))


def run(one: Trial, path: Path | None = None, **options) -> list[Record]:
    return run_cohort(one.cohort(), checkpoint=path, **({"checkpoint_seconds": 0, "threads": 1} | options))


def results(records: list[Record]) -> list[dict]:
    return [record.result for record in records]


def cut(one: Trial, path: Path, epoch: int = 1, **options) -> None:
    """Train from where the checkpoint is, and be interrupted after an epoch."""

    def interrupt(finished: int, _: Evaluation) -> None:
        if finished == epoch:
            raise Cut

    with pytest.raises(Cut):
        run(one, path, on_epoch=interrupt, **options)


KINDS = {
    **{signal: make(signal) for signal in SIGNALS},
    **{f"cohort {signal}": make(signal, training={"cohort": 2}) for signal in SIGNALS if signal != "own-gradient"},
    "film": make(conditioning="film"),
    "film yoked cohort": make("yoked", conditioning="film", training={"cohort": 2}),
    "pooled noise": make("noise", summary=Pooled(k=26, kernels=((25, 22), (2, 25)))),
    "count sketch": make(summary=Sketched(k=8, sketch="count")),
    "kronecker stale": make("stale", summary=Sketched(k=8, sketch="kronecker")),
    "plain": make(None),
    "plain cohort": make(None, training={"cohort": 2}),
    "notebook pooled": make(None, model="mnist-pooled"),
    "notebook projected cohort": make(None, model="mnist-projected", training={"cohort": 2}),
    "notebook sketched": make(None, model="mnist-sketched"),
    "no momentum": make("yoked", training={"momentum": 0.0}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_after_every_epoch_and_resumed_is_uninterrupted(tmp_path, kind) -> None:
    path = tmp_path / "checkpoint"
    whole = run(KINDS[kind])
    for epoch in (1, 2, 3):
        cut(KINDS[kind], path, epoch)
    resumed = run(KINDS[kind], path)
    assert results(resumed) == results(whole)
    assert [record.provenance["resumed"] for record in (*whole, *resumed)] == [0] * len(whole) + [3] * len(whole)


def test_a_trial_that_diverged_is_not_trained_again(tmp_path) -> None:
    path, one = tmp_path / "checkpoint", make("yoked", training={"lr": 1e30})
    whole = run(one, path)
    assert whole[0].result["diverged"] == 2

    def trained(*_: object) -> None:
        raise AssertionError("it was trained")

    assert results(run(one, path, on_log=trained)) == results(whole)


def bits(lockstep: Lockstep) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in lockstep.tensors().items()}


def test_a_cohort_of_which_one_has_diverged_goes_on_to_the_same_bits(data) -> None:
    def lockstep() -> Lockstep:
        models = [build_arm(make("stale", seed=seed), STEPS) for seed in range(3)]
        with torch.no_grad():
            models[1].fc2.weight.fill_(torch.inf)
        return Lockstep(models, data, TRAINING, range(3))

    written = []
    whole = lockstep()
    whole.train(keep=lambda: written.append(encode(header_of(whole), whole.tensors())))
    assert [history.diverged for history in whole.histories] == [None, 1, None]
    for content in written:
        header, tensors = decode(content)
        resumed = lockstep()
        resumed.restore(header.epoch, header.histories, tensors)
        seen: list[int] = []
        resumed.train(on_epoch=lambda epoch, _: seen.append(epoch))  # noqa: B023 - called at once
        assert seen == list(range(header.epoch + 1, 4))
        assert (resumed.histories, bits(resumed)) == (whole.histories, bits(whole))


def header_of(lockstep: Lockstep) -> Header:
    return Header(
        same={}, epoch=lockstep.epoch, histories=tuple(lockstep.histories), started="", seconds=1.5, resumed=0
    )


class Ticks:
    """A clock that is set by hand, and everything that is written meanwhile."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.writes = 100.0, 0
        monkeypatch.setattr(checkpoints, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(checkpoints, "write_atomically", self.write)

    def write(self, path: Path, content: bytes) -> None:
        self.writes += 1
        path.write_bytes(content)

    def tick(self, *_: object) -> None:
        self.now += 30


def test_a_checkpoint_is_written_when_a_minute_has_passed_since_the_last(tmp_path, monkeypatch) -> None:
    clock, seen = Ticks(monkeypatch), []

    def tick(*_: object) -> None:
        clock.tick()
        seen.append(clock.writes)

    record = run_trial(make(training={"epochs": 6}), checkpoint=tmp_path / "checkpoint", on_epoch=tick)
    # 60 seconds have passed after the third epoch, and again after the fifth.
    assert seen == [0, 0, 1, 1, 2, 2]
    assert record.provenance["seconds"] == 180


def test_times_are_those_of_all_parts_without_what_lay_between(tmp_path, monkeypatch) -> None:
    path, clock = tmp_path / "checkpoint", Ticks(monkeypatch)

    def tick(epoch: int, _: Evaluation) -> None:
        clock.tick()
        if epoch == 2 and clock.now < 1000:
            raise Cut

    with pytest.raises(Cut):
        run(make(training={"cohort": 2}), path, on_epoch=tick)
    clock.now += 10_000
    header, tensors = decode(path.read_bytes())
    began = "2020-02-02T00:00:00+00:00"
    path.write_bytes(encode(header.model_copy(update={"started": began}), tensors))
    records = run(make(training={"cohort": 2}), path, on_epoch=tick)
    # 30 before the checkpoint of the second epoch, 30 after it; each trial has half of that.
    assert [record.provenance["seconds"] for record in records] == [30, 30]
    assert [record.provenance["started"] for record in records] == [began, began]
    assert decode(path.read_bytes())[0].started == began


def test_a_short_trial_writes_no_checkpoint(tmp_path) -> None:
    run_trial(make(), threads=1, checkpoint=tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="checkpoint_seconds: expected at least 0, got -1"):
        run_trial(make(), checkpoint_seconds=-1)
    with pytest.raises(ValueError, match="checkpoint_seconds: expected at least 0, got nan"):
        run_trial(make(), checkpoint_seconds=float("nan"))


def test_a_checkpoint_that_cannot_be_written_is_noted_and_training_goes_on(tmp_path, monkeypatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    expected = results(run(make()))
    monkeypatch.setattr(checkpoints, "write_atomically", full)
    notes: list[str] = []
    assert results(run(make(), tmp_path / "checkpoint", on_note=notes.append)) == expected
    assert len(notes) == 3
    assert re.search(r"No space left on device: .*checkpoint.*goes on without this checkpoint", notes[0])


def test_a_place_where_a_checkpoint_cannot_go_is_refused_before_training(tmp_path) -> None:
    def trained(*_: object) -> None:
        raise AssertionError("training began")

    file = tmp_path / "file"
    file.write_text("")
    for path, named in ((file / "checkpoint", file), (tmp_path, tmp_path)):
        with pytest.raises(OSError, match=re.escape(str(named))):
            run(make(), path, on_log=trained)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["weights", "checkpoint"])
def test_a_read_only_folder_is_noticed_before_training(tmp_path, monkeypatch, place) -> None:
    def prepare(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    def trained(*_: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(trial, "prepare", prepare)
    with pytest.raises(OSError, match=f"Read-only file system: '{re.escape(str(tmp_path))}'"):
        run_trial(make(), on_log=trained, **{place: tmp_path / "file"})


@pytest.mark.parametrize(
    "name",
    ["settings", "data", "threads", "machine", "processor", "cpu", "device", "torch", "weight_feedback", "more"],
)
def test_a_checkpoint_of_another_trial_or_kind_of_machine_is_moved_aside(tmp_path, monkeypatch, data, name) -> None:
    path, notes, one, threads = tmp_path / "checkpoint", [], make(), 1
    surroundings = trial.surroundings
    with monkeypatch.context() as patched:
        if name == "settings":
            one = make(seed=3)
        elif name == "data":
            patched.setattr(datasets, "load", lambda *_: replace(data, test_labels=data.test_labels.flip(0)))
        elif name == "threads":
            threads = 2
        else:
            patched.setattr(trial, "surroundings", lambda device: surroundings(device) | {name: "other"})
        cut(one, path, threads=threads)
    content = path.read_bytes()
    records = run(make(), path, on_note=notes.append)
    assert results(records) == results(run(make()))
    assert records[0].provenance["resumed"] == 0
    aside = tmp_path / "checkpoint.unusable-1"
    assert aside.read_bytes() == content
    (note,) = notes
    assert re.fullmatch(
        rf"{re.escape(str(path))}: expected {name} \S.*, found \S.*; it is now {re.escape(str(aside))}, and "
        "training starts over",
        note,
    )


def test_surroundings_are_part_of_the_provenance() -> None:
    (record,) = run(make(None))
    assert record.provenance.items() >= trial.surroundings(torch.device("cpu")).items()
    assert all(record.provenance[name] for name in ("processor", "cpu", "machine"))


def test_damaged_checkpoints_are_moved_aside_one_by_one_with_a_warning(tmp_path) -> None:
    path = tmp_path / "checkpoint"
    expected = results(run(make()))
    for number in (1, 2):
        cut(make(), path)
        damaged = path.read_bytes()[: -number * 100]
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=rf"expected bytes whose digest is .*unusable-{number}, and training"):
            assert results(run(make(), path)) == expected
        assert (tmp_path / f"checkpoint.unusable-{number}").read_bytes() == damaged
        path.unlink()


def test_two_processes_may_move_one_checkpoint_aside(tmp_path, monkeypatch) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"damaged")

    def moved_meanwhile(content: bytes) -> None:
        path.unlink()
        raise CheckpointError("expected a checkpoint, found another")

    monkeypatch.setattr(checkpoints, "decode", moved_meanwhile)
    with pytest.warns(UserWarning, match="training starts over"):
        run(make(), path)


SMALL = Header(
    same={"settings": "0123456789abcdef", "threads": 1},
    epoch=2,
    histories=(
        History([0.1, 0.2], [Evaluation(1.5, 3, 30.0)] * 2, [Hearing(1.0, 0.0, 0.5)] * 3),
        History([], [], [], diverged=1),
    ),
    started="2026-01-01T00:00:00+00:00",
    seconds=12.5,
    resumed=1,
)
SMALL_TENSORS = {"network.0.x": torch.tensor([1.0, -2.0]), "network.0.signal.step": torch.tensor(3)}


def test_what_is_read_is_what_was_written() -> None:
    strided = torch.arange(6.0).view(2, 3).T
    header, tensors = decode(encode(SMALL, SMALL_TENSORS | {"a": strided[0], "b": strided}))
    assert header == SMALL
    assert tensors.keys() == {*SMALL_TENSORS, "a", "b"}
    assert torch.equal(tensors["b"], strided)
    assert torch.equal(tensors["a"], strided[0])
    assert all(torch.equal(tensors[name], tensor) for name, tensor in SMALL_TENSORS.items())


def test_every_truncation_and_every_flipped_bit_is_noticed() -> None:
    content = encode(SMALL, SMALL_TENSORS)
    for length in range(len(content)):
        with pytest.raises(CheckpointError, match="damaged"):
            decode(content[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        decode(content + b"\0")
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError, match="damaged"):
            decode(bytes(changed))


def test_a_damaged_checkpoint_of_a_trial_is_noticed(tmp_path) -> None:
    path = tmp_path / "checkpoint"
    cut(make("yoked", training={"cohort": 2}), path)
    content, generator = path.read_bytes(), random.Random(0)
    for _ in range(500):
        changed = bytearray(content[: generator.choice([len(content), generator.randrange(len(content))])])
        place = generator.randrange(8 * len(changed) or 1)
        if len(changed) == len(content):
            changed[place // 8] ^= 1 << place % 8
        with pytest.raises(CheckpointError, match="damaged"):
            decode(bytes(changed))


#: What version 0.1.0 writes: a file that later versions must either read or refuse with its format's number.
FORMAT_1 = """
cAMAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJzaGEyNTYiOiJkZmU5MjM5MDZkOTg0NDc3NGRlYmYwNjNmYTA1NzQyYjNhOGFiNjg3MmRlZDAyYj
Q1ZWQwODgzMGQ1NWE0NjU5IiwiY2hlY2twb2ludCI6IntcImZvcm1hdFwiOjEsXCJzYW1lXCI6e1wic2V0dGluZ3NcIjpcIjAxMjM0NTY3ODlh
YmNkZWZcIixcInRocmVhZHNcIjoxfSxcImVwb2NoXCI6MixcImhpc3Rvcmllc1wiOlt7XCJlcG9jaHNcIjpbe1wibG9zc1wiOjEuNSxcImNvcn
JlY3RcIjozLFwiYWNjdXJhY3lcIjozMC4wfSx7XCJsb3NzXCI6MS41LFwiY29ycmVjdFwiOjMsXCJhY2N1cmFjeVwiOjMwLjB9XSxcImhlYXJp
bmdzXCI6W3tcIm5vcm1cIjoxLjAsXCJkcmlmdFwiOjAuMCxcInNoYXJlXCI6MC41fSx7XCJub3JtXCI6MS4wLFwiZHJpZnRcIjowLjAsXCJzaG
FyZVwiOjAuNX0se1wibm9ybVwiOjEuMCxcImRyaWZ0XCI6MC4wLFwic2hhcmVcIjowLjV9XSxcImRpdmVyZ2VkXCI6bnVsbH0se1wiZXBvY2hz
XCI6W10sXCJoZWFyaW5nc1wiOltdLFwiZGl2ZXJnZWRcIjoxfV0sXCJzdGFydGVkXCI6XCIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwXCIsXC
JzZWNvbmRzXCI6MTIuNSxcInJlc3VtZWRcIjoxfSJ9LCJuZXR3b3JrLjAuc2lnbmFsLnN0ZXAiOnsiZHR5cGUiOiJJNjQiLCJzaGFwZSI6W10s
ImRhdGFfb2Zmc2V0cyI6WzAsOF19LCJuZXR3b3JrLjAubG9zc2VzIjp7ImR0eXBlIjoiRjY0Iiwic2hhcGUiOlsyXSwiZGF0YV9vZmZzZXRzIj
pbOCwyNF19LCJuZXR3b3JrLjEubG9zc2VzIjp7ImR0eXBlIjoiRjY0Iiwic2hhcGUiOlswXSwiZGF0YV9vZmZzZXRzIjpbMjQsMjRdfSwibmV0
d29yay4wLngiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzJdLCJkYXRhX29mZnNldHMiOlsyNCwzMl19fSAgAwAAAAAAAACamZmZmZm5P5qZmZ
mZmck/AACAPwAAAMA=
"""


def test_format_1_stays_readable() -> None:
    content = base64.b64decode(FORMAT_1)
    header, tensors = decode(content)
    assert header == SMALL
    assert tensors.keys() == SMALL_TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in SMALL_TENSORS.items())
    # What is written now is of the same form.
    assert len(encode(SMALL, SMALL_TENSORS)) == len(content)


def sealed(metadata: dict[str, str], tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    """A file with a right digest, whatever is in it."""
    content = save(tensors or {"x": torch.zeros(1)}, metadata | {"sha256": "0" * 64})
    place = checkpoints._DIGEST.search(content)
    return checkpoints._with_digest(content, place, checkpoints.hashlib.sha256(content).hexdigest())


TEXT = SMALL.model_dump_json(exclude={"histories": True})[:-1] + ',"histories":[]}'


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected a checkpoint, found something else .*'checkpoint'"),
        ({"checkpoint": "{"}, "expected a checkpoint, found something else"),
        ({"checkpoint": "[" * 100_000}, "expected a checkpoint, found something else .*Recursion"),
        ({"checkpoint": "[]"}, "expected a checkpoint, found something else"),
        ({"checkpoint": "{}"}, "expected a checkpoint, found something else .*'format'"),
        (
            {"checkpoint": TEXT.replace('"format":1', '"format":2')},
            "expected format 1, found 2, which this version",
        ),
        ({"checkpoint": TEXT.replace('"format":1', '"format":"1"')}, "expected format 1, found '1', which this"),
        (
            {"checkpoint": TEXT.replace('"epoch":2', '"epoch":0')},
            "header: epoch: .*greater than or equal to 1, found 0",
        ),
        ({"checkpoint": TEXT.replace('"epoch":2', '"epoch":2.0')}, "header: epoch: .*integer, found 2.0"),
        ({"checkpoint": TEXT.replace("12.5", "NaN")}, "header: seconds: .*finite number, found nan"),
        ({"checkpoint": TEXT.replace("12.5", "-1")}, "header: seconds: .*greater than or equal to 0, found -1"),
        (
            {"checkpoint": TEXT.replace('"resumed":1', '"resumed":-1')},
            "header: resumed: .*greater than or equal to 0, found -1",
        ),
        ({"checkpoint": TEXT.replace("{", '{"more":1,', 1)}, "header: more: .*not permitted, found 1"),
        ({"checkpoint": TEXT.replace("[]", '[{"diverged":0.5}]')}, r"header: histories\.0\.diverged: .*found 0\.5"),
        ({"checkpoint": TEXT.replace("[]", "[{}]")}, r"network\.0\.losses: expected a vector .*found None"),
    ],
)
def test_what_is_no_checkpoint_is_refused(metadata, message) -> None:
    assert decode(sealed({"checkpoint": TEXT}))[0].epoch == 2
    with pytest.raises(CheckpointError, match=message):
        decode(sealed(metadata))


@pytest.mark.parametrize(
    "losses", [torch.zeros(2), torch.zeros(2, 2, dtype=torch.float64), torch.tensor([1, torch.nan]).double()]
)
def test_losses_that_cannot_be_are_refused(losses) -> None:
    said = {"checkpoint": TEXT.replace("[]", "[{}]")}
    with pytest.raises(CheckpointError, match=r"network\.0\.losses: expected a vector of finite numbers"):
        decode(sealed(said, {"network.0.losses": losses}))


@functools.cache
def yoked_pair() -> Lockstep:
    """Two yoked networks after two epochs."""
    one = make("yoked", training={"cohort": 2, "epochs": 2})
    lockstep = fresh_pair(one)
    lockstep.train()
    return lockstep


def fresh_pair(one: Trial) -> Lockstep:
    models, donors = build_cohort(one.cohort(), STEPS, torch.device("cpu"))
    return Lockstep(models, datasets.load("generated"), one.training, [2, 3], donors)


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.flatten()[-1] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("donor.1.fc1.weight", None, r"expected torch.float32 \[50, 160\], found nothing"),
        ("more", lambda _: torch.zeros(1), r"expected nothing, found torch.float32 \[1\]"),
        ("network.0.fc2.bias", lambda x: x[:9], r"expected torch.float32 \[10\], found torch.float32 \[9\]"),
        ("network.1.start", lambda x: x.double(), r"expected torch.float32 \[8\], found torch.float64 \[8\]"),
        ("network.0.conv1.weight", with_nan, "expected numbers, found NaN in training that hasn't diverged"),
        ("donor.1.momentum_buffer.stacks.fc1_weight", with_nan, "expected numbers, found NaN"),
    ],
)
def test_tensors_of_other_networks_are_refused_and_nothing_is_changed(name, change, message) -> None:
    trained, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    tensors, before = trained.tensors(), bits(fresh)
    assert name in tensors or name == "more"
    tensors |= {name: change(tensors.get(name))} if change else {}
    if not change:
        del tensors[name]
    with pytest.raises(ValueError, match=f"{re.escape(name)}: {message}"):
        fresh.restore(2, trained.histories, tensors)
    assert (fresh.epoch, bits(fresh)) == (0, before)


def test_restoring_changes_all_tensors_and_nothing_else_is_among_them() -> None:
    trained, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    others = {name: tensor + 1 for name, tensor in trained.tensors().items()}
    # What is heard may be anything; what is trained can't be NaN.
    others["donor.0.fc1.signal.summary.gain"].fill_(torch.nan)
    fresh.restore(2, trained.histories, others)
    assert bits(fresh) == {name: tensor.contiguous().numpy().tobytes() for name, tensor in others.items()}


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        (
            "step_losses",
            [0.1] * 5,
            r"expected 6 losses and \(2, 3\) evaluations and hearings, found 5 and \(2, 3\)",
        ),
        ("epochs", [], r"expected 6 losses and \(2, 3\) evaluations and hearings, found 6 and \(0, 3\)"),
        ("hearings", [], r"expected 6 losses and \(2, 3\) evaluations and hearings, found 6 and \(2, 0\)"),
        ("diverged", 2, r"expected 2 losses and \(0, 1\) evaluations and hearings, found 6 and \(2, 3\)"),
        ("diverged", 6, r"expected 6 losses and \(1, 2\) evaluations and hearings, found 6 and \(2, 3\)"),
        ("diverged", 7, "expected a step from 1 to 6 at which it diverged, found 7"),
        ("diverged", 0, "expected a step from 1 to 6 at which it diverged, found 0"),
    ],
)
def test_histories_that_cannot_be_are_refused(field, value, found) -> None:
    trained, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    histories = copy.deepcopy(trained.histories)
    setattr(histories[1], field, value)
    with pytest.raises(ValueError, match=f"history 1: {found}"):
        fresh.restore(2, histories, trained.tensors())
    for epoch, some in ((0, trained.histories), (4, trained.histories), (2, trained.histories[:1])):
        with pytest.raises(
            ValueError, match=rf"expected 2 histories of 1 to 3 epochs, found {len(some)} of {epoch}"
        ):
            fresh.restore(epoch, some, trained.tensors())
    fresh.restore(2, trained.histories, trained.tensors())


def test_a_checkpoint_of_other_networks_is_moved_aside(tmp_path) -> None:
    path, notes = tmp_path / "checkpoint", []
    cut(make(), path)
    header, tensors = decode(path.read_bytes())
    path.write_bytes(encode(header, tensors | {"more": torch.zeros(1)}))
    record = run_trial(make(), threads=1, checkpoint=path, on_note=notes.append)
    assert [record.result] == results(run(make()))
    assert [note.split(": ", 1)[1].split(";")[0] for note in notes] == [
        "more: expected nothing, found torch.float32 [1]"
    ]


def test_nan_is_possible_where_training_has_diverged(data) -> None:
    settings = TRAINING.model_copy(update={"lr": 1e30})
    diverged, again = (Lockstep([build_arm(make(), STEPS)], data, settings, [2]) for _ in range(2))
    diverged.train()
    assert diverged.tensors()["network.0.fc1.weight"].isnan().any()
    again.restore(diverged.epoch, diverged.histories, diverged.tensors())
    assert bits(again) == bits(diverged)
