"""Studies on real Dask and Ray clusters: the same bits as here, though workers die; and what can't work is said."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from children import SECONDS, DiesOnce, wait_until
from watched import Watched
from weight_feedback.lab import backends, cli, sites
from weight_feedback.lab.backends import Processes, connected
from weight_feedback.lab.runner import missing, run
from weight_feedback.lab.settings import Projected, Training
from weight_feedback.lab.spec import Arm, Declared, Study
from weight_feedback.lab.store import Store, StoreError

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and kills"),
    # Of the engines' own making.
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO:FutureWarning"),
]

STUDY = Study(
    name="tiny",
    title="Tiny",
    data="generated",
    seeds=2,
    training=Training(epochs=1, batch_size=250),
    summary=Projected(k=3),
    arms=tuple(Arm(name=name, model="mnist-plain", label=name, signal=name) for name in ("none", "own")),
    declared=Declared(primary=(("own", "none"),), margin=1.0),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Store:
    """The study, by the processes of this machine."""
    store = Store(tmp_path_factory.mktemp("here"))
    run(STUDY, store, jobs=1)
    return store


def check_same(store: Store, here: Store) -> None:
    for _, each in (*STUDY.trials(), *STUDY.swaps()):
        found, expected = store.read(each), here.read(each)
        assert found is not None, each.file_name
        assert found.result == expected.result  # with a digest of the final weights
        assert found.provenance["threads"] == 1


def check_study(backend, store: Store, here: Store, died: Path) -> None:
    """Run the study, in which a worker is killed, with the trial that it has just finished, or another beside it."""
    watcher = Watched()
    assert run(STUDY, store, backend=backend, tracker=DiesOnce(died), watcher=watcher) == 4
    assert died.exists()
    check_same(store, here)
    last = watcher.standings[-1]
    assert (last.epochs, last.running, last.done, last.failed) == (4, 0, 4, 0)
    assert not (store.folder / "progress").exists()


def descendants() -> set[int]:
    """Return the processes below this one that are alive."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with backends_gone():
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


@contextmanager
def backends_gone() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        pass


@contextmanager
def nothing_left() -> Iterator[None]:
    before = descendants()
    yield
    # multiprocessing's own helper stays for as long as its process.
    wait_until(lambda: all("resource_tracker" in command(pid) for pid in descendants() - before), "no process left")


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return "resource_tracker"


def test_dask_on_this_machine(tmp_path, here) -> None:
    pytest.importorskip("distributed")
    config = importlib.import_module("dask").config
    with (
        config.set({"distributed.scheduler.allowed-failures": 1}),
        nothing_left(),
        connected("dask", jobs=2) as backend,
    ):
        assert backend.jobs == 2
        check_study(backend, Store(tmp_path / "out"), here, tmp_path / "died")
        for_good(backend, tmp_path)


def test_ray_on_this_machine(tmp_path, here, monkeypatch) -> None:
    monkeypatch.setenv("RAY_TASK_MAX_RETRIES", "1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # else it would write one into the user's home
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pytest.importorskip("ray")
    with nothing_left(), connected("ray", jobs=2) as backend:
        assert backend.jobs == 2
        check_study(backend, Store(tmp_path / "out"), here, tmp_path / "died")
        for_good(backend, tmp_path)


def kill(*_: object) -> None:
    os.kill(os.getpid(), 9)


def for_good(backend, tmp_path: Path) -> None:
    """What kills its worker wherever it runs is told apart from what raises an error, and from the rest."""
    calls: dict[str, Callable] = {"a": lambda: ("a", None), "b": kill, "c": lambda: ("c", "once more")}
    outcomes = dict(backend.outcomes(calls))
    assert outcomes.pop("b").startswith("its worker died, each time that the cluster tried it\n")
    assert outcomes == {"a": None, "c": "once more"}

    def wrong() -> None:
        raise KeyError("of its own")

    with pytest.raises(KeyError, match="of its own"):
        list(backend.outcomes({"a": wrong}))
    assert all(isinstance(error, KeyError) for error in backend.everywhere(wrong).values())


@contextmanager
def dask_cluster(folder: Path, *options: str, workers: int = 1) -> Iterator[str]:
    """A scheduler and workers, each started by its command, in a folder of its own; yields the address."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-P", "-m", "dask"]
    started = []
    with (folder / "log").open("w") as log:
        try:
            for args in (
                ["scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
                *[["worker", "--scheduler-file", file, "--no-dashboard", *(options or ("--nthreads", "1"))]]
                * workers,
            ):
                started.append(subprocess.Popen([*dask, *args], cwd=folder, stdout=log, stderr=log))
            wait_until(file.exists, "a scheduler")
            yield json.loads(file.read_text())["address"]
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(SECONDS)


def test_dask_elsewhere(tmp_path, here, monkeypatch) -> None:
    """On a cluster that runs already: by the command line; and one that sees another folder, or has other threads."""
    pytest.importorskip("distributed")
    (tmp_path / "there").mkdir()
    with dask_cluster(tmp_path / "there", workers=2) as address:
        with connected("dask", address) as backend:
            wait_until(lambda: len(backend.everywhere(os.getpid)) == 2, "two workers")
        with connected("dask", address) as backend:
            assert backend.jobs == 2
            # A path that names another folder in each process, as one that isn't shared does on each machine.
            (tmp_path / "mine").mkdir()
            monkeypatch.chdir(tmp_path / "mine")
            with pytest.raises(StoreError, match=r"worker tcp://.*expected the folder of results.*--shard 1/N"):
                run(STUDY, Store(Path("/proc/self/cwd/out")), backend=backend)
            assert not list((tmp_path / "mine").rglob("trials"))
            run(STUDY, Store(Path("out")), backend=backend)  # relative to this process, not to the workers
            check_same(Store(tmp_path / "mine" / "out"), here)
