"""Training that goes on from a checkpoint ends with the same bits; one that can't be used is said so."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from helpers.interrupted_trials import STEPS, TRAINING, Cut, bits, cut, few_images, make, results, run
from helpers.lockstep_training import trained
from weight_feedback.lab.data import datasets
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.settings import Pooled, SignalName, Sketched, Subspace
from weight_feedback.lab.training import checkpoints
from weight_feedback.lab.training import run as training_run
from weight_feedback.lab.training.checkpoints import CheckpointError, Header, decode, encode
from weight_feedback.lab.training.run import Options, run_trial

SIGNALS = [name for name in get_args(SignalName) if name != "none"]


@pytest.fixture(autouse=True)
def data(monkeypatch) -> datasets.Dataset:
    few = few_images()
    monkeypatch.setattr(datasets, "load", lambda *_: few)
    return few


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
    "subspace": make(summary=None, training={"subspace": Subspace(dimensions=9)}),
    "subspace yoked": make("yoked", summary=None, training={"subspace": Subspace(dimensions=9)}),
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


def test_a_cohort_of_which_one_has_diverged_goes_on_to_the_same_bits(data) -> None:
    def lockstep() -> Lockstep:
        models = [build_arm(make("stale", seed=seed), STEPS) for seed in range(3)]
        with torch.no_grad():
            models[1].fc2.weight.fill_(torch.inf)
        return Lockstep(models, data, TRAINING, range(3))

    written = []
    whole = lockstep()
    trained(whole, on_epoch=lambda *_: written.append(content_of(whole)))
    assert len(written) == 3
    assert [history.diverged for history in whole.histories] == [None, 1, None]
    for content in written:
        header, tensors = decode(content)
        resumed = lockstep()
        resumed.restore(header.epoch, header.plain, tensors)
        seen: list[int] = []
        trained(resumed, on_epoch=lambda epoch, _: seen.append(epoch))  # noqa: B023 - called at once
        assert seen == list(range(header.epoch + 1, 4))
        assert (resumed.histories, bits(resumed)) == (whole.histories, bits(whole))


def content_of(lockstep: Lockstep) -> bytes:
    plain, tensors = lockstep.state()
    header = Header(same={}, epoch=lockstep.epoch, plain=plain, started="", seconds=1.5, resumed=0)
    return encode(header, tensors)


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

    record = run_trial(make(training={"epochs": 6}), Options(checkpoint=tmp_path / "checkpoint", on_epoch=tick))
    # 60 seconds have passed after the third epoch, and again after the fifth.
    assert seen == [0, 0, 1, 1, 2, 2]
    assert record.provenance["seconds"] == 180


def test_times_are_those_of_all_parts_without_what_lay_between(tmp_path, monkeypatch) -> None:
    path, clock = tmp_path / "checkpoint", Ticks(monkeypatch)

    def tick(epoch: int, _: Mapping[str, float]) -> None:
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
    run_trial(make(), Options(threads=1, checkpoint=tmp_path / "checkpoint"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="checkpoint_seconds: expected at least 0, got -1"):
        run_trial(make(), Options(checkpoint_seconds=-1))
    with pytest.raises(ValueError, match="checkpoint_seconds: expected at least 0, got nan"):
        run_trial(make(), Options(checkpoint_seconds=float("nan")))


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


@pytest.mark.parametrize(
    "options",
    [lambda file: {"weights": {make(): file}}, lambda file: {"checkpoint": file}],
    ids=["weights", "checkpoint"],
)
def test_a_read_only_folder_is_noticed_before_training(tmp_path, monkeypatch, options) -> None:
    def prepare(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    def trained(*_: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(training_run, "prepare", prepare)
    with pytest.raises(OSError, match=f"Read-only file system: '{re.escape(str(tmp_path / 'file'))}'"):
        run_trial(make(), Options(on_log=trained, **options(tmp_path / "file")))


@pytest.mark.parametrize(
    "name",
    ["settings", "data", "threads", "machine", "processor", "cpu", "device", "torch", "weight_feedback", "more"],
)
def test_a_checkpoint_of_another_trial_or_kind_of_machine_is_moved_aside(tmp_path, monkeypatch, data, name) -> None:
    path, notes, one, threads = tmp_path / "checkpoint", [], make(), 1
    surroundings = training_run.surroundings
    with monkeypatch.context() as patched:
        if name == "settings":
            one = make(seed=3)
        elif name == "data":
            patched.setattr(datasets, "load", lambda *_: replace(data, test_labels=data.test_labels.flip(0)))
        elif name == "threads":
            threads = 2
        else:
            patched.setattr(training_run, "surroundings", lambda device: surroundings(device) | {name: "other"})
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
    assert record.provenance.items() >= training_run.surroundings(torch.device("cpu")).items()
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


def test_a_checkpoint_of_other_networks_is_moved_aside(tmp_path) -> None:
    path, notes = tmp_path / "checkpoint", []
    cut(make(), path)
    header, tensors = decode(path.read_bytes())
    path.write_bytes(encode(header, tensors | {"more": torch.zeros(1)}))
    record = run_trial(make(), Options(threads=1, checkpoint=path, on_note=notes.append))
    assert [record.result] == results(run(make()))
    assert [note.split(": ", 1)[1].split(";")[0] for note in notes] == [
        "more: expected nothing, found torch.float32 [1]"
    ]
