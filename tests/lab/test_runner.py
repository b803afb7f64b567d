"""Running a study: the same results with any number of workers, and only what is missing is run."""

from __future__ import annotations

import pytest

from helpers.child_processes import DiesOnce
from helpers.fake_tasks import Troubles, compare_ridges
from helpers.recording_watcher import Watched
from helpers.studies import change, compare_networks
from weight_feedback.lab.data.catalogue import ENVIRONMENT
from weight_feedback.lab.execution.backends import cores
from weight_feedback.lab.execution.progress import Progress
from weight_feedback.lab.execution.runner import missing, run
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Arm
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.training.run import Options, run_trial

STUDY = compare_networks(training={"epochs": 2, "batch_size": 125})


def test_results_do_not_depend_on_workers_nor_on_their_deaths(tmp_path) -> None:
    results = []
    for jobs, tracker in ((1, None), (2, DiesOnce(tmp_path / "died"))):
        store, watcher = Store(tmp_path / str(jobs)), Watched()
        assert run(STUDY, store, jobs=jobs, tracker=tracker, watcher=watcher) == 4
        assert watcher.begun == [(4, 4, 8, jobs)]
        assert watcher.seen[-1] == 8  # all epochs of all trials, at the latest when the run ends
        assert bool(watcher.notes) == (tracker is not None)
        assert all("its process died" in note and "tried again, alone" in note for note in watcher.notes)
        assert not (store.folder / "progress").exists()
        results.append({(arm.name, trial.seed): store.read(trial).result for arm, trial in STUDY.trials()})
    assert (tmp_path / "died").exists()
    assert results[0] == results[1]
    # Alone is the same as among others.
    _, *_, (_, last) = STUDY.trials()
    assert results[0]["pooled", 1] == run_trial(last, Options(threads=1)).result


def test_only_what_is_missing_is_run(tmp_path) -> None:
    store = Store(tmp_path)
    assert run(STUDY, store, jobs=1) == 4
    times = {file: file.stat().st_mtime_ns for file in store.trials.iterdir()}
    lost = sorted(times)[1]
    content = lost.read_bytes()
    lost.unlink()
    assert len(missing(STUDY, store)) == 1
    assert run(STUDY, store, jobs=1) == 1
    assert lost.read_bytes().split(b'"provenance"')[0] == content.split(b'"provenance"')[0]
    assert all(file.stat().st_mtime_ns == times[file] for file in times if file != lost)
    assert run(STUDY, store, jobs=1) == 0


def test_a_larger_study_keeps_the_trials_of_a_smaller_one(tmp_path) -> None:
    store = Store(tmp_path)
    run(STUDY.model_copy(update={"seeds": 1}), store, jobs=1)
    assert len(missing(STUDY, store)) == 2


def test_some_arms_or_more_seeds_can_be_run(tmp_path) -> None:
    store = Store(tmp_path)
    assert run(STUDY, store, arms=["pooled"], jobs=1) == 2
    assert [arm.name for arm, _ in missing(STUDY, store)] == ["plain", "plain"]
    assert run(STUDY, store, arms=["plain"], seeds=3, jobs=1) == 3
    assert missing(STUDY, store) == []
    with pytest.raises(ValueError, match="arms: expected names among plain, pooled, got 'other'"):
        run(STUDY, store, arms=["other"])
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        run(STUDY, store, seeds=0)


def test_a_trial_that_fails_is_noted_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    study, store, watcher = compare_ridges(), Store(tmp_path / "ridges"), Watched()
    trial, troubles = study.trial(study.arms[1], 0), Troubles(tmp_path / "troubles")
    monkeypatch.setenv(Troubles.variable, str(troubles.folder))
    troubles.give(trial, "fail")
    run(study, store, jobs=1, watcher=watcher)
    assert missing(study, store) == [(study.arms[1], trial)]
    # What would fail again isn't tried again.
    assert [troubles.tried(one) for _, one in study.trials()] == [1, 1, 1, 1]
    assert watcher.notes == [f"failed: {trial.file_name}: RuntimeError: no luck at all"]
    assert watcher.standings[-1] == Progress(epochs=8, running=0, done=3, failed=1)
    assert store.failure(trial).splitlines()[0] == "RuntimeError: no luck at all"
    assert "Traceback" in store.failure(trial)
    with pytest.warns(UserWarning, match=f"^failed: {trial.file_name}: RuntimeError"):
        run(study, store, jobs=1)  # nobody watches: then it is a warning

    troubles.end()
    assert run(study, store, jobs=1) == 1
    assert store.failure(trial) is None
    assert missing(study, store) == []


def test_a_tracker_is_told_of_each_finished_trial(tmp_path) -> None:
    class Tracker:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def log(self, study, arm, trial, record) -> None:
            self.seen.append((study.name, arm.name, trial.seed, record.result["trial"]["seed"]))

    tracker = Tracker()
    run(STUDY, Store(tmp_path), jobs=1, tracker=tracker)
    assert tracker.seen == [("tiny", arm.name, trial.seed, trial.seed) for arm, trial in STUDY.trials()]


def test_a_tracker_that_fails_stops_nothing(tmp_path) -> None:
    class Tracker:
        def log(self, *_: object) -> None:
            raise OSError("no server")

    store, watcher = Store(tmp_path), Watched()
    run(STUDY, store, jobs=1, tracker=Tracker(), watcher=watcher)
    assert missing(STUDY, store) == []
    assert len(watcher.notes) == 4
    assert all("the tracker failed: no server" in note for note in watcher.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "mnist"}, "weight-feedback data fetch mnist"),
        ({"training": Training(batch_size=501)}, r"batch_size.*got 501"),
        ({"arms": (Arm(name="other", model="cifar10-plain", label="x"),)}, r"expected images of shape"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=message):
        run(change(STUDY, **changes), Store(tmp_path / "out"), jobs=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nope"}, "device: expected"),
        ({"jobs": 0}, "jobs: expected at least 1, got 0"),
        ({"retries": -1}, "retries: expected at least 0, got -1"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds: expected at least 0, got nan"),
    ],
)
def test_options_are_checked_before_anything_is_written(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(STUDY, Store(tmp_path / "out"), **{"jobs": 1, **options})
    assert not (tmp_path / "out").exists()


def test_cores() -> None:
    assert cores() >= 1
