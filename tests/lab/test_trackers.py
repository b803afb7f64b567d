"""Trackers: TensorBoard's files are read back; MLflow and W&B are told what their documented calls take."""

from __future__ import annotations

import importlib.util
import pickle
import re
import sys
from collections import namedtuple
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, call

import pytest

from helpers.made_up_study import STUDY, record
from weight_feedback.lab.execution.trackers import make_tracker, metrics, parameters
from weight_feedback.lab.store.store import Record

ARM = STUDY.arms[3]
TRIAL = STUDY.trial(ARM, 2)
RECORD = record(TRIAL, "own")
NUMBERS = {
    "steps/loss": dict(enumerate(RECORD.result["step_losses"], start=1)),
    "metrics/accuracy": {i: epoch["accuracy"] for i, epoch in enumerate(RECORD.result["epochs"], start=1)},
    "metrics/loss": {i: epoch["loss"] for i, epoch in enumerate(RECORD.result["epochs"], start=1)},
    **{
        f"diagnostics/z_{name}": {i: hearing[name] for i, hearing in enumerate(RECORD.result["hearings"])}
        for name in ("norm", "drift", "share")
    },
}


def test_metrics_are_all_numbers_with_their_steps() -> None:
    found: dict[str, dict[int, float]] = {}
    for name, step, value in metrics(STUDY, RECORD):
        found.setdefault(name, {})[step] = value
    assert found == NUMBERS


def test_parameters_are_flat() -> None:
    flat = parameters(STUDY, ARM, TRIAL)
    assert {
        "study": "made-up",
        "arm": "own",
        "training.lr": "0.01",
        "summary.k": "2",
        "seed": "2",
    }.items() <= flat.items()


# TensorBoard and protobuf warn about themselves.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_shows_every_number_once(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = pickle.loads(pickle.dumps(make_tracker("tensorboard", tmp_path)))
    (tmp_path / "own" / "seed-2").mkdir(parents=True)
    (tmp_path / "own" / "seed-2" / "events.out.tfevents.1.old").write_bytes(b"")
    for _ in range(2):  # the second time in place of the first
        tracker.log(STUDY, ARM, TRIAL, RECORD)
    assert len(list((tmp_path / "own" / "seed-2").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "own" / "seed-2"), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(NUMBERS)
    for name, expected in NUMBERS.items():
        assert {event.step: event.value for event in events.Scalars(name)} == pytest.approx(expected, rel=1e-6)
        assert len(events.Scalars(name)) == len(expected)
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| training.lr | 0.01 |" in text


class FakeMlflow:
    """What MLflow's client would keep, of its documented calls."""

    def __init__(self, monkeypatch) -> None:
        self.uris: list[str] = []
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}
        self.calls: list[int] = []
        module = ModuleType("mlflow")
        module.__spec__ = ModuleSpec("mlflow", None)
        module.MlflowClient = self.connect
        entities = ModuleType("mlflow.entities")
        entities.Metric = namedtuple("Metric", "key value timestamp step")
        entities.Param = namedtuple("Param", "key value")
        exceptions = ModuleType("mlflow.exceptions")
        exceptions.MlflowException = self.Error = type("MlflowException", (Exception,), {})
        for one in (module, entities, exceptions):
            monkeypatch.setitem(sys.modules, one.__name__, one)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def connect(self, tracking_uri):
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        if name in self.experiments:
            raise self.Error("it exists")
        return self.experiments.setdefault(name, f"e{len(self.experiments)}")

    def search_runs(self, experiments, filter_string):
        found = re.fullmatch(r"tags\.key = '(\w+)'", filter_string)
        return [run for run in self.runs.values() if run.experiment in experiments and run.tags["key"] == found[1]]

    def create_run(self, experiment, run_name, tags):
        info = SimpleNamespace(run_id=f"r{len(self.calls)}", run_name=run_name)
        run = SimpleNamespace(info=info, experiment=experiment, tags=tags, params={}, metrics={}, status="RUNNING")
        self.runs[info.run_id] = run
        return run

    def delete_run(self, run):
        del self.runs[run]

    def log_batch(self, run, metrics=(), params=()):
        self.calls.append(len(metrics))
        self.runs[run].params |= {param.key: param.value for param in params}
        for metric in metrics:
            self.runs[run].metrics.setdefault(metric.key, []).append((metric.step, metric.value))

    def set_terminated(self, run):
        self.runs[run].status = "FINISHED"


@pytest.fixture
def mlflow(monkeypatch) -> FakeMlflow:
    return FakeMlflow(monkeypatch)


def test_mlflow_gets_one_run_a_trial_in_an_experiment_a_study(tmp_path, mlflow) -> None:
    tracker = make_tracker("mlflow", tmp_path / "m")
    for _ in range(2):  # the second time in place of the first
        tracker.log(STUDY, ARM, TRIAL, RECORD)
    assert set(mlflow.uris) == {f"sqlite:///{tmp_path / 'm' / 'mlflow.db'}"}
    assert list(mlflow.experiments) == ["made-up"]
    (run,) = mlflow.runs.values()
    assert (run.info.run_name, run.tags, run.status) == ("own/seed-2", {"key": TRIAL.key()}, "FINISHED")
    assert run.params == parameters(STUDY, ARM, TRIAL)
    assert run.metrics == {name: list(values.items()) for name, values in NUMBERS.items()}


def test_mlflow_keeps_the_runs_of_other_arms_even_of_the_same_trial(tmp_path, mlflow) -> None:
    tracker = make_tracker("mlflow", tmp_path)
    for arm in (ARM, ARM.model_copy(update={"name": "twin"})):
        tracker.log(STUDY, arm, TRIAL, RECORD)
    assert [run.info.run_name for run in mlflow.runs.values()] == ["own/seed-2", "twin/seed-2"]


def test_mlflow_gets_no_more_metrics_at_once_than_it_takes(tmp_path, mlflow) -> None:
    losses = [float(step) for step in range(2500)]
    long = Record(RECORD.result | {"step_losses": losses}, RECORD.provenance)
    make_tracker("mlflow", tmp_path).log(STUDY, ARM, TRIAL, long)
    assert max(mlflow.calls) == 1000
    (run,) = mlflow.runs.values()
    assert run.metrics["steps/loss"] == list(enumerate(losses, start=1))


def test_mlflow_has_its_database_before_workers_start(tmp_path, mlflow) -> None:
    make_tracker("mlflow", tmp_path / "m")
    assert len(mlflow.uris) == 1
    assert (tmp_path / "m").is_dir()


def test_mlflow_goes_where_its_own_variable_says(tmp_path, mlflow, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    make_tracker("mlflow", tmp_path).log(STUDY, ARM, TRIAL, RECORD)
    assert set(mlflow.uris) == {"http://there"}


def test_mlflow_takes_an_experiment_that_another_worker_makes_meanwhile(tmp_path, mlflow, monkeypatch) -> None:
    def meanwhile(name):
        mlflow.experiments[name] = "theirs"
        raise mlflow.Error("it exists")

    def down(name):
        raise mlflow.Error("down")

    tracker = make_tracker("mlflow", tmp_path)
    monkeypatch.setattr(mlflow, "create_experiment", down)
    with pytest.raises(mlflow.Error, match="down"):
        tracker.log(STUDY, ARM, TRIAL, RECORD)
    monkeypatch.setattr(mlflow, "create_experiment", meanwhile)
    tracker.log(STUDY, ARM, TRIAL, RECORD)
    (run,) = mlflow.runs.values()
    assert run.experiment == "theirs"


class FakeWandb:
    """What W&B would write offline, of its documented calls."""

    def __init__(self) -> None:
        self.__spec__ = ModuleSpec("wandb", None)
        self.runs: list[SimpleNamespace] = []

    def init(self, **settings):
        folder = Path(settings["dir"]) / "wandb" / f"offline-run-20261124_10000{len(self.runs)}-{settings['id']}"
        (folder / "files").mkdir(parents=True)
        run = MagicMock()
        self.runs.append(
            SimpleNamespace(settings=settings, folder=folder, told=run, log=run.log, finish=run.finish)
        )
        return run


@pytest.fixture
def wandb(monkeypatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


def test_wandb_gets_a_run_a_trial_offline(tmp_path, wandb) -> None:
    make_tracker("wandb", tmp_path / "w").log(STUDY, ARM, TRIAL, RECORD)
    (run,) = wandb.runs
    assert run.settings == {
        "project": "made-up",
        "name": "own/seed-2",
        "id": f"own-{TRIAL.key()}",
        "group": "own",
        "config": parameters(STUDY, ARM, TRIAL),
        "dir": str(tmp_path / "w"),
        "mode": "offline",
        "reinit": "create_new",
    }
    assert run.log.call_args_list == [
        call({name: value, "step" if name == "steps/loss" else "epoch": step})
        for name, step, value in metrics(STUDY, RECORD)
    ]
    run.finish.assert_called_once_with()
    assert run.told.define_metric.call_args_list == [
        call("steps/*", step_metric="step"),
        call("metrics/*", step_metric="epoch"),
        call("diagnostics/*", step_metric="epoch"),
    ]


def test_wandb_keeps_one_offline_run_a_trial_and_arm(tmp_path, wandb) -> None:
    tracker = make_tracker("wandb", tmp_path)
    twin = ARM.model_copy(update={"name": "my-own"})
    for arm in (ARM, twin, ARM):
        tracker.log(STUDY, arm, TRIAL, RECORD)
    assert [run.folder.exists() for run in wandb.runs] == [False, True, True]


def test_wandb_goes_online_if_its_own_variable_says_so(tmp_path, wandb, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    make_tracker("wandb", tmp_path).log(STUDY, ARM, TRIAL, RECORD)
    assert wandb.runs[0].settings["mode"] == "online"


def test_trackers_travel_to_workers(tmp_path, mlflow, wandb) -> None:
    for name in ("tensorboard", "mlflow", "wandb"):
        tracker = make_tracker(name, tmp_path / name)
        assert pickle.loads(pickle.dumps(tracker)) == tracker


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"--track {name}.*pip install 'weight-feedback\[{name}\]'"):
        make_tracker(name, tmp_path)
