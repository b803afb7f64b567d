"""Several runs of one study at once, some of them killed: each trial counts once, and nothing rests on locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest

from helpers.child_processes import fork, living, may_fork, wait_until
from helpers.own_training import study as own_study
from helpers.recording_watcher import Watched
from helpers.studies import compare_signals
from weight_feedback.lab.execution.progress import clear_dead, progress_files
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

pytestmark = may_fork

STUDY = compare_signals("none", "own", seeds=3)
STARTS = 32


def results(store: Store) -> list[dict]:
    settings = [*(trial for _, trial in STUDY.trials()), *(swap for _, swap in STUDY.swaps())]
    return [store.read(one).result for one in settings]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("alone") / "tiny")
    run(STUDY, store, jobs=1)
    return store


def test_many_starts_of_which_some_are_killed(tmp_path, alone) -> None:
    store, go = Store(tmp_path / "tiny"), tmp_path / "go"

    def start() -> None:
        wait_until(go.exists, "the start of all")
        run(STUDY, store, jobs=1)

    children = [fork(start) for _ in range(STARTS)]
    go.touch()
    # A third of them are killed, one after each trial that is published, whatever they are at.
    doomed = children[::3]
    for child, published in zip(doomed, range(len(doomed)), strict=True):
        most = min(published, 2 * STUDY.seeds)
        wait_until(lambda most=most: len(list(store.trials.glob("[!.]*"))) >= most, f"{most} trials")
        os.kill(child.pid, signal.SIGKILL)
    for child in children:
        code, out = child.end()
        assert code == 0 or (child in doomed and code == -signal.SIGKILL), out
        wait_until(lambda child=child: not living(child.pid), "no process")

    assert run(STUDY, store, jobs=1) == 0
    assert results(store) == results(alone)
    for kind in ("trials", "swaps", "weights"):
        found = [sorted(file.name for file in (one.folder / kind).glob("[!.]*")) for one in (store, alone)]
        assert found[0] == found[1]
    for kind in ("failures", "damaged", "progress"):
        assert not list(store.folder.glob(f"{kind}/[!.]*"))


def test_trials_with_processes_of_their_own_meet_as_well(tmp_path) -> None:
    study, go = own_study(), tmp_path / "go"
    alone, store = Store(tmp_path / "alone"), Store(tmp_path / "own")
    run(study, alone, jobs=1)

    def start() -> None:
        wait_until(go.exists, "the start of all")
        run(study, store, jobs=1)

    children = [fork(start) for _ in range(4)]
    go.touch()
    wait_until(lambda: list(store.trials.glob("[!.]*")), "a trial")
    os.kill(children[0].pid, signal.SIGKILL)
    for child in children:
        code, out = child.end()
        assert code == 0 or (child is children[0] and code == -signal.SIGKILL), out
    assert run(study, store, jobs=1) == 0
    for _, trial in study.trials():
        assert store.read(trial).result == alone.read(trial).result
    for kind in ("failures", "damaged", "progress"):
        assert not list(store.folder.glob(f"{kind}/[!.]*"))


def test_what_another_run_finishes_meanwhile_is_not_trained_again(tmp_path, monkeypatch, alone) -> None:
    store, trained, under_way = Store(tmp_path / "tiny"), [], []
    train = type(NOTEBOOK).run_together

    def counted(task, trials) -> None:
        trained.append(trials[0].trial)
        if len(trained) == 1:  # the whole study is run by another while this one is at its first trial
            assert run(STUDY, store, jobs=1) == 6
            under_way.extend(store.folder.glob("progress/*/under-way/*"))
        train(task, trials)

    monkeypatch.setattr(type(NOTEBOOK), "run_together", counted)
    watcher = Watched()
    assert run(STUDY, store, jobs=1, watcher=watcher) == 6
    assert len(trained) == 1 + 6
    # The other one left this one's marks alone, and this one is through nevertheless.
    assert len(under_way) == 1
    assert watcher.seen[-1] == 6
    assert watcher.notes == []
    assert results(store) == results(alone)
    assert not (store.folder / "progress").exists()


def test_a_folder_that_is_still_being_made_is_whole_or_gone(tmp_path, monkeypatch) -> None:
    half_made = tmp_path / "progress" / "half-made"
    (half_made / "epochs").mkdir(parents=True)
    rmtree, removed = shutil.rmtree, []

    def while_its_run_goes_on_making_it(folder, **options):
        with pytest.raises(FileNotFoundError):
            (half_made / "under-way").mkdir()
        removed.append(folder)
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", while_its_run_goes_on_making_it)
    clear_dead(half_made.parent)
    assert len(removed) == 1
    assert not half_made.parent.exists()


def test_marks_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path) -> None:
    progress = tmp_path / "progress"
    unfinished = progress / "unfinished"  # killed before it had a lock
    dead = progress / "dead" / "lock"
    for folder in (unfinished / "epochs", dead.parent / "under-way"):
        folder.mkdir(parents=True)
    dead.touch()
    with progress_files(progress) as living_one:
        clear_dead(progress)
        assert list(progress.iterdir()) == [living_one.folder]
    assert not progress.exists()
    clear_dead(progress)  # where there is nothing, nothing happens


@pytest.mark.parametrize("moment", ["made", "locked"])
def test_a_run_that_is_taken_for_a_dead_one_begins_anew(tmp_path, monkeypatch, moment) -> None:
    """Between making its folder and locking it, a run looks dead to others."""
    progress, mkdir, flock, cleared = tmp_path / "progress", Path.mkdir, fcntl.flock, []

    def clear(now: str) -> None:
        if now == moment and not cleared:
            cleared.append(now)
            clear_dead(progress)

    def made(self: Path, *mode: int, **options: bool) -> None:
        mkdir(self, *mode, **options)
        clear("made")

    def locked(file: object, how: int) -> None:
        clear("locked")
        flock(file, how)

    monkeypatch.setattr(Path, "mkdir", made)
    monkeypatch.setattr(fcntl, "flock", locked)
    with progress_files(progress) as own:
        assert cleared == [moment]
        own.count("key", 1)
        assert own.epochs() == 1
        assert list(progress.iterdir()) == [own.folder]


def test_marks_work_without_locks(tmp_path, monkeypatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with progress_files(tmp_path / "progress") as own, progress_files(tmp_path / "progress"):
        clear_dead(tmp_path / "progress")  # whether they live can't be known: they stay
        own.count("key", 3)
        assert own.epochs() == 3


def test_notes_are_whole_lines(tmp_path) -> None:
    with progress_files(tmp_path) as own:
        assert own.notes(0) == ([], 0)
        own.note("one\ntwo \udcff é")
        lines, end = own.notes(0)
        assert lines == ["one two \\udcff é"]
        own.note("three")
        with (own.folder / "notes").open("a") as file:
            file.write("cut sh")
        assert own.notes(end)[0] == ["three"]
