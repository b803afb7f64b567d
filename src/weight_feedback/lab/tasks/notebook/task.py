"""The notebook's networks as a task: their settings, their metrics, what their results look like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from weight_feedback.lab.tasks.base import Diagnostic, GivenArm, Measured, Metric, Plan, Task, Trial
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Settings, SubspaceSignal, Summarised, Training

if TYPE_CHECKING:
    import torch

    from weight_feedback.lab.data.datasets import Dataset

#: Examples and steps that take a few seconds of training, as starting a process does, which imports PyTorch.
FEW_EXAMPLES, FEW_STEPS = 20_000, 1_000

_SHARED = ("data", "training", "summary")


class Notebook(Task):
    """Small conv nets that classify images, whose fc1 hears something besides its features."""

    metrics = {
        "accuracy": Metric("%", "higher", digits=2),
        "loss": Metric("nats", "lower", label="test loss", digits=4),
    }
    Settings = Settings
    scope = "on this test set, with this training set"
    shared = frozenset(_SHARED)
    diagnostics = {
        "z_norm": Diagnostic("Size of the signal", "norm of z", "The Euclidean norm of what fc1 hears"),
        "z_drift": Diagnostic(
            "Drift of the signal",
            "‖z − z₀‖ / ‖z₀‖",
            "How far what fc1 hears has moved from what it heard before the first step, relative to the latter",
        ),
        "z_share": Diagnostic(
            "Loudness of the signal",
            "share of pre-activation",
            "What the signal adds to fc1's pre-activation, as a share of all of it: its root mean square, divided "
            "by its sum with that of the rest",
        ),
    }
    interventions = {
        "zeros": "z = 0",
        "initial": "its initial z",
        "other": "another seed's final z",
    }

    def make_trial(self, path: str, settings: dict[str, Any], seed: int) -> NetworkTrial:
        """See `Task`."""
        return Settings.model_validate(settings).trial(seed)

    def settings_of(self, trial: Trial) -> Trial:
        """Return the trial itself."""
        return trial

    def check_arms(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> None:
        """See `Task`."""
        given = {arm.name: _given(settings, arm) for arm in arms}
        _check_cohorts(given)
        _check_subspaces(given)
        _check_summaries(given)

    def deciding(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> dict[str, Any]:
        """See `Task`."""
        first = _given(settings, arms[0])
        told = first.model_dump(mode="json", include={"data", "summary"})
        entries = []
        for arm in arms:
            own = _given(settings, arm).model_dump(mode="json", exclude=set(_SHARED))
            if own["salt"] == 0:
                del own["salt"]
            entries.append({"name": arm.name, **own})
        return {**told, "arms": entries, "training": first.training.settings()}

    def shared_values(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> dict[str, Any]:
        """See `Task`."""
        return _given(settings, arms[0]).model_dump(mode="json", include=set(_SHARED), exclude_none=True)

    def arm_values(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> list[dict[str, Any]]:
        """See `Task`."""
        return [
            {
                "model": trial.model,
                "signal": trial.signal or "none",
                "conditioning": trial.conditioning,
                "salt": trial.salt,
            }
            for trial in _networks([arm.trial for arm in arms])
        ]

    def summary(self, shared: Mapping[str, Any]) -> str:
        """See `Task`."""
        training = Training.model_validate(shared["training"])
        return (
            f"{training.epochs} epochs, batches of {training.batch_size}, SGD with learning rate {training.lr:g} "
            f"and momentum {training.momentum:g}"
        )

    def result(self, trial: Trial, data: Mapping[str, str], measured: Measured, kept: Mapping[str, Any]) -> Any:
        """Return a result as it has always been kept."""
        (fingerprint,) = data.values()
        return {"trial": trial.settings(), "data": fingerprint, **kept}

    def result_under(self, swap: Mapping[str, Any], data: Mapping[str, str], values: Mapping[str, float]) -> Any:
        """Return a result as it has always been kept."""
        (fingerprint,) = data.values()
        return {"swap": swap, "data": fingerprint, **values}

    def measured(self, result: Mapping[str, Any]) -> Measured:
        """See `Task`."""
        evaluations, hearings, classes = result["epochs"], result["hearings"], result["classes"]
        return Measured(
            curves={name: [one[name] for one in evaluations] for name in ("accuracy", "loss", "correct")},
            epochs=result["trial"]["training"]["epochs"],
            diverged="" if result["diverged"] is None else f"step {result['diverged']}",
            counts={"accuracy": 100 / classes, "loss": math.log(classes)},
            diagnostics={name: [one[name.removeprefix("z_")] for one in hearings] for name in self.diagnostics}
            if hearings
            else {},
            steps={"loss": result["step_losses"]},
            facts={"parameters": result["parameters"]},
        )

    def check(self, trials: Sequence[Trial], data_dir: Path | None) -> None:
        """See `Task`."""
        from weight_feedback.lab.tasks.notebook.building import check_fit

        for trial in _networks(trials):
            check_fit(trial, _load(trial, data_dir))

    def fingerprint(self, trial: Trial, data_dir: Path | None) -> dict[str, str]:
        """See `Task`."""
        (network,) = _networks([trial])
        return {network.data: _load(network, data_dir).fingerprint}

    def run(self, trial: Any) -> None:
        """See `Task`."""
        self.run_together([trial])

    def run_together(self, trials: Sequence[Any]) -> None:
        """See `Task`."""
        from weight_feedback.lab.tasks.notebook.training import train

        train(trials)

    def bytes_needed(self, trials: Sequence[Trial], data_dir: Path | None) -> int:
        """See `Task`."""
        from weight_feedback.lab.tasks.notebook.building import bytes_needed

        networks = _networks(trials)
        return bytes_needed(networks, len(_load(networks[0], data_dir).train_labels)) if networks else 0

    def is_brief(self, trials: Sequence[Trial], evaluations: int, data_dir: Path | None) -> bool:
        """See `Task`."""
        networks = _networks(trials)
        if not networks:
            return False
        data = _load(networks[0], data_dir)
        images = len(data.train_labels)
        examples = evaluations * len(data.test_labels) + sum(images * one.planned_epochs for one in networks)
        steps = sum(one.planned_epochs * one.training.epoch_steps(images) for one in networks)
        return examples <= FEW_EXAMPLES and steps <= FEW_STEPS

    def keeps(self, trial: Trial) -> Iterator[tuple[str, bool]]:
        """See `Task`."""
        if trial.keeps_weights:
            yield from (("zeros", False), ("initial", False), ("other", True))

    def evaluate_under(
        self, name: str, models: Sequence[tuple[Trial, Any]], data_dir: Path | None, device: torch.device
    ) -> dict[str, float]:
        """See `Task`."""
        from weight_feedback.lab.tasks.notebook.swapping import evaluate_under

        (trial, weights), *others = models
        (network,) = _networks([trial])
        data = _load(network, data_dir)
        return evaluate_under(name, network, weights, [(_networks([one])[0], w) for one, w in others], data, device)

    def plan(self, trial: Trial, data_dir: Path | None, device: torch.device) -> Plan:
        """See `Task`."""
        from weight_feedback.lab.tasks.notebook.timing import STEPS, time_trial

        (network,) = _networks([trial])
        data = _load(network, data_dir)
        timed = time_trial(network, data, device, STEPS)
        seconds = timed.seconds(network.training, len(data.train_labels), len(data.test_labels))
        return Plan(seconds, timed.parameters)


def _load(trial: NetworkTrial, data_dir: Path | None) -> Dataset:
    from weight_feedback.lab.data import datasets

    return datasets.load(trial.data, data_dir)


def _networks(trials: Sequence[Trial]) -> list[NetworkTrial]:
    """Return trials as what they are."""
    return [trial for trial in trials if isinstance(trial, NetworkTrial)]


def _given(settings: Mapping[str, Any], arm: GivenArm) -> Settings:
    return Settings.model_validate({**settings, **arm.changes})


def _check_cohorts(arms: Mapping[str, Settings]) -> None:
    for name, arm in arms.items():
        if arm.training.cohort > 1 and arm.signal == "own-gradient":
            raise ValueError(
                f"arms: {name!r} needs gradients through what is heard, which a cohort doesn't compute; "
                "leave out training.cohort"
            )


def _check_subspaces(arms: Mapping[str, Settings]) -> None:
    for name, arm in arms.items():
        if arm.training.subspace is None:
            continue
        if arm.training.cohort > 1:
            raise ValueError("training.cohort: must be left out with training.subspace; each seed trains alone")
        if arm.summary is not None:
            raise ValueError("summary: must be left out with training.subspace: networks hear their coordinates")
        if not arm.silent and arm.signal not in get_args(SubspaceSignal):
            raise ValueError(
                f"arms: {name!r} must hear one of {', '.join(get_args(SubspaceSignal))} in a subspace, "
                f"got {arm.signal!r}"
            )
        if arm.salt:
            raise ValueError(f"arms: {name!r} must have no salt in a subspace, got {arm.salt}")


def _check_summaries(arms: Mapping[str, Settings]) -> None:
    for name, arm in arms.items():
        if arm.conditioning != "concat" and arm.silent:
            raise ValueError(f"arms: {name!r} has conditioning {arm.conditioning!r}, but hears nothing")
    first = next(iter(arms.values()))
    summary: Summarised | None = first.summary
    signals = [arm.signal for arm in arms.values() if arm.signal is not None]
    if signals and summary is None and first.training.subspace is None:
        raise ValueError(f"summary: needed by arms with a signal, here {', '.join(signals)}; got none")
    if summary is not None and not signals:
        raise ValueError("summary: must be left out where no arm has a signal")
    if summary is not None and summary.k == 1 and "clock" in signals:
        raise ValueError(
            "summary.k: must be at least 2 for the signal clock, whose first number begins at 0, which no "
            "drift can be related to; got 1"
        )


NOTEBOOK = Notebook()
