"""Studies on real Dask and Ray clusters: the same bits as here, though workers die; and what can't work is said."""

from __future__ import annotations

import importlib
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import weight_feedback
from helpers.child_processes import DiesOnce, may_fork, wait_until
from helpers.fake_tasks import Troubles, compare_ridges
from helpers.limits import SECONDS
from helpers.own_training import study as own_study
from helpers.recording_watcher import Watched
from helpers.studies import change, compare_signals
from weight_feedback.lab.commands import cli
from weight_feedback.lab.data.datasets import DataError
from weight_feedback.lab.execution import backends, cluster, runner, workers
from weight_feedback.lab.execution.backends import connected
from weight_feedback.lab.execution.progress import progress_files
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.store.store import Store, StoreError

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and kills"),
    # Of the engines' own making.
    may_fork,
    pytest.mark.filterwarnings("ignore:.*RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO:FutureWarning"),
]

STUDY = compare_signals("none", "constant", "own", seeds=1)


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> None:
    """Let the processes of a cluster find what is tested, and what tests send them."""
    places = [Path(weight_feedback.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


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
    """Run the study, in which a worker is killed, with a trial that it has just finished or one beside it."""
    watcher = Watched()
    assert run(STUDY, store, backend=backend, tracker=DiesOnce(died), watcher=watcher) == 3
    assert died.exists()
    check_same(store, here)
    assert watcher.begun == [(3, 3, 3, 2)]
    last = watcher.standings[-1]
    assert (last.epochs, last.running, last.done, last.failed) == (3, 0, 3, 0)
    assert not (store.folder / "progress").exists()


def descendants() -> set[int]:
    """Return the processes below this one that are alive."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


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


def test_dask_on_this_machine() -> None:
    pytest.importorskip("distributed")
    with (
        importlib.import_module("dask").config.set({"distributed.scheduler.allowed-failures": 0}),
        nothing_left(),
        connected("dask", jobs=1) as backend,
    ):
        assert backend.jobs == 1
        check_outcomes(backend)
        (there,) = backend.everywhere(os.getpid).values()
        assert there in descendants()


@pytest.fixture
def quiet_ray(monkeypatch) -> None:
    """Ray tells nobody, and writes no token into the user's home; a process keeps the first one that it has."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def test_ray_on_this_machine(tmp_path, here, monkeypatch, quiet_ray) -> None:
    monkeypatch.setenv("RAY_TASK_MAX_RETRIES", "0")
    pytest.importorskip("ray")
    handler = signal.getsignal(signal.SIGTERM)
    with nothing_left(), connected("ray", jobs=2) as backend:
        assert backend.jobs == 2
        assert signal.getsignal(signal.SIGTERM) is handler
        check_study(nullcontext(backend), Store(tmp_path / "out"), here, tmp_path / "died")
        check_outcomes(backend)


def check_outcomes(backend) -> None:
    """What kills its worker wherever it runs is told apart from what raises an error, and from the rest."""
    # Of functions that can be imported anywhere.
    calls = {
        "a": partial(tuple, ["a", None]),
        "b": partial(signal.raise_signal, signal.SIGKILL),
        "c": partial(tuple, ["c", "once more"]),
    }
    outcomes = dict(backend.outcomes(calls))
    assert outcomes.pop("b").startswith("its worker died, each time that the cluster tried it\n")
    assert outcomes == {"a": None, "c": "once more"}
    wrong = partial(operator.getitem, {}, "of its own")
    with pytest.raises(KeyError, match="of its own"):
        list(backend.outcomes({"a": wrong}))
    assert {type(error) for error in backend.everywhere(wrong).values()} == {KeyError}


def written_address(file: Path) -> str | None:
    """Return a scheduler's address, once it is there; the file is made before it is written."""
    try:
        address: str = json.loads(file.read_text())["address"]
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return address


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[str]:
    """A scheduler and workers, each started by its command, in a folder of its own; yields the address."""
    file = folder / "scheduler.json"
    with (folder / "log").open("w") as log, ExitStack() as ends:

        def start(*command: str | Path) -> None:
            dask = [sys.executable, "-P", "-m", "dask", *command]
            process = subprocess.Popen(dask, cwd=folder, stdout=log, stderr=log)
            ends.callback(process.wait, SECONDS)
            ends.callback(process.terminate)

        start("scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = wait_until(lambda: written_address(file), "a scheduler")
        for _ in range(workers):
            start("worker", address, "--no-dashboard", "--no-nanny", "--nthreads", "1")
        yield address


def test_dask_elsewhere(tmp_path, here, monkeypatch) -> None:
    """On a cluster that runs already, and is left running; a worker that dies isn't replaced."""
    pytest.importorskip("distributed")
    (tmp_path / "there").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    with dask_cluster(tmp_path / "there", workers=2) as address:
        with connected("dask", address, jobs=2) as backend:
            wait_until(lambda: len(backend.everywhere(os.getpid)) == 2, "two workers")
            # A path that names another folder in each process, as one that isn't shared does on each machine.
            with pytest.raises(StoreError, match=r"worker tcp://.*expected the folder of results.*--shard 1/N"):
                run(STUDY, Store(Path("/proc/self/cwd/out")), backend=nullcontext(backend))
            assert not list((tmp_path / "mine").rglob("trials"))
        # Relative to this process, not to the workers.
        check_study(connected("dask", address), Store(Path("out")), here, tmp_path / "died")


@contextmanager
def dask_in_this_process(**options: int) -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0", **options
    ) as cluster:
        yield cluster.scheduler_address


def test_what_is_no_cluster_is_said(monkeypatch) -> None:
    monkeypatch.setattr(backends, "CONNECT_SECONDS", 0.3)
    for name, address, message in (
        (
            "dask",
            "tcp://127.0.0.1:1",
            "--backend dask --address tcp://127.0.0.1:1: expected a Dask scheduler, found",
        ),
        (
            "ray",
            "127.0.0.1:1",
            "--backend ray --address 127.0.0.1:1: expected a Ray cluster, found none: .*refused",
        ),
        ("loky", "127.0.0.1:1", "--address: expected none with --backend loky, which runs here; got '127.0.0.1:1'"),
    ):
        with pytest.raises(ValueError, match=message), connected(name, address):
            pass


def test_what_no_engine_can_do_is_said_before_it_is_entered() -> None:
    with pytest.raises(ValueError, match="--address: expected none with --backend loky"):
        connected(address="127.0.0.1:1")
    for name in ("loky", "dask", "ray"):
        with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
            connected(name, jobs=0)


def test_workers_that_are_none_or_do_several_things_are_said(monkeypatch) -> None:
    threads = r"expected workers of one thread, but tcp://.* has 2; start them with `dask worker --nthreads 1"
    with (
        dask_in_this_process(n_workers=1, threads_per_worker=2) as address,
        pytest.raises(ValueError, match=threads),
        connected("dask", address),
    ):
        pass
    monkeypatch.setattr(backends, "WORKER_SECONDS", 1.0)
    with (
        dask_in_this_process(n_workers=0) as address,
        pytest.raises(ValueError, match="expected workers, found none within 1 s; start some"),
        connected("dask", address),
    ):
        pass


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_package_that_is_missing_is_named(name, monkeypatch, capsys, tmp_path) -> None:
    package = {"dask": "distributed"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        cli.main(["run", "quick", "--out", str(tmp_path), "--backend", name])
    assert f"the package {package} isn't installed" in (said := capsys.readouterr().err)
    assert f"pip install 'weight-feedback[{name}]', or '.[{name}]' in a clone" in said


class Threads:
    """A cluster of one process, this one, which does several things at a time, as none may."""

    remote = True

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs

    def outcomes(self, calls):
        with ThreadPoolExecutor(self.jobs) as pool:
            for future in as_completed([pool.submit(call) for call in calls.values()]):
                yield future.result()

    def everywhere(self, call):
        return {"a": call(), "b": call()}


def test_one_trial_at_a_time_in_a_process(tmp_path, monkeypatch) -> None:
    study, troubles = compare_ridges(), Troubles(tmp_path / "troubles")
    monkeypatch.setenv(Troubles.variable, str(troubles.folder))
    for _, trial in study.trials():
        troubles.give(trial, "hold")

    class Noticing(Threads):
        def outcomes(self, calls):
            def noticed(call):
                try:
                    return call()
                finally:
                    troubles.end()  # one call ends at once, and lets the other go on

            return super().outcomes({key: partial(noticed, call) for key, call in calls.items()})

    with pytest.raises(StoreError, match="expected one trial at a time in a worker"):
        run(study, Store(tmp_path / "ridges"), backend=nullcontext(Noticing(2)), watcher=Watched())


def test_a_trial_ends_with_its_run(tmp_path, monkeypatch) -> None:
    """A cluster's worker outlives the run; what it trains for a dead one is dropped, and isn't a failure."""
    study, store, troubles = compare_ridges(), Store(tmp_path / "ridges"), Troubles(tmp_path / "troubles")
    monkeypatch.setenv(Troubles.variable, str(troubles.folder))
    first, *others = (trial for _, trial in study.trials())
    troubles.give(first, "hold")
    with ThreadPoolExecutor(1) as pool:
        over = pool.submit(run, study, store, backend=nullcontext(Threads()))
        wait_until(troubles.held.exists, "a trial under way")
        (marks,) = (store.folder / "progress").iterdir()
        shutil.rmtree(marks)
        troubles.end()
        with pytest.raises(workers.RunOverError, match="the run that this trial was for has ended"):
            over.result()
    assert not (store.folder / "failures").exists()
    assert not store.finished(first)
    assert [troubles.tried(trial) for trial in others] == [0, 0, 0]


def test_nothing_is_connected_to_for_nothing(tmp_path, here) -> None:
    """Neither when all is finished, nor before what is wrong here is said."""

    @contextmanager
    def backend():
        raise AssertionError("connected")
        yield

    watcher = Watched()
    assert run(STUDY, here, backend=backend(), watcher=watcher) == 0
    assert watcher.begun[0][:3] == (3, 0, 0)
    with pytest.raises(DataError, match="mnist"):
        run(change(STUDY, data="mnist"), Store(tmp_path), data_dir=tmp_path, backend=backend())


def test_workers_must_be_alike(tmp_path, monkeypatch) -> None:
    class Different(Threads):
        def everywhere(self, call):
            return {"a": call(), "b": call() | {"torch": "0.1"}}

    with pytest.raises(StoreError, match=r"worker b: its surroundings.*torch .*, here 0\.1\), so .*--mixed"):
        run(STUDY, Store(tmp_path), backend=nullcontext(Different()))

    def agree(*args, **options):
        return cluster.agree(*args, **options) | {"processor": "another"}

    monkeypatch.setattr(runner, "agree", agree)
    with pytest.raises(StoreError, match=r"worker .*, process .*: its surroundings.*processor another"):
        run(STUDY, Store(tmp_path), backend=nullcontext(Threads()))


def test_an_arm_from_elsewhere_is_refused(tmp_path, here) -> None:
    class Elsewhere(Threads):
        def everywhere(self, call):
            return {"a": call() | {"torch": "0.1"}}

    shutil.copytree(here.folder, tmp_path / "out")
    with pytest.raises(StoreError, match=r"arm none: its 1 finished trials.*torch .*, here 0\.1.*--mixed"):
        run(STUDY, Store(tmp_path / "out"), seeds=2, backend=nullcontext(Elsewhere()))


def test_versions_and_data_must_be_the_same(tmp_path) -> None:
    with progress_files(tmp_path / "progress") as shared:
        trials = tuple(STUDY.trial(arm, 0) for arm in STUDY.arms)
        site = cluster.Site(tmp_path, shared, trials, None, (("generated", "another"),), "cpu", 1)
        with pytest.raises(StoreError, match=r"generated: expected fingerprint another, found [0-9a-f]{64}"):
            cluster.inspect(site)
        with pytest.raises(StoreError, match="moon: expected fingerprint another, found None"):
            cluster.inspect(replace(site, data=(("moon", "another"),)))
        with pytest.raises(StoreError, match=r"expected weight-feedback 0\.0, found .*; install the same"):
            cluster.inspect(replace(site, version="0.0"))


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_function_of_ones_own_runs_on_an_engine(tmp_path, engine, quiet_ray) -> None:
    pytest.importorskip({"dask": "distributed"}.get(engine, engine))
    study, stores = own_study(1), [Store(tmp_path / name) for name in ("here", "there")]
    run(study, stores[0], jobs=1)
    with nothing_left():
        run(study, stores[1], backend=connected(engine, jobs=1))
    for _, trial in study.trials():
        here, there = (store.read(trial).result for store in stores)
        assert here == there
