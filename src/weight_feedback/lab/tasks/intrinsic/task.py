"""The intrinsic dimension as a task: its settings, its metric, what its results look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weight_feedback.lab.tasks.base import GivenArm, Measured, Metric, Task, Trial
from weight_feedback.lab.tasks.intrinsic.settings import Measurement, Settings


class IntrinsicDimension(Task):
    """A network trained in random subspaces, whose sizes are the arms."""

    metrics = {"accuracy": Metric("%", "higher", digits=2)}
    Settings = Settings
    scope = "on this test set, with this training set"
    shared = frozenset({"data", "network", "epochs", "batch_size", "lr"})

    def make_trial(self, path: str, settings: dict[str, Any], seed: int) -> Measurement:
        """See `Task`."""
        return Measurement(**dict(Settings.model_validate(settings)), seed=seed)

    def settings_of(self, trial: Trial) -> Trial:
        """Return the trial itself."""
        return trial

    def shared_values(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> dict[str, Any]:
        """See `Task`; where arms differ in dimensions alone, their projection is shared."""
        found = {arm.trial.settings()["subspace"]["projection"] for arm in arms}
        return super().shared_values(settings, arms) | ({"projection": found.pop()} if len(found) == 1 else {})

    def summary(self, shared: Mapping[str, Any]) -> str:
        """See `Task`."""
        epochs, size, lr = (shared[name] for name in ("epochs", "batch_size", "lr"))
        said = f"{epochs} epochs, batches of {size}, Adam with learning rate {lr:g}"
        return f"{said}, projection {shared['projection']}" if "projection" in shared else said

    def result(self, trial: Trial, data: Mapping[str, str], measured: Measured, kept: Mapping[str, Any]) -> Any:
        """Return a result as it has always been kept."""
        (fingerprint,) = data.values()
        return {
            "measurement": trial.settings(),
            "data": fingerprint,
            "parameters": kept["parameters"],
            "accuracy": list(measured.curves["accuracy"]),
            "coordinates": kept["coordinates"],
        }

    def measured(self, result: Mapping[str, Any]) -> Measured:
        """See `Task`."""
        return Measured(
            curves={"accuracy": result["accuracy"]},
            epochs=result["measurement"]["epochs"],
            facts={"parameters": result["parameters"]},
        )

    def check(self, trials: Sequence[Trial], data_dir: Path | None) -> None:
        """See `Task`."""
        from weight_feedback.lab.data import datasets
        from weight_feedback.lab.tasks.intrinsic.training import check_fit

        measurements = [trial for trial in trials if isinstance(trial, Measurement)]
        check_fit(measurements, datasets.load(measurements[0].data, data_dir))

    def fingerprint(self, trial: Trial, data_dir: Path | None) -> dict[str, str]:
        """See `Task`."""
        from weight_feedback.lab.data import datasets

        assert isinstance(trial, Measurement)
        return {trial.data: datasets.load(trial.data, data_dir).fingerprint}

    def run(self, trial: Any) -> None:
        """See `Task`."""
        from weight_feedback.lab.tasks.intrinsic.training import train

        train(trial)


INTRINSIC = IntrinsicDimension()
