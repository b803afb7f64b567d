"""What a study is: arms × seeds, and what is declared of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from weight_feedback.lab.study.trials import Swap, Trial
from weight_feedback.lab.tasks.base import MOST_WRONG, ONE_LINE, Frozen, Name, digest
from weight_feedback.lab.tasks.notebook.settings import SignalName, SubspaceSignal, Summarised, Training

#: Trials of a study; their list alone takes 100 MB.
MOST_TRIALS = 100_000
#: Seeds are below this.
SEEDS_END = 2**31


class Arm(Frozen):
    """One condition of a study."""

    name: Name
    """Unique in the study; part of file names."""
    model: Name
    """A network, as listed by `weight-feedback train --help`."""
    label: Annotated[str, Field(min_length=1, max_length=80), ONE_LINE]
    """How plots and tables call it."""
    signal: SignalName | None = None
    """What fc1 of a plain network hears; left out for the notebook's networks, which have feedback built in."""
    conditioning: Literal["concat", "film"] = "concat"
    """How fc1 hears it: as a moving bias, or as scale and shift."""
    salt: Annotated[int, Field(ge=0, le=1000)] = 0
    """Gives the seeds of this arm another projection and another initial V; nothing else changes."""

    @property
    def silent(self) -> bool:
        """Whether its trials hear nothing beyond what a network has built in."""
        return self.signal in (None, "none")

    @property
    def condition(self) -> tuple[str, SignalName | None, Literal["concat", "film"], int]:
        """What tells the trials of an arm from those of others: model, signal, conditioning and salt."""
        # "none" hears nothing, whatever the summary and its salt: its trial is the plain network's.
        signal, salt = (None, 0) if self.silent else (self.signal, self.salt)
        return self.model, signal, self.conditioning, salt


Contrast = Annotated[tuple[Name, Name], Field(strict=False)]
OutcomeName = Literal["final-accuracy", "area-under-curve", "epochs-to-threshold", "final-loss"]


class Declared(Frozen):
    """What a study is to decide, fixed before it runs."""

    primary: Annotated[tuple[Contrast, ...], Field(min_length=1, max_length=100, strict=False)]
    """The contrasts that get a verdict, each the name of an arm minus that of another."""
    outcome: OutcomeName = "final-accuracy"
    """What is compared."""
    threshold: Annotated[float, Field(gt=0, le=100)] | None = None
    """Accuracy in percent whose first epoch is counted; for `epochs-to-threshold` alone."""
    margin: Annotated[float, Field(gt=0, le=1e6)]
    """Differences within ± this count as equivalent, in the outcome's unit: percentage points, epochs or nats."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Of intervals; one minus it is the error rate of a family of verdicts."""
    error: Literal["each", "both"] = "each"
    """What the error rate is of: each of the two families, claims of a difference and claims of equivalence, which
    together have up to twice as much; or both together, which halves the level of each."""
    why: Annotated[str, Field(min_length=1, max_length=200), ONE_LINE] | None = None
    """Why this margin: a reason for readers, which decides nothing."""

    @model_validator(mode="after")
    def _threshold_fits_outcome(self) -> Declared:
        if (self.outcome == "epochs-to-threshold") != (self.threshold is not None):
            raise ValueError(
                "threshold: needed by outcome 'epochs-to-threshold', and by no other; "
                f"got {self.threshold} with {self.outcome!r}"
            )
        return self


class Study(Frozen):
    """Arms × seeds on one data set."""

    name: Name
    """Names the folder of the results."""
    title: Annotated[str, Field(min_length=1, max_length=200), ONE_LINE]
    """Heading of plots."""
    data: Name
    """A data set, as listed by `weight-feedback data list`."""
    seeds: Annotated[int, Field(ge=1, le=100_000)]
    """How many seeds each arm gets."""
    first_seed: Annotated[int, Field(ge=0, lt=SEEDS_END)] = 0
    """The first of them; the others follow. A study that confirms another has seeds which that one didn't have."""
    training: Training = Training()
    """Shared by all arms."""
    summary: Summarised | None = None
    """Shared by all arms that have a signal."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=1000, strict=False)]
    """The conditions to compare."""
    declared: Declared | None = None
    """What is to be decided, fixed before the study runs; left out by studies that only show."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Study:
        keys: dict[str, list[object]] = {
            "name": [arm.name for arm in self.arms],
            "label": [arm.label for arm in self.arms],
            "condition": [arm.condition for arm in self.arms],
        }
        for field, values in keys.items():
            for value, count in Counter(values).items():
                if count > 1:
                    raise ValueError(f"arms: each {field} must be unique, got {value!r} {count} times")
        return self

    @model_validator(mode="after")
    def _contrasts_are_of_arms(self) -> Study:
        names = [arm.name for arm in self.arms]
        for contrast, count in Counter(self.declared.primary if self.declared else ()).items():
            for name in contrast:
                if name not in names:
                    raise ValueError(
                        f"declared.primary: expected arms among {', '.join(names[:MOST_WRONG])}, got {name!r}"
                    )
            if contrast[0] == contrast[1]:
                raise ValueError(f"declared.primary: expected two different arms, got {contrast[0]!r} twice")
            if count > 1:
                raise ValueError(f"declared.primary: each must be unique, got {list(contrast)} {count} times")
        return self

    @model_validator(mode="after")
    def _trials_can_be_counted(self) -> Study:
        self._check_seeds(self.seeds)
        return self

    def _check_seeds(self, seeds: int) -> None:
        """Refuse a number of seeds that this study can't have."""
        most, size = MOST_TRIALS // len(self.arms), self.training.cohort
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
        settings = self.model_dump(mode="json", exclude={"title", "training"})
        settings["training"] = self.training.settings()
        if self.first_seed == 0:
            del settings["first_seed"]
        if self.declared is not None:
            del settings["declared"]["why"]
            if self.declared.outcome == "final-accuracy":
                del settings["declared"]["outcome"], settings["declared"]["threshold"]
            if self.declared.error == "each":
                del settings["declared"]["error"]
        for arm in settings["arms"]:
            del arm["label"]
            if arm["salt"] == 0:
                del arm["salt"]
        return settings

    @model_validator(mode="after")
    def _cohorts_need_no_gradients(self) -> Study:
        for arm in self.arms:
            if self.training.cohort > 1 and arm.signal == "own-gradient":
                raise ValueError(
                    f"arms: {arm.name!r} needs gradients through what is heard, which a cohort doesn't compute; "
                    "leave out training.cohort"
                )
        return self

    @model_validator(mode="after")
    def _subspaces_have_coordinates_to_hear(self) -> Study:
        if self.training.subspace is None:
            return self
        if self.training.cohort > 1:
            raise ValueError("training.cohort: must be left out with training.subspace; each seed trains alone")
        if self.summary is not None:
            raise ValueError("summary: must be left out with training.subspace: networks hear their coordinates")
        for arm in self.arms:
            if not arm.silent and arm.signal not in get_args(SubspaceSignal):
                raise ValueError(
                    f"arms: {arm.name!r} must hear one of {', '.join(get_args(SubspaceSignal))} in a subspace, "
                    f"got {arm.signal!r}"
                )
            if arm.salt:
                raise ValueError(f"arms: {arm.name!r} must have no salt in a subspace, got {arm.salt}")
        return self

    @model_validator(mode="after")
    def _signals_have_a_summary(self) -> Study:
        for arm in self.arms:
            if arm.conditioning != "concat" and arm.silent:
                raise ValueError(f"arms: {arm.name!r} has conditioning {arm.conditioning!r}, but hears nothing")
        signals = [arm.signal for arm in self.arms if arm.signal is not None]
        if signals and self.summary is None and self.training.subspace is None:
            raise ValueError(f"summary: needed by arms with a signal, here {', '.join(signals)}; got none")
        if self.summary is not None and not signals:
            raise ValueError("summary: must be left out where no arm has a signal")
        if self.summary is not None and self.summary.k == 1 and "clock" in signals:
            raise ValueError(
                "summary.k: must be at least 2 for the signal clock, whose first number begins at 0, which no "
                "drift can be related to; got 1"
            )
        return self

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
        """Yield three swaps for each trial that hears its own weights; none for a study that declares nothing.

        The other network is that of the next seed, and the first one's for the last; a single seed has no other.
        """
        for arm, trial in self.trials() if self.declared else ():
            if trial.keeps_weights:
                yield arm, Swap(trial=trial, heard="zeros")
                yield arm, Swap(trial=trial, heard="initial")
                if self.seeds > 1:
                    following = self.first_seed + (trial.seed + 1 - self.first_seed) % self.seeds
                    yield arm, Swap(trial=trial, heard="other", other=following)

    def trial(self, arm: Arm, seed: int) -> Trial:
        """Return one trial.

        Args:
            arm: one of the study's arms.
            seed: of the trial.
        """
        model, signal, conditioning, salt = arm.condition
        return Trial(
            data=self.data,
            training=self.training,
            model=model,
            signal=signal,
            summary=None if arm.silent else self.summary,
            conditioning=conditioning,
            salt=salt,
            seed=seed,
        )
