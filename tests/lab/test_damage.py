"""Damaged results, full disks, folders that can't be written: said early, and what is finished stays as it is."""

from __future__ import annotations

import errno
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.child_processes import drop_privileges, fork_command, may_fork, stand_ins
from helpers.fake_tasks import Troubles, compare_ridges
from helpers.recording_watcher import Watched
from helpers.studies import compare_signals, study_text
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution import workers
from weight_feedback.lab.execution.runner import missing, run
from weight_feedback.lab.store.readable import Readable
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

pytestmark = may_fork
forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and drops capabilities")

STUDY = compare_signals("none", "own", training={"epochs": 1, "batch_size": 25})


@pytest.fixture(scope="module", autouse=True)
def at_once() -> Iterator[None]:
    with stand_ins():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The file of a study; beside it, the study's folder, with all that a run leaves."""
    path = tmp_path_factory.mktemp("finished") / "tiny.toml"
    path.write_text(study_text(STUDY))
    cli.main(["run", str(path), "--out", str(path.parent), "--jobs", "1"])
    return path


@pytest.fixture
def path(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, in the present folder."""
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny.toml"


@pytest.fixture
def study(path) -> Study:
    return load_study(str(path))


@pytest.fixture
def store(path) -> Store:
    return Store(path.parent / "tiny")


def results(study: Study, store: Store) -> list[dict]:
    settings = [*(trial for _, trial in study.trials()), *(swap for _, swap in study.swaps())]
    return [store.read(one).result for one in settings]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-1])
    return path


def test_what_is_damaged_is_set_aside_and_made_again(study, store) -> None:
    before = results(study, store)
    (_, none), (_, own), *_ = study.trials()
    (_, swap), *_ = study.swaps()
    damaged = [damage(file) for file in (store.path(none), store.path(swap), store.weights(own))]
    aside = {file.name.replace(".", ".1.", 1): file.read_bytes() for file in damaged}

    watcher = Watched()
    assert run(study, store, jobs=1, watcher=watcher) == 2
    assert len(watcher.notes) == 3
    for file, note in zip(damaged, watcher.notes, strict=False):
        assert any(str(file) in note and f"it is now {store.folder / 'damaged'}" in note for note in watcher.notes)
        assert file.is_file()
    assert results(study, store) == before
    found = sorted((store.folder / "damaged").glob("*[!t]"))
    assert sorted(file.read_bytes() for file in found if file.suffix != ".txt") == sorted(aside.values())
    assert run(study, store, jobs=1, watcher=watcher) == 0
    assert len(watcher.notes) == 3


def test_weights_that_are_lost_are_made_again(study, store) -> None:
    (_, own) = [trial for _, trial in study.trials() if trial.keeps_weights]
    store.weights(own).unlink()
    assert run(study, store, jobs=1) == 1
    assert store.weights(own).is_file()


def test_commands_that_look_leave_out_what_is_damaged(capsys, path, study, store) -> None:
    (_, none), *_ = study.trials()
    (_, swap), *_ = study.swaps()
    damaged = {file: damage(file).read_bytes() for file in (store.path(none), store.path(swap))}
    for command, expected in {
        "report": "No verdicts yet: 1 trials of the declared contrasts are still to be run",
        "plot": "pictures: ",
        "export": "trials.csv: 3 rows",
    }.items():
        cli.main([command, str(path), "--out", "."])
        out = capsys.readouterr().out
        assert expected in out
        assert out.count(f"left out: {Path('tiny') / store.path(none).relative_to(store.folder)}: ") == 1
    assert {file: file.read_bytes() for file in damaged} == damaged
    assert not (store.folder / "damaged").exists()

    notes: list[str] = []
    readable = Readable(store.folder, notes.append)
    assert readable.read(none) is readable.read(none) is None
    assert len(notes) == 1  # however often it is read


@forks
def test_a_folder_that_is_read_only_is_said_before_training(path, store, monkeypatch) -> None:
    """And what can be done without writing there is done."""

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(type(NOTEBOOK), "run_together", trained)
    before = content(store.folder)
    for each in (*store.folder.rglob("*"), store.folder):
        each.chmod(0o555)

    def give(*args: object) -> tuple[int, str]:
        return fork_command([args[0], path, "--out", ".", *args[1:]], drop_privileges).end()

    code, out = give("run", "--seeds", 3)
    assert code == 2
    assert "tiny: results can't be kept here: " in out
    assert "Permission denied" in out

    elsewhere = path.parent / "elsewhere"
    for args, advice in {
        ("run",): "with --to DIR",  # there is nothing to train
        ("report",): "with --to DIR",
        ("plot",): "with --to DIR",
        ("export",): "--to DIR writes elsewhere",
    }.items():
        code, out = give(*args)
        assert code == 2, out
        assert "Permission denied" in out
        assert advice in out
        assert args == ("export",) or "│ with own" in out  # the table is shown all the same
    for command in ("report", "plot", "export"):
        assert give(command, "--to", elsewhere)[0] == 0
    assert {"report.html", "accuracy.png", "trials.csv"} <= {file.name for file in elsewhere.iterdir()}
    assert content(store.folder) == before


def limit(size: int) -> None:
    """Let no file grow beyond a size, as on a disk that is full but for a little."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@forks
def test_a_full_disk_is_said_before_training(path, store) -> None:
    before = content(store.folder)
    code, out = fork_command(["run", path, "--out", ".", "--seeds", 3], lambda: limit(0)).end()
    assert code == 2
    assert "tiny: results can't be kept here: " in out
    assert "File too large" in out
    assert content(store.folder) == before


@forks
@pytest.mark.parametrize("size", [1_000, 0])
def test_a_disk_that_fills_up_loses_no_result(path, study, store, monkeypatch, size) -> None:
    """While notes of failures can be written, the run goes on; then it ends, and says why."""
    train = type(NOTEBOOK).run_together

    def filled(task, trials) -> None:
        train(task, trials)
        limit(size)

    monkeypatch.setattr(type(NOTEBOOK), "run_together", filled)
    monkeypatch.setattr(workers, "describe", lambda error: f"{type(error).__name__}: {error}")  # short enough
    kept = [store.trials, store.folder / "swaps", store.folder / "weights"]
    before = [content(folder) for folder in kept]
    code, out = fork_command(["run", path, "--out", ".", "--seeds", 4, "--jobs", 1]).end()
    assert code == 2
    assert [content(folder) for folder in kept] == before
    failed = [trial for _, trial in missing(study, store, seeds=4)]
    assert len(failed) == 4
    noted = [trial for trial in failed if "can't write this file (File too large)" in (store.failure(trial) or "")]
    assert len(noted) == (4 if size else 0)
    assert out.count("failed: ") == len(noted)
    assert ("with --to DIR" if size else "and that can't be noted") in out


def test_a_failure_that_cannot_be_noted_ends_the_run(tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    study, store, troubles = compare_ridges(), Store(tmp_path / "ridges"), Troubles(tmp_path / "troubles")
    run(study, store, jobs=1)
    monkeypatch.setenv(Troubles.variable, str(troubles.folder))
    monkeypatch.setattr(Store, "fail", full)
    doomed = [trial for _, trial in missing(study, store, seeds=3)]
    for trial in doomed:
        troubles.give(trial, "fail")
    message = r"failed \(RuntimeError: no luck at all\), and that can't be noted: .*No space"
    with pytest.raises(ValueError, match=message):
        run(study, store, seeds=3, jobs=1)
    assert [troubles.tried(trial) for trial in doomed] == [1, 0]
    assert not (store.folder / "progress").exists()


def test_too_little_room_is_said_before_training(study, store, monkeypatch) -> None:
    usage = shutil.disk_usage(store.folder)
    # Two records with 20 losses, and one network's 9,950 + 4 x 50 weights of 4 bytes, at the least.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=40_000))
    with pytest.raises(ValueError, match="of free space"):
        run(study, store, seeds=3, jobs=1)
    assert len(missing(study, store, seeds=3)) == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60_000))
    assert run(study, store, seeds=3, jobs=1) == 2


def test_a_checkpoint_of_what_is_finished_is_removed(study, store) -> None:
    """As a run that was killed after it had kept the result leaves it."""
    (_, trial), *_ = study.trials()
    checkpoint = store.checkpoint(trial)
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(b"")
    assert run(study, store, jobs=1) == 0
    assert not checkpoint.exists()
