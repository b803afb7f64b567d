"""What a study is: frozen models, read strictly from TOML, and the key of each of its trials."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Names become parts of file names and URLs.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]


class SpecError(ValueError):
    """A study file that can't be used; the message names file, field, what was expected and what came."""


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys, silent conversions, and numbers that aren't finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Training(Frozen):
    """Training settings; the defaults are the original notebook's protocol.

    SGD with momentum on the negative log-likelihood, batches reshuffled each epoch, the last short batch kept,
    evaluation on the whole test set after each epoch.
    """

    epochs: Annotated[int, Field(ge=1)] = 6
    """Passes over the training set."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Examples a step."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of SGD."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Momentum of SGD."""
    test_batch_size: Annotated[int, Field(ge=1)] = 1000
    """Examples a batch in evaluation."""
    log_interval: Annotated[int, Field(ge=1)] = 40
    """Steps between two log lines."""

    def epoch_steps(self, images: int) -> int:
        """Return the optimiser steps in an epoch, the last, short batch included.

        Args:
            images: in the training set.
        """
        return -(-images // self.batch_size)


SignalName = Literal[
    "none", "zeros", "constant", "noise", "clock", "stale", "permuted", "yoked", "own", "own-gradient"
]


class Projected(Frozen):
    """The summary of a controlled study: a dense random projection of the weights of fc1 and fc2."""

    k: Annotated[int, Field(ge=1)]
    """How many numbers fc1 hears."""
    distribution: Literal["uniform", "gaussian", "rademacher"] = "gaussian"
    """Of the entries of the projection."""
    scale: Literal["isometry", "xavier", "adjoint-isometry", "calibrated"] = "calibrated"
    """Of the projection; calibrated gives the initial z a root mean square of 1."""


class Arm(Frozen):
    """One condition of a study."""

    name: Name
    """Unique in the study; part of file names."""
    model: Name
    """A network, as listed by `weight-feedback train --help`."""
    label: Annotated[str, Field(min_length=1, max_length=80)]
    """How plots and tables call it."""
    signal: SignalName | None = None
    """What fc1 of a plain network hears; left out for the notebook's networks, which have feedback built in."""
    conditioning: Literal["concat", "film"] = "concat"
    """How fc1 hears it: as a moving bias, or as scale and shift."""


Contrast = Annotated[tuple[Name, Name], Field(strict=False)]


class Declared(Frozen):
    """What a study is to decide, fixed before it runs."""

    primary: Annotated[tuple[Contrast, ...], Field(min_length=1, strict=False)]
    """The contrasts that get a verdict, each the name of an arm minus that of another."""
    margin: Annotated[float, Field(gt=0)]
    """Differences within ± this count as equivalent; percentage points of final accuracy."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of intervals; one minus it is the error rate of the whole family of verdicts."""


class Trial(Frozen):
    """One arm with one seed: everything that its result depends on, and nothing else."""

    data: Name
    training: Training
    model: Name
    signal: SignalName | None = None
    summary: Projected | None = None
    conditioning: Literal["concat", "film"] = "concat"
    seed: Annotated[int, Field(ge=0)]

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values; what doesn't apply to the trial is left out."""
        settings = self.model_dump(mode="json", exclude_none=True)
        if self.conditioning == "concat":
            del settings["conditioning"]
        return settings

    def key(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of all settings.

        ``log_interval`` is left out: it changes what is printed, not what is computed.
        """
        settings = self.settings()
        del settings["training"]["log_interval"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class Study(Frozen):
    """Arms × seeds on one data set."""

    name: Name
    """Names the folder of the results."""
    title: Annotated[str, Field(min_length=1, max_length=200)]
    """Heading of plots."""
    data: Name
    """A data set, as listed by `weight-feedback data list`."""
    seeds: Annotated[int, Field(ge=1, le=100_000)]
    """How many seeds each arm gets: 0, 1, … seeds - 1."""
    training: Training = Training()
    """Shared by all arms."""
    summary: Projected | None = None
    """Shared by all arms that have a signal."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, strict=False)]
    """The conditions to compare."""
    declared: Declared | None = None
    """What is to be decided, fixed before the study runs; left out by studies that only show."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Study:
        keys: dict[str, list[object]] = {
            "name": [arm.name for arm in self.arms],
            "label": [arm.label for arm in self.arms],
            "condition": [(arm.model, arm.signal, arm.conditioning) for arm in self.arms],
        }
        for field, values in keys.items():
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(
                        f"arms: each {field} must be unique, got {value!r} {values.count(value)} times"
                    )
        return self

    @model_validator(mode="after")
    def _contrasts_are_of_arms(self) -> Study:
        names = [arm.name for arm in self.arms]
        for contrast in self.declared.primary if self.declared else ():
            for name in contrast:
                if name not in names:
                    raise ValueError(f"declared.primary: expected arms among {', '.join(names)}, got {name!r}")
            if contrast[0] == contrast[1]:
                raise ValueError(f"declared.primary: expected two different arms, got {contrast[0]!r} twice")
        return self

    def declaration(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of everything that determines the study's verdicts.

        Titles and labels are left out, and what is left out of a trial's key.
        """
        settings = self.model_dump(mode="json", exclude={"title": True, "training": {"log_interval"}})
        for arm in settings["arms"]:
            del arm["label"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _signals_have_a_summary(self) -> Study:
        for arm in self.arms:
            if arm.conditioning != "concat" and arm.signal in (None, "none"):
                raise ValueError(f"arms: {arm.name!r} has conditioning {arm.conditioning!r}, but hears nothing")
        signals = [arm.signal for arm in self.arms if arm.signal is not None]
        if signals and self.summary is None:
            raise ValueError(f"summary: needed by arms with a signal, here {', '.join(signals)}; got none")
        if self.summary is not None and not signals:
            raise ValueError("summary: must be left out where no arm has a signal")
        return self

    def trials(self) -> Iterator[tuple[Arm, Trial]]:
        """Yield every arm with every seed, seed by seed, so that a run cut short is still paired."""
        for seed in range(self.seeds):
            for arm in self.arms:
                yield arm, self.trial(arm, seed)

    def trial(self, arm: Arm, seed: int) -> Trial:
        """Return one trial.

        Args:
            arm: one of the study's arms.
            seed: of the trial.
        """
        # "none" hears nothing, whatever the summary: its trial is the plain network's.
        silent = arm.signal in (None, "none")
        return Trial(
            data=self.data,
            training=self.training,
            model=arm.model,
            signal=None if silent else arm.signal,
            summary=None if silent else self.summary,
            conditioning=arm.conditioning,
            seed=seed,
        )


def builtin_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    folder = resources.files("weight_feedback.lab") / "studies"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_study(name_or_path: str) -> Study:
    """Read a study from a TOML file, or a built-in one by its name.

    Args:
        name_or_path: a path, or the name of a built-in study.

    Returns:
        The study, fully checked.

    Raises:
        SpecError: there is no such study, it isn't TOML, or a field is wrong.
    """
    path = Path(name_or_path)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif name_or_path in builtin_studies():
        text = (resources.files("weight_feedback.lab") / "studies" / f"{name_or_path}.toml").read_text("utf-8")
    else:
        raise SpecError(
            f"no study {name_or_path!r}: expected the path of a TOML file, or one of the built-in studies: "
            f"{', '.join(builtin_studies())}"
        )
    try:
        return Study.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{name_or_path} isn't valid TOML: {error}") from None
    except ValidationError as error:
        raise SpecError(f"{name_or_path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return one line a wrong field: where it is, what was expected, what came.

    Args:
        error: what pydantic raised.
    """
    lines = []
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        came = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        message = item["msg"].removeprefix("Value error, ") + came
        lines.append(f"{where}: {message}" if where else message)
    return "\n".join(lines)
