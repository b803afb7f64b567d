"""Workers that die or run out of memory: what is theirs alone is tried again, then given up; the rest goes on."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future

import joblib
import pytest

from helpers.child_processes import Forking, fork, living, may_fork, wait_until
from helpers.fake_tasks import Troubles, compare_ridges
from helpers.studies import change, compare_networks, compare_signals
from weight_feedback.lab.execution import workers
from weight_feedback.lab.execution.runner import missing, run
from weight_feedback.lab.store.store import Record, Store, StoreError

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="forks"),
    may_fork,
]

STUDY = compare_ridges()
LAST = STUDY.trial(STUDY.arms[1], 1)


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory) -> Store:
    """The study, undisturbed; what PyTorch does when it is first used, forked processes needn't do again."""
    store = Store(tmp_path_factory.mktemp("quiet"))
    run(STUDY, store, jobs=1)
    return store


@pytest.fixture
def troubles(tmp_path, monkeypatch) -> Troubles:
    """What trials get into, in all processes."""
    made = Troubles(tmp_path / "troubles")
    monkeypatch.setenv(Troubles.variable, str(made.folder))
    return made


def forked(study, store, **options) -> list[str]:
    """Run a study with two forked workers, in which trials run as built-in tasks' do, and return the notes."""
    built_in = {**workers.BUILT_IN, study.task: study.task}
    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config(backend=Forking()):
        patch.setattr(workers, "BUILT_IN", built_in)
        with pytest.warns() as noted:
            run(study, store, jobs=2, **options)
    assert not (store.folder / "progress").exists()
    return [str(warning.message) for warning in noted]


def test_trials_in_trouble_are_tried_again_and_given_up_and_the_rest_goes_on(tmp_path, troubles) -> None:
    died = "its process died, killed from outside or because memory ran out, 2 times"
    study = STUDY.model_copy(update={"seeds": 3})  # so that there is one beside the last in trouble
    reasons = {
        STUDY.trial(STUDY.arms[0], 0): died,
        STUDY.trial(STUDY.arms[1], 0): died,
        LAST: "RuntimeError: [enforce fail",
    }
    neighbour, leaver, _ = reasons
    troubles.give(neighbour, "hold", "die")
    troubles.give(leaver, "leave_while_one_is_held", "leave")
    troubles.give(LAST, "lack_memory_in_torch")
    store = Store(tmp_path / "out")
    notes = forked(study, store, retries=1)
    assert {trial for _, trial in missing(study, store)} == set(reasons)
    for trial, reason in reasons.items():
        first = store.failure(trial).partition("\n")[0]
        assert first.startswith(reason)
        assert first.endswith(", 2 times")
        assert any(note.startswith(f"failed: {trial.file_name}: {reason}") for note in notes)
        assert troubles.tried(trial) == 1 + 2  # beside others, and then alone


def test_trouble_that_passes_leaves_no_trace(tmp_path, troubles, quiet) -> None:
    troubles.give(LAST, "die", "die", "none")
    store = Store(tmp_path / "out")
    forked(STUDY, store)
    for _, trial in STUDY.trials():
        assert store.read(trial).result == quiet.read(trial).result
        assert store.failure(trial) is None
    assert not list((store.folder / "checkpoints").glob("[!.]*"))


def test_a_neighbour_is_never_blamed(tmp_path, troubles) -> None:
    store, study = Store(tmp_path / "out"), STUDY.model_copy(update={"seeds": 3})
    neighbour = study.trial(study.arms[1], 2)
    troubles.give(neighbour, "hold", "none")
    troubles.give(LAST, "die_while_one_is_held", "die")
    notes = forked(study, store, retries=0)
    suspects = {note.partition(":")[0] for note in notes if "tried again, alone" in note}
    assert suspects == {LAST.file_name, neighbour.file_name}
    assert [trial for _, trial in missing(study, store)] == [LAST]
    assert len(list((store.folder / "failures").iterdir())) == 1


@pytest.mark.parametrize("options", [{"retries": 0}, {"retries": 1}, {}])
def test_memory_can_run_out_in_a_single_process(tmp_path, troubles, options) -> None:
    retries = options.get("retries", 2)
    troubles.give(LAST, "lack_memory")
    store = Store(tmp_path / "out")
    with pytest.warns() as noted:
        run(STUDY, store, jobs=1, **options)
    assert len(noted) == 1 + retries
    assert str(noted[-1].message).startswith(f"failed: {LAST.file_name}: MemoryError: no room")
    assert troubles.tried(LAST) == 1 + retries
    assert store.failure(LAST).startswith(f"MemoryError: no room, {1 + retries} times\nTraceback")


def test_a_swap_in_trouble_is_named(tmp_path, monkeypatch) -> None:
    study = compare_signals("none", "own", seeds=1)
    swap_run = workers.run_swap

    def swapped(swap, store, **options):
        if swap.heard == "zeros":
            os.kill(os.getpid(), signal.SIGKILL)
        if swap.heard == "initial":
            raise ValueError("no luck")
        return swap_run(swap, store, **options)

    monkeypatch.setattr(workers, "run_swap", swapped)
    store = Store(tmp_path)
    notes = forked(study, store, retries=0)
    assert any(note.startswith("failed: ") and "hears-zeros" in note and "process died" in note for note in notes)
    assert any(note.startswith("failed: ") and "hears-initial" in note and "no luck" in note for note in notes)
    monkeypatch.undo()
    assert run(study, store, jobs=1) == 0
    assert all(store.read(swap) for _, swap in study.swaps())


def test_a_pool_that_never_begins_is_an_error(tmp_path) -> None:
    class Broken(Forking):
        def submit(self, *_: object, **__: object) -> Future:
            raise RuntimeError("no process can be started")

    with (
        joblib.parallel_config(backend=Broken()),
        pytest.raises(ChildProcessError, match=r"before any of them began a trial, 2 times; .*no process can be"),
    ):
        run(STUDY, Store(tmp_path), jobs=2, retries=1)
    assert len(missing(STUDY, Store(tmp_path))) == 4


def test_another_result_of_the_same_settings_ends_the_run(tmp_path, troubles, quiet) -> None:
    """Two runs of one trial that disagree are an error, whoever comes first."""
    store = Store(tmp_path / "out")
    troubles.give(LAST, "hold")

    def race() -> None:
        with joblib.parallel_config(backend=Forking()), pytest.raises(StoreError, match="gave another result here"):
            run(STUDY, store, jobs=2)

    child = fork(race)
    wait_until(troubles.held.exists, "the last trial under way")
    record = quiet.read(LAST)
    store.write(LAST, Record(record.result | {"kept": {"other": 1}}, record.provenance))
    troubles.end()
    code, out = child.end()
    assert code == 0, out
    assert store.failure(LAST) is None


def test_an_orphan_ends_itself(tmp_path, monkeypatch) -> None:
    """A worker whose run was killed stops after the epoch it is at."""
    long = change(compare_networks(), training={"epochs": 100_000, "batch_size": 250})
    store = Store(tmp_path / "out")
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with joblib.parallel_config(backend=Forking()):
            run(long, store, jobs=2)
        os._exit(0)
    wait_until(lambda: len(list(store.folder.glob("progress/*/epochs/*"))) == 2, "two trials with an epoch")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: not living(pid), "no process of the run")
    assert len(missing(long, store)) == 4
    # What the dead run left behind goes with the next run.
    assert list(store.folder.glob("progress/*/lock"))
    run(compare_networks(), store, jobs=1)
    assert not (store.folder / "progress").exists()
