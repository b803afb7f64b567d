"""Trackers: tell TensorBoard, MLflow or Weights & Biases of finished trials, one run a trial."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from weight_feedback.lab.execution.names import TrackerName
from weight_feedback.lab.store.store import Record
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.fields import flat

#: Metrics that MLflow takes in one call.
_BATCH = 1000


class Tracker(Protocol):
    """Told of each trial right after it was kept, in the process that ran it; so it must be picklable."""

    def log(self, study: Study, arm: Arm, trial: Trial, record: Record) -> None:
        """Log a finished trial as one run.

        Args:
            study: whose trial it is.
            arm: its arm.
            trial: its settings.
            record: what came out.
        """


@dataclass(frozen=True)
class TensorBoard:
    """Event files, one folder a trial; a trial that is logged again replaces them.

    Args:
        folder: for ``tensorboard --logdir``.
    """

    folder: Path

    def log(self, study: Study, arm: Arm, trial: Trial, record: Record) -> None:
        """Log a finished trial.

        Args:
            study: whose trial it is.
            arm: its arm.
            trial: its settings.
            record: what came out.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / run_name(arm, trial)
        if folder.exists():  # what stayed would be shown twice
            shutil.rmtree(folder)
        writer = SummaryWriter(str(folder))
        table = [f"| {name} | {value} |" for name, value in parameters(study, arm, trial).items()]
        writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *table]))
        for name, step, value in metrics(study, record):
            writer.add_scalar(name, value, step)
        writer.close()


@dataclass(frozen=True)
class MLflow:
    """An MLflow experiment of the study's name.

    Args:
        folder: of the SQLite database, unless ``MLFLOW_TRACKING_URI`` names another place.
    """

    folder: Path

    def __post_init__(self) -> None:
        # So that workers, which get a copy, find a database; each would make it, and all but one would fail.
        self.client()

    def log(self, study: Study, arm: Arm, trial: Trial, record: Record) -> None:
        """Log a finished trial.

        Args:
            study: whose trial it is.
            arm: its arm.
            trial: its settings.
            record: what came out.
        """
        from mlflow.entities import Metric, Param

        client = self.client()
        experiment, name = _experiment(client, study.name), run_name(arm, trial)
        for old in client.search_runs([experiment], filter_string=f"tags.key = '{trial.key()}'"):
            if old.info.run_name == name:
                client.delete_run(old.info.run_id)
        run = client.create_run(experiment, run_name=name, tags={"key": trial.key()}).info.run_id
        client.log_batch(run, params=[Param(*setting) for setting in parameters(study, arm, trial).items()])
        now = time.time_ns() // 1_000_000
        numbers = [Metric(metric, value, now, step) for metric, step, value in metrics(study, record)]
        for start in range(0, len(numbers), _BATCH):
            client.log_batch(run, metrics=numbers[start : start + _BATCH])
        client.set_terminated(run)

    def client(self) -> Any:
        """Return an `mlflow.MlflowClient`; the first one makes the database."""
        import mlflow

        self.folder.mkdir(parents=True, exist_ok=True)
        default = f"sqlite:///{self.folder.resolve() / 'mlflow.db'}"
        return mlflow.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", default))


def _experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, made if need be; another process may make it at the same time."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    try:
        return str(known.experiment_id if known else client.create_experiment(name))
    except MlflowException:
        known = client.get_experiment_by_name(name)
        if known is None:
            raise
        return str(known.experiment_id)


@dataclass(frozen=True)
class WandB:
    """A Weights & Biases project of the study's name; offline, unless ``WANDB_MODE`` says otherwise.

    Args:
        folder: for its files; ``wandb sync`` sends them.
    """

    folder: Path

    def log(self, study: Study, arm: Arm, trial: Trial, record: Record) -> None:
        """Log a finished trial.

        Args:
            study: whose trial it is.
            arm: its arm.
            trial: its settings.
            record: what came out.
        """
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        # Two arms may be one trial, whose key then isn't unique.
        identity = f"{arm.name}-{trial.key()}"
        for old in (self.folder / "wandb").glob(f"offline-run-????????_??????-{identity}"):
            shutil.rmtree(old)  # `wandb sync` would send both
        run = wandb.init(
            project=study.name,
            name=run_name(arm, trial),
            id=identity,
            group=arm.name,
            config=parameters(study, arm, trial),
            dir=str(self.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
        )
        # Steps and epochs are counted apart; W&B wants one counter, so each metric names its own.
        run.define_metric("steps/*", step_metric="step")
        run.define_metric("metrics/*", step_metric="epoch")
        run.define_metric("diagnostics/*", step_metric="epoch")
        for name, step, value in metrics(study, record):
            run.log({name: value, "step" if name.startswith("steps/") else "epoch": step})
        run.finish()


_TRACKERS: dict[TrackerName, type[TensorBoard | MLflow | WandB]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def make_tracker(name: TrackerName, folder: Path) -> Tracker:
    """Return a tracker, ready for workers.

    Args:
        name: which.
        folder: for its files.

    Raises:
        ValueError: its package isn't installed.
    """
    if importlib.util.find_spec(name) is None:
        raise ValueError(
            f"--track {name}: the package {name} isn't installed: pip install 'weight-feedback[{name}]'"
        )
    return _TRACKERS[name](folder)


def run_name(arm: Arm, trial: Trial) -> str:
    """Return what a trial's run is called.

    Args:
        arm: its arm.
        trial: its settings.
    """
    return f"{arm.name}/seed-{trial.seed}"


def parameters(study: Study, arm: Arm, trial: Trial) -> dict[str, str]:
    """Return the settings of a trial, flat.

    Args:
        study: whose trial it is.
        arm: its arm.
        trial: its settings.
    """
    settings = {name: str(value) for name, value in flat(trial.settings())}
    return {"study": study.name, "arm": arm.name, "key": trial.key(), **settings}


def metrics(study: Study, record: Record) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value of every number that was measured.

    Args:
        study: whose trial it is.
        record: of a finished trial.
    """
    measured = study.kind.measured(record.result)
    kinds = {
        "steps": (measured.steps, 1),
        "metrics": (measured.curves, 1),
        "diagnostics": (measured.diagnostics, 0),
    }
    for kind, (series, first) in kinds.items():
        for name, values in series.items():
            if kind != "metrics" or name in study.reported:
                yield from (
                    (f"{kind}/{name}", step, value)
                    for step, value in enumerate(values, start=first)
                    if value is not None and math.isfinite(value)
                )
