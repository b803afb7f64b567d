"""What a study is: arms × seeds of a task, and what is declared of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.spelling import joined, merged, spread, wrong_settings
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.base import SEEDS_END, GivenArm, Metric, MetricName, Task, Trial
from weight_feedback.lab.tasks.fields import MOST_WRONG, ONE_LINE, Frozen, Name, digest, in_words
from weight_feedback.lab.tasks.loading import BUILT_IN, find_task, name_function, provide, reading

#: Columns of every table of trials, which no metric can be called like.
COLUMNS = frozenset(
    {"study", "declaration", "arm", "label", "seed", "key", "status", "epoch", "trial_seconds", "torch", "host"}
)
#: Trials of a study; their list alone takes 100 MB.
MOST_TRIALS = 100_000


class Arm(Frozen):
    """One condition of a study; fields that it doesn't know itself are settings of the task."""

    name: Name
    """Unique in the study; part of file names."""
    label: Annotated[str, Field(min_length=1, max_length=80), ONE_LINE]
    """How plots and tables call it; default: its name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What it changes of the task's settings."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, dict) and "name" in given:
            return spread(cls, {"label": given["name"], **given})
        return given

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return joined(type(self), handler(self))


class Study(Frozen):
    """Arms × seeds of one task; fields that it doesn't know itself are settings of the task, shared by all arms."""

    name: Name
    """Names the folder of the results."""
    title: Annotated[str, Field(min_length=1, max_length=200), ONE_LINE]
    """Heading of plots."""
    task: Annotated[str, Field(min_length=1, max_length=200), ONE_LINE] = "notebook"
    """What trials train: a built-in task, or ``module:object`` of one's own."""
    seeds: Annotated[int, Field(ge=1, le=100_000)]
    """How many seeds each arm gets."""
    first_seed: Annotated[int, Field(ge=0, lt=SEEDS_END)] = 0
    """The first of them; the others follow. A study that confirms another has seeds which that one didn't have."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task, shared by all arms."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=1000, strict=False)]
    """The conditions to compare."""
    metrics: dict[MetricName, Metric] = Field(default_factory=dict)
    """Metrics that trials report, beside those that the task knows, or in their place."""
    declared: Declared | None = None
    """What is to be decided, fixed before the study runs; left out by studies that only show."""
    resolved: bool = False
    """Whether all settings are filled in, so that nothing of the task is needed to read its results."""

    _own: Task | None = PrivateAttr(default=None)
    """The task, where others can't import it: another function may have the same path."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            name: str,
            title: str,
            seeds: int,
            arms: Mapping[str, Mapping[str, Any]] | Sequence[Arm],
            task: str | Callable[..., Any] = "notebook",
            first_seed: int = 0,
            metrics: Mapping[str, Metric] | None = None,
            declared: Declared | None = None,
            **settings: Any,
        ) -> None:
            """Take what the validators below do."""

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        fields, own = spread(cls, given), None
        if callable(fields.get("task")):
            fields["task"], own = name_function(fields["task"])
        if isinstance(fields.get("arms"), dict):
            fields["arms"] = [{"name": name, "settings": changes} for name, changes in fields["arms"].items()]
        if isinstance(fields.get("arms"), list | tuple):
            fields["arms"] = [spread(Arm, arm) for arm in fields["arms"]]
        errors: list[InitErrorDetails] = []
        study = None
        try:
            study = handler(fields)
        except ValidationError as error:
            errors += [
                InitErrorDetails(type=one["type"], loc=one["loc"], input=one["input"], ctx=one.get("ctx", {}))
                for one in error.errors()
            ]
        errors += wrong_settings(fields)
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, [in_words(error) for error in errors])
        assert study is not None
        study._own = own
        study._check()
        return study

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return joined(type(self), handler(self))

    @field_serializer("metrics")
    def _dump_metrics(self, metrics: dict[str, Metric]) -> dict[str, dict[str, Any]]:
        return {
            name: {field: value for field, value in metric._asdict().items() if value is not None}
            for name, metric in metrics.items()
        }

    def _check(self) -> None:
        """Check what fields have to do with each other.

        Raises:
            ValueError: they don't fit together.
        """
        self._check_arms()
        self._check_metrics()
        self._check_contrasts()
        self._check_seeds(self.seeds)
        self.kind.check_arms(self.settings, self.given())

    def _check_arms(self) -> None:
        keys: dict[str, list[object]] = {
            "name": [arm.name for arm in self.arms],
            "label": [arm.label for arm in self.arms],
        }
        for field, values in keys.items():
            for value, count in Counter(values).items():
                if count > 1:
                    raise ValueError(f"arms: each {field} must be unique, got {value!r} {count} times")
        first: dict[str, str] = {}
        for arm in self.arms:
            key = self.trial(arm, self.first_seed).key()
            if first.setdefault(key, arm.name) != arm.name:
                raise ValueError(
                    f"arms: each must have other settings, but {first[key]!r} and {arm.name!r} train the same"
                )

    def _check_metrics(self) -> None:
        if not self.reported:
            raise ValueError("metrics: expected at least one, which trials report; got none")
        for name in self.reported:
            if name in COLUMNS:
                raise ValueError(f"metrics: expected other names than {', '.join(sorted(COLUMNS))}, got {name!r}")
        if self.declared is None:
            return
        for field, metric in (("metric", self.declared.metric), ("of", self.declared.of)):
            if metric is not None and metric not in self.reported:
                raise ValueError(f"declared.{field}: expected one of {', '.join(self.reported)}, got {metric!r}")
        threshold, unit = self.declared.threshold, self.reported[self.judged].unit
        if threshold is not None and unit == "%" and not 0 < threshold <= 100:
            raise ValueError(f"declared.threshold: expected more than 0 %, at most 100 %, got {threshold:g}")

    def _check_contrasts(self) -> None:
        if self.declared is None:
            return
        names = [arm.name for arm in self.arms]
        for contrast, count in Counter(self.declared.primary).items():
            for name in contrast:
                if name not in names:
                    raise ValueError(
                        f"declared.primary: expected arms among {', '.join(names[:MOST_WRONG])}, got {name!r}"
                    )
            if contrast[0] == contrast[1]:
                raise ValueError(f"declared.primary: expected two different arms, got {contrast[0]!r} twice")
            if count > 1:
                raise ValueError(f"declared.primary: each must be unique, got {list(contrast)} {count} times")

    def _check_seeds(self, seeds: int) -> None:
        """Refuse a number of seeds that this study can't have."""
        most, size = MOST_TRIALS // len(self.arms), self.together
        if seeds < 1:
            raise ValueError(f"seeds: expected at least 1, got {seeds}")
        if seeds > most:
            raise ValueError(
                f"seeds: expected at most {most} for {len(self.arms)} arms, {MOST_TRIALS} trials, got {seeds}"
            )
        if seeds % size:
            raise ValueError(f"seeds: expected a multiple of training.cohort, {size}, got {seeds}")
        if self.first_seed % size:
            raise ValueError(f"first_seed: expected a multiple of training.cohort, {size}, got {self.first_seed}")
        if self.first_seed > SEEDS_END - seeds:
            raise ValueError(
                f"first_seed: expected at most {SEEDS_END - seeds} for {seeds} seeds, got {self.first_seed}"
            )

    @property
    def kind(self) -> Task:
        """The task; of a study whose settings are filled in, what reads its results, without importing code."""
        return reading(self.task) if self.resolved else self._own or find_task(self.task)

    def running(self) -> Task:
        """Return the task, to run it.

        Raises:
            ValueError: this study was read from its results: what these name isn't imported.
        """
        if self.resolved and self.task not in BUILT_IN:
            raise ValueError(
                f"{self.name}: was read from its results, whose task isn't imported; run the study as it was "
                "written, by lab.run"
            )
        if self._own is not None:
            provide(self.task, self._own)  # another study may have a function of the same path
        return self.kind

    @property
    def reported(self) -> dict[str, Metric]:
        """All metrics, by name; the first is judged where nothing else is declared."""
        return {**self.kind.metrics, **self.metrics}

    def label(self, name: str) -> str:
        """Return how plots and tables call a metric.

        Args:
            name: of the metric.
        """
        return self.reported[name].label or name

    @property
    def judged(self) -> str:
        """The metric that contrasts compare."""
        return (self.declared.metric if self.declared else None) or next(iter(self.reported))

    @property
    def together(self) -> int:
        """How many seeds are trained together."""
        return len(self.trial(self.arms[0], self.first_seed).cohort())

    def given(self) -> list[GivenArm]:
        """Return all arms as the task sees them."""
        return [GivenArm(arm.name, arm.settings, self.trial(arm, self.first_seed)) for arm in self.arms]

    def shared_values(self) -> dict[str, Any]:
        """Return the settings that all arms share, filled in."""
        return self.kind.shared_values(self.settings, self.given())

    def arm_values(self) -> dict[str, dict[str, Any]]:
        """Return the settings in which arms differ, by the names of the arms."""
        arms = self.given()
        values = self.kind.arm_values(self.settings, arms)
        return {arm.name: own for arm, own in zip(arms, values, strict=True)}

    def fill_in(self) -> Study:
        """Return the same study with all settings and metrics filled in; its trials have the same keys."""
        if self.resolved:
            return self
        task, arms, shared = self.kind, [], dict[str, Any]()
        for arm in self.arms:
            values = task.read_settings(merged(self.settings, arm.settings)).model_dump(mode="json")
            shared = {name: value for name, value in values.items() if name in task.shared}
            own = {name: value for name, value in values.items() if name not in task.shared}
            arms.append(arm.model_copy(update={"settings": own}))
        return self.model_copy(
            update={"settings": shared, "arms": tuple(arms), "metrics": self.reported, "resolved": True}
        )

    def seed_numbers(self, seeds: int | None = None) -> range:
        """Return the seeds themselves.

        Args:
            seeds: another number of them than the study's.
        """
        return range(self.first_seed, self.first_seed + (self.seeds if seeds is None else seeds))

    @property
    def declared_arms(self) -> set[str]:
        """Names of the arms that declared contrasts compare; none if nothing is declared."""
        return {name for pair in self.declared.primary for name in pair} if self.declared else set()

    def declaration(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of everything that determines the study's verdicts."""
        return digest(self.deciding())

    def deciding(self) -> dict[str, Any]:
        """Return everything that determines the study's verdicts as plain values.

        Titles, labels and the margin's reason are left out, and what is left out of a trial's key.
        """
        declared = self.declared
        settings: dict[str, Any] = {
            "name": self.name,
            "seeds": self.seeds,
            "declared": None if declared is None else declared.deciding(self.judged),
            **self.kind.deciding(self.settings, self.given()),
        }
        if self.first_seed:
            settings["first_seed"] = self.first_seed
        names = [self.judged, *([declared.of] if declared and declared.of else [])]
        metrics = {name: _meaning(self.reported[name]) for name in names}
        known = {name: _meaning(metric) for name, metric in _built_in_metrics(self.task).items()}
        if others := {name: meaning for name, meaning in metrics.items() if meaning != known.get(name)}:
            settings["metrics"] = others
        return settings

    def choose(self, arms: Sequence[str] | None = None) -> list[str]:
        """Return the names of some arms in the study's order, each once.

        Args:
            arms: names; default: all.

        Raises:
            ValueError: the study has no arm of a name.
        """
        known = [arm.name for arm in self.arms]
        for name in arms or ():
            if name not in known:
                raise ValueError(f"arms: expected names among {', '.join(known)}, got {name!r}")
        return [name for name in known if arms is None or name in arms]

    def trials(self, arms: Sequence[str] | None = None, seeds: int | None = None) -> Iterator[tuple[Arm, Trial]]:
        """Yield every arm with every seed, seed by seed, so that a run cut short is still paired.

        Args:
            arms: names of some of the arms; default: all.
            seeds: another number of them than the study's.

        Raises:
            ValueError: the study has no arm of a name, or there are too few or too many seeds, or no whole cohorts.
        """
        chosen = self.choose(arms)
        if seeds is not None:
            self._check_seeds(seeds)
        for seed in self.seed_numbers(seeds):
            for arm in self.arms:
                if arm.name in chosen:
                    yield arm, self.trial(arm, seed)

    def swaps(self) -> Iterator[tuple[Arm, Swap]]:
        """Yield what is to be evaluated of each trained model; nothing for a study that declares nothing.

        The other model is that of the next seed, and the first one's for the last; a single seed has no other.
        """
        for arm, trial in self.trials() if self.declared else ():
            for name, takes_other in self.kind.keeps(trial):
                if not takes_other:
                    yield arm, Swap(trial=trial, heard=name)
                elif self.seeds > 1:
                    following = self.first_seed + (trial.seed + 1 - self.first_seed) % self.seeds
                    yield arm, Swap(trial=trial, heard=name, other=following)

    def trial(self, arm: Arm, seed: int) -> Trial:
        """Return one trial.

        Args:
            arm: one of the study's arms.
            seed: of the trial.
        """
        settings = json.dumps(merged(self.settings, arm.settings))
        return _first_trial(self.kind, self.task, settings).model_copy(update={"seed": seed})


@lru_cache(maxsize=4096)
def _first_trial(task: Task, path: str, settings: str) -> Trial:
    return task.make_trial(path, json.loads(settings), 0)


def _meaning(metric: Metric) -> list[Any]:
    """Return what of a metric decides, and not how it is shown."""
    return [metric.unit, metric.better, metric.diverged]


def _built_in_metrics(task: str) -> Mapping[str, Metric]:
    """Return the metrics of a built-in task, which names say enough of; none of another one."""
    return find_task(task).metrics if task in BUILT_IN else {}
