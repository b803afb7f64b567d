"""Trackers: TensorBoard's files are read back; MLflow and W&B are told what their documented calls take."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, call

import pytest

from madeup import STUDY, record
from weight_feedback.lab.trackers import make_tracker, metrics, parameters

ARM = STUDY.arms[3]
TRIAL = STUDY.trial(ARM, 2)
RECORD = record(TRIAL, "own")
NUMBERS = {
    "train/loss": dict(enumerate(RECORD.result["step_losses"], start=1)),
    "test/accuracy": {i: epoch["accuracy"] for i, epoch in enumerate(RECORD.result["epochs"], start=1)},
    "test/loss": {i: epoch["loss"] for i, epoch in enumerate(RECORD.result["epochs"], start=1)},
    **{
        f"signal/{name}": {i: hearing[name] for i, hearing in enumerate(RECORD.result["hearings"])}
        for name in ("norm", "drift", "share")
    },
}


def test_metrics_are_all_numbers_with_their_steps() -> None:
    found: dict[str, dict[int, float]] = {}
    for name, step, value in metrics(RECORD):
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
    for _ in range(2):  # the second time in place of the first
        tracker.log(STUDY, ARM, TRIAL, RECORD)
    events = EventAccumulator(str(tmp_path / "own" / "seed-2"), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(NUMBERS)
    for name, expected in NUMBERS.items():
        assert {event.step: event.value for event in events.Scalars(name)} == pytest.approx(expected, rel=1e-6)
        assert len(events.Scalars(name)) == len(expected)
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| training.lr | 0.01 |" in text


def test_mlflow_gets_a_run_a_trial_in_an_experiment_a_study(tmp_path, monkeypatch) -> None:
    client = MagicMock()
    client.get_experiment_by_name.return_value = None
    client.create_experiment.return_value = "7"
    client.create_run.return_value.info.run_id = "r"
    fake = MagicMock(spec=ModuleType("mlflow"), MlflowClient=MagicMock(return_value=client), __spec__=object())
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_tracker("mlflow", tmp_path / "m").log(STUDY, ARM, TRIAL, RECORD)
    fake.MlflowClient.assert_called_once_with(tracking_uri=f"sqlite:///{tmp_path / 'm' / 'mlflow.db'}")
    client.create_experiment.assert_called_once_with("made-up")
    client.create_run.assert_called_once_with("7", run_name="own/seed-2", tags={"key": TRIAL.key()})
    logged = [call("r", name, value, step=step) for name, step, value in metrics(RECORD)]
    assert client.log_metric.call_args_list == logged
    assert call("r", "training.lr", "0.01") in client.log_param.call_args_list
    client.set_terminated.assert_called_once_with("r")


def test_wandb_gets_a_run_a_trial_offline(tmp_path, monkeypatch) -> None:
    run = MagicMock()
    fake = SimpleNamespace(init=MagicMock(return_value=run), __spec__=object())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    make_tracker("wandb", tmp_path / "w").log(STUDY, ARM, TRIAL, RECORD)
    settings = fake.init.call_args.kwargs
    assert (settings["project"], settings["name"], settings["mode"]) == ("made-up", "own/seed-2", "offline")
    assert settings["id"] == TRIAL.key()
    assert run.log.call_args_list == [
        call({name: value, "step" if name == "train/loss" else "epoch": step})
        for name, step, value in metrics(RECORD)
    ]
    run.finish.assert_called_once_with()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"pip install 'weight-feedback\[{name}\]'"):
        make_tracker(name, tmp_path)
