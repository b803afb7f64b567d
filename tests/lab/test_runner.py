"""Running a study: the same results with any number of workers, and only what is missing is run."""

from __future__ import annotations

import pytest

from weight_feedback.lab import runner
from weight_feedback.lab.runner import cores, missing, run
from weight_feedback.lab.settings import Training
from weight_feedback.lab.sources import ENVIRONMENT
from weight_feedback.lab.spec import Arm, Study
from weight_feedback.lab.store import Store, StoreError
from weight_feedback.lab.trial import run_cohort, run_trial

STUDY = Study(
    name="tiny",
    title="Tiny",
    data="generated",
    seeds=2,
    training=Training(epochs=2, batch_size=125),
    arms=(
        Arm(name="plain", model="mnist-plain", label="w/o"),
        Arm(name="pooled", model="mnist-pooled", label="w/"),
    ),
)


def test_results_do_not_depend_on_the_number_of_workers(tmp_path) -> None:
    results = []
    for jobs in (1, 2):
        store = Store(tmp_path / str(jobs))
        seen: list[int] = []
        assert run(STUDY, store, jobs=jobs, on_progress=seen.append) == 4
        assert seen[-1] == 8  # all epochs of all trials, at the latest when the run ends
        assert seen == sorted(seen)
        assert not (store.folder / "progress").exists()
        results.append({(arm.name, trial.seed): store.read(trial).result for arm, trial in STUDY.trials()})
    assert results[0] == results[1]
    # Alone is the same as among others.
    _, *_, (_, last) = STUDY.trials()
    assert results[0]["pooled", 1] == run_trial(last, threads=1).result


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
    def failing(trials, **kwargs):
        if (trials[0].model, trials[0].seed) == ("mnist-pooled", 0):
            raise MemoryError("no room")
        return run_cohort(trials, **kwargs)

    store = Store(tmp_path)
    monkeypatch.setattr(runner, "run_cohort", failing)
    run(STUDY, store, jobs=1)
    ((arm, trial),) = missing(STUDY, store)
    assert (arm.name, trial.seed) == ("pooled", 0)
    assert store.failure(trial).splitlines()[0] == "MemoryError: no room"
    assert "Traceback" in store.failure(trial)

    monkeypatch.undo()
    assert run(STUDY, store, jobs=1) == 1
    assert store.failure(trial) is None
    assert missing(STUDY, store) == []


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

    store = Store(tmp_path)
    with pytest.warns(UserWarning, match="the tracker failed: no server"):
        run(STUDY, store, jobs=1, tracker=Tracker())
    assert missing(STUDY, store) == []


def test_damage_is_an_error_not_a_rerun(tmp_path) -> None:
    store = Store(tmp_path)
    run(STUDY.model_copy(update={"seeds": 1}), store, jobs=1)
    damaged = next(store.trials.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(StoreError, match=damaged.name):
        run(STUDY, store, jobs=1)


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
        run(STUDY.model_copy(update=changes), Store(tmp_path / "out"), jobs=1)
    assert not (tmp_path / "out").exists()


def test_an_error_in_a_trial_reaches_the_caller(tmp_path) -> None:
    with pytest.raises(ValueError, match="device: expected"):
        run(STUDY, Store(tmp_path), jobs=1, device="nope")


def test_cores() -> None:
    assert cores() >= 1
