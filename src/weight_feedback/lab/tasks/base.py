"""The contract between the lab's engine and what it trains: metrics, trials, what came out, tasks.

Nothing here imports PyTorch: reports read results through a task without training anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, SupportsFloat

from pydantic import BaseModel, Field

from weight_feedback.lab.tasks.fields import ONE_LINE, Frozen, digest

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Seeds are below this.
SEEDS_END = 2**31

#: Under what name the code of a task has its fingerprint, beside those of data.
CODE = "code"

Seed = Annotated[int, Field(ge=0, lt=SEEDS_END)]
# Metrics become columns of tables and fields of pictures.
MetricName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]


class Metric(NamedTuple):
    """A number that trials report.

    Attributes:
        unit: of its values: ``"%"``, ``"nats"``, ``"s"``; empty for a plain number.
        better: which way is better.
        diverged: what a diverged trial counts as, such as chance; None: its pair is missing.
        label: how plots and tables call it; default: its name.
        digits: shown after the point; default: as many as its values need.
    """

    unit: Annotated[str, Field(max_length=20), ONE_LINE]
    better: Literal["higher", "lower"]
    diverged: float | None = None
    label: Annotated[str, Field(min_length=1, max_length=40), ONE_LINE] | None = None
    digits: Annotated[int, Field(ge=0, le=9)] | None = None

    @property
    def differences(self) -> str:
        """The unit of differences of its values: those of percentages are points."""
        return "points" if self.unit == "%" else self.unit


class Trial(Frozen):
    """A task's settings with a seed: everything that a result depends on, besides data and code."""

    folder: ClassVar[str] = "trials"

    seed: Seed

    @property
    def task(self) -> str:
        """Which task it is a trial of; see `loading.find_task`."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """What begins the names of its files."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values, as its result holds them; what doesn't apply is left out."""
        return self.model_dump(mode="json")

    def key(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of all settings."""
        return digest(self.settings())

    @property
    def file_name(self) -> str:
        """What files of this trial are called, without an ending."""
        return f"{self.called}-seed-{self.seed:05d}-{self.key()}"

    @property
    def planned_epochs(self) -> int:
        """How many epochs it is known to have before it runs, for progress."""
        return 1

    @property
    def keeps_weights(self) -> bool:
        """Whether its final weights are kept, for evaluation under something else."""
        return False

    def cohort(self) -> Sequence[Self]:
        """Return the trials that are trained together with this one, and itself: always the same seeds."""
        return [self]


class PlainTrial(Trial):
    """A trial of a task that isn't built in: its settings are plain values, which need nothing to be read."""

    path: str
    """Of the task; see `loading.find_task`."""
    values: dict[str, Any]
    """All settings of the task, defaults filled in."""

    @property
    def task(self) -> str:
        """See `Trial`."""
        return self.path

    @property
    def planned_epochs(self) -> int:
        """What a setting of that name says; 1 without one."""
        epochs = self.values.get("epochs")
        return epochs if type(epochs) is int and epochs > 0 else 1

    @property
    def called(self) -> str:
        """See `Trial`."""
        last = [part.rpartition(".")[2] for part in self.path.lower().split(":")]
        return re.sub(r"[^a-z0-9]+", "-", "-".join(last)).strip("-")[-40:].lstrip("-") or "trial"

    def settings(self) -> dict[str, Any]:
        """Return task, settings and seed."""
        return {"task": self.path, "settings": self.values, "seed": self.seed}

    def __hash__(self) -> int:
        return hash((self.path, self.seed, self.key()))


@dataclass(frozen=True)
class Measured:
    """What came out of a trial, in every task's results alike.

    Attributes:
        curves: metric to its values, one an epoch that was finished before the trial diverged; None where it wasn't
            reported, and counts as it was. A trial that stopped early keeps its last value.
        epochs: that the trial would have had.
        diverged: when it diverged, as text, such as ``"step 17"``; empty if it didn't.
        counts: metric to what the trial counts as from then on, where that differs from `Metric.diverged`.
        diagnostics: name to values, before the first epoch and after each; shown, and never judged.
        steps: name to values, one a training step; for trackers.
        facts: name to a number or text that isn't measured, such as ``parameters``.
        examples: one number a test example, of the trained model; empty where the task doesn't say.
    """

    curves: Mapping[str, Sequence[float | None]]
    epochs: int
    diverged: str = ""
    counts: Mapping[str, float | None] = field(default_factory=dict)
    diagnostics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[float] = field(default_factory=list)

    def counts_as(self, name: str, metric: Metric | None) -> float | None:
        """Return what a metric of a diverged trial counts as; None if it counts as missing.

        Args:
            name: of the metric.
            metric: what the study says of it; None: nothing.
        """
        return self.counts.get(name, metric.diverged if metric else None)


class Diagnostic(NamedTuple):
    """A number that describes a training, for a picture.

    Attributes:
        title: of the picture.
        axis: what its axis is called.
        meaning: in a sentence without its full stop.
    """

    title: str
    axis: str
    meaning: str


class Resumable(Protocol):
    """Training that can be broken off after an epoch, and goes on from there to the same bits."""

    def state(self) -> tuple[Any, Mapping[str, torch.Tensor]]:
        """Return what further training depends on: plain values, as JSON can hold them, and tensors by name."""

    def restore(self, epoch: int, plain: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Go to where training was after an epoch.

        Args:
            epoch: how many were finished then.
            plain: what `state` returned then.
            tensors: likewise.

        Raises:
            ValueError: that can't have been; nothing is changed.
        """


class Context(Protocol):
    """What a task is given of one trial; it drives, and this serves."""

    @property
    def settings(self) -> Any:
        """The task's settings, checked and filled in."""

    @property
    def trial(self) -> Trial:
        """The trial itself."""

    @property
    def seed(self) -> int:
        """Of the trial."""

    @property
    def device(self) -> torch.device:
        """Where to train."""

    @property
    def data_dir(self) -> Path | None:
        """Where data files are looked for; None: where the task looks by itself."""

    @property
    def folder(self) -> Path:
        """A folder for files of its own: empty when the trial begins or goes on, and removed when it ends."""

    @property
    def weights(self) -> Path | None:
        """Where to write the final weights; None: nowhere."""

    def stream(self, *names: str | int) -> torch.Generator:
        """Return a generator for one purpose, the same in all arms of a seed; its state is kept in checkpoints.

        Args:
            names: of the purpose.
        """

    def rng(self, *names: str | int) -> np.random.Generator:
        """Return a generator of NumPy for one purpose; see `stream`.

        Args:
            names: of the purpose.
        """

    def epochs(self, n: int, **stateful: Any) -> Iterator[int]:
        """Yield the numbers of the epochs that are left, from 1, and keep how far training is after each.

        Random state of PyTorch, NumPy and Python is set from seed and epoch at the start of each, as from the seed
        before the first.

        Args:
            n: how many epochs there are.
            stateful: what training changes, by name, each with ``state_dict()`` and ``load_state_dict()``.
        """

    def epochs_of(self, n: int, training: Resumable) -> Iterator[int]:
        """Yield the numbers of the epochs that are left, as `epochs` does, of training that keeps itself.

        Args:
            n: how many epochs there are.
            training: what to keep.
        """

    def report(self, **metrics: SupportsFloat) -> None:
        """Say what some metrics are after the present epoch; also the sign that the trial is alive.

        Of several values in an epoch the last one counts.

        Args:
            metrics: name to value. One that isn't finite makes the trial a diverged one.
        """

    def diagnose(self, **diagnostics: SupportsFloat) -> None:
        """Add one point to each of some diagnostics, shown and never judged: once an epoch, or before training too.

        Args:
            diagnostics: name to value.
        """

    def keep(self, name: str, value: Any) -> None:
        """Keep a value with the result, which must be the same each time the trial is run.

        Args:
            name: of the value.
            value: what JSON can hold; or a tensor or array, of which its numbers are kept.
        """

    def examples(self, values: Any) -> None:
        """Keep one number for each test example, of the trained model: whether it was right, or its loss.

        The order of examples must be the same in all trials. Of several calls the last one counts.

        Args:
            values: finite numbers or truth values, shape ``[examples]``.
        """

    def log(self, line: Any) -> None:
        """Say something within an epoch.

        Args:
            line: to people.
        """


class GivenArm(NamedTuple):
    """An arm of a study, as its task sees it.

    Attributes:
        name: of the arm.
        changes: the settings that it changes, as the study gives them.
        trial: its first trial.
    """

    name: str
    changes: Mapping[str, Any]
    trial: Trial


class Plan(NamedTuple):
    """What a trial costs, before it is run.

    Attributes:
        seconds: of one trial on one thread, estimated; None: unknown.
        parameters: that are trained, exactly; None: unknown.
    """

    seconds: float | None = None
    parameters: int | None = None


class Task:
    """What trials of a study train: the engine calls `run` once a trial, and asks the rest before and after.

    A task is one object of a module, so that worker processes find it by its path. Everything but ``run``,
    ``check`` and ``fingerprint`` has a default.

    Attributes:
        metrics: name to metric, of all that trials report; a study may add to them and override them. The first
            one is judged where a study doesn't say which.
        Settings: a strict and frozen model of pydantic; what it fills in is part of what tells trials apart.
        shared: settings that arms can't change.
        diagnostics: name to what it means.
        interventions: name to title, of what a trained model can be evaluated under.
        scope: what verdicts speak of, where seeds are all that is drawn anew.
    """

    metrics: Mapping[str, Metric] = {}
    Settings: type[BaseModel] = Frozen
    shared: frozenset[str] = frozenset()
    diagnostics: Mapping[str, Diagnostic] = {}
    interventions: Mapping[str, str] = {}
    scope: str = "on this task, over its seeds"

    def make_trial(self, path: str, settings: dict[str, Any], seed: int) -> Trial:
        """Return a trial.

        Args:
            path: of this task.
            settings: of an arm; those that are left out have their defaults.
            seed: of the trial.

        Raises:
            ValidationError: a setting is unknown, missing, or wrong.
        """
        values = self.read_settings(settings).model_dump(mode="json")
        return PlainTrial(path=path, values=values, seed=seed)

    def read_settings(self, settings: Mapping[str, Any]) -> BaseModel:
        """Return settings, checked and with their defaults.

        Args:
            settings: as plain values.

        Raises:
            ValidationError: one is unknown, missing, or wrong.
            TypeError: one isn't what JSON can hold.
        """
        # As JSON, in which enumerations and dataclasses are written as plain values.
        return self.Settings.model_validate_json(json.dumps(settings))

    def settings_of(self, trial: Trial) -> Any:
        """Return the settings of a trial, as its context hands them out.

        Args:
            trial: of this task.
        """
        assert isinstance(trial, PlainTrial)
        return self.read_settings(trial.values)

    def check_arms(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> None:
        """Check what several arms have to do with each other.

        Args:
            settings: shared by all arms, as the study gives them.
            arms: all of them.

        Raises:
            ValueError: they don't fit together.
        """

    def deciding(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> dict[str, Any]:
        """Return what of a study's settings determines its verdicts, as plain values.

        Args:
            settings: shared by all arms, as the study gives them.
            arms: all of them.

        Returns:
            Among others ``arms``, with one entry an arm, each with its ``name``.
        """
        return {
            "arms": [
                {
                    "name": arm.name,
                    **{name: value for name, value in arm.trial.settings().items() if name != "seed"},
                }
                for arm in arms
            ]
        }

    def shared_values(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> dict[str, Any]:
        """Return the settings that all arms share, filled in.

        Args:
            settings: as the study gives them.
            arms: all of them.
        """
        first, *others = (_values(arm.trial) for arm in arms)
        return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}

    def arm_values(self, settings: Mapping[str, Any], arms: Sequence[GivenArm]) -> list[dict[str, Any]]:
        """Return the settings in which arms differ, for tables: one table an arm.

        Args:
            settings: as the study gives them.
            arms: all of them.
        """
        shared = self.shared_values(settings, arms)
        return [{name: value for name, value in _values(arm.trial).items() if name not in shared} for arm in arms]

    def summary(self, shared: Mapping[str, Any]) -> str:
        """Return what all arms share in words, for a line of a report; empty if there is nothing to say.

        Args:
            shared: of `shared_values`.
        """
        return ", ".join(f"{name} {value}" for name, value in shared.items())

    # What a result looks like. ---------------------------------------------------------------------------------

    def result(self, trial: Trial, data: Mapping[str, str], measured: Measured, kept: Mapping[str, Any]) -> Any:
        """Return what is kept of a finished trial.

        Args:
            trial: the settings.
            data: name of a data set, or of code, to its fingerprint.
            measured: what came out.
            kept: what the task kept with it.
        """
        content = {
            "trial": trial.settings(),
            "data": dict(data),
            "epochs": measured.epochs,
            "metrics": {name: list(values) for name, values in measured.curves.items()},
            # JSON has no numbers that aren't finite.
            "diagnostics": {
                name: [value if math.isfinite(value) else None for value in values]
                for name, values in measured.diagnostics.items()
            },
            "diverged": measured.diverged or None,
            "kept": dict(kept),
            "examples": list(measured.examples),
        }
        rare = ("diagnostics", "kept", "examples")
        return {name: value for name, value in content.items() if value or name not in rare}

    def result_under(self, swap: Mapping[str, Any], data: Mapping[str, str], values: Mapping[str, float]) -> Any:
        """Return what is kept of an evaluation under something else.

        Args:
            swap: the settings.
            data: name of a data set, or of code, to its fingerprint.
            values: metrics by name.
        """
        return {"swap": swap, "data": dict(data), **values}

    def measured(self, result: Mapping[str, Any]) -> Measured:
        """Return what came out of a trial, from its result.

        Args:
            result: of `result`.
        """
        kept = result.get("kept", {})
        return Measured(
            curves=result["metrics"],
            epochs=result["epochs"],
            diverged=result["diverged"] or "",
            diagnostics={
                name: _told(values, result["epochs"]) for name, values in result.get("diagnostics", {}).items()
            },
            facts={name: _fact(value) for name, value in kept.items() if type(value) in (int, float, str)},
            examples=result.get("examples", []),
        )

    # What runs need. -------------------------------------------------------------------------------------------

    def check(self, trials: Sequence[Trial], data_dir: Path | None) -> None:
        """Refuse, before time is spent, what can't be trained.

        Args:
            trials: the first of each arm.
            data_dir: where data files are looked for.

        Raises:
            ValueError: settings and data don't fit together.
        """

    def fingerprint(self, trial: Trial, data_dir: Path | None) -> dict[str, str]:
        """Return the fingerprints of the data, and of the code, that a trial would be trained with, by their names.

        Args:
            trial: of any arm.
            data_dir: where data files are looked for.
        """
        return {}

    def fingerprints(self, trials: Sequence[Trial], data_dir: Path | None) -> dict[str, str]:
        """Return the fingerprints of all data and code that trials would be trained with, by their names.

        Args:
            trials: the first of each arm.
            data_dir: where data files are looked for.
        """
        found: dict[str, str] = {}
        for trial in trials:
            found |= self.fingerprint(trial, data_dir)
        return found

    def prepare(self) -> None:
        """Load what all trials need, once in each process that runs them, or that those are forked from."""

    def run(self, trial: Any) -> Mapping[str, float] | None:
        """Train one trial.

        Args:
            trial: its `Context`.

        Returns:
            Final values of metrics that it doesn't report by itself.
        """
        raise NotImplementedError

    def bytes_needed(self, trials: Sequence[Trial], data_dir: Path | None) -> int:
        """Return about how many bytes the results of trials are going to take, at the least.

        Args:
            trials: that are to be run.
            data_dir: where data files are looked for.
        """
        return 2_000 * len(trials)

    def is_brief(self, trials: Sequence[Trial], evaluations: int, data_dir: Path | None) -> bool:
        """Say whether trials take less time than processes for them would take to start.

        Args:
            trials: that are to be run.
            evaluations: of trained models under something else, likewise.
            data_dir: where data files are looked for.
        """
        return False

    # Capabilities, which the engine asks for and never requires. -------------------------------------------------

    def run_together(self, trials: Sequence[Any]) -> None:
        """Train the trials of one cohort at once.

        Args:
            trials: their contexts, in the order of `Trial.cohort`.
        """
        raise NotImplementedError

    def keeps(self, trial: Trial) -> Iterator[tuple[str, bool]]:
        """Yield what a trained model can be evaluated under, and whether that takes another seed's.

        Args:
            trial: that is finished.
        """
        yield from ()

    def evaluate_under(
        self, name: str, models: Sequence[tuple[Trial, Any]], data_dir: Path | None, device: torch.device
    ) -> dict[str, float]:
        """Evaluate a trained model under something else.

        Args:
            name: what, one of ``interventions``.
            models: its trial and final weights; then, if it takes one, those of the other seed.
            data_dir: where data files are looked for.
            device: where to evaluate.

        Returns:
            Metrics by name.
        """
        raise NotImplementedError

    def plan(self, trial: Trial, data_dir: Path | None, device: torch.device) -> Plan:
        """Return what a trial costs, timed on a part of it.

        Args:
            trial: of an arm.
            data_dir: where data files are looked for.
            device: where to train.
        """
        return Plan()


def _told(values: Sequence[float | None], epochs: int) -> list[float]:
    """Return a diagnostic from before the first epoch on; what is told once an epoch, is told after it."""
    numbers = [math.nan if value is None else value for value in values]
    return numbers if len(numbers) > epochs else [math.nan, *numbers]


def _fact(value: Any) -> Any:
    """Return a fact as tables can hold it: whole numbers of more than 64 bits as text."""
    return str(value) if type(value) is int and not -(2**63) <= value < 2**63 else value


def _values(trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial without its seed."""
    settings = trial.settings()
    if isinstance(trial, PlainTrial):
        return dict(settings["settings"])
    return {name: value for name, value in settings.items() if name != "seed"}
