"""What a study will take, before it is run: parameters, trials, time, and what its seeds can show."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scipy import optimize

from weight_feedback.lab import datasets
from weight_feedback.lab.models import count_parameters
from weight_feedback.lab.settings import Trial
from weight_feedback.lab.spec import Declared, Study
from weight_feedback.lab.training import evaluate, hear, heard, train
from weight_feedback.lab.trial import build_networks, check_fit, choose_device, thread_count
from weight_feedback.lab.verdicts import POWER, detectable_effect, equivalence_power

#: Steps that are timed, after as many to warm up.
STEPS = 20
#: Test images whose evaluation is timed.
IMAGES = 1000


@dataclass(frozen=True)
class PlannedArm:
    """One arm before it is run.

    Attributes:
        name: of the arm.
        parameters: trainable numbers, exactly.
        trials: one a seed.
        seconds: of one trial on one thread, estimated.
    """

    name: str
    parameters: int
    trials: int
    seconds: float


def plan(study: Study, *, data_dir: Path | None = None, device: str = "auto") -> list[PlannedArm]:
    """Build each arm of a study, and time a few of its steps on one thread.

    Args:
        study: arms × seeds.
        data_dir: where data files are looked for; see `datasets.load`.
        device: see `choose_device`.

    Returns:
        One entry an arm, in the study's order.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: an arm can't be run on these data.
    """
    where = choose_device(device)
    data = datasets.load(study.data, data_dir)
    planned = []
    for arm in study.arms:
        trial = study.trial(arm, 0)
        check_fit(trial, data)
        with thread_count(1):
            parameters, seconds = _time(trial, data, where)
        planned.append(PlannedArm(arm.name, parameters, study.seeds, seconds))
    return planned


def _time(trial: Trial, data: datasets.Dataset, where: torch.device) -> tuple[int, float]:
    """Return an arm's parameters, and the estimated seconds of one of its trials."""
    images = min(STEPS * trial.training.batch_size, len(data.train_labels))
    part = replace(
        data,
        train_images=data.train_images[:images],
        train_labels=data.train_labels[:images],
        test_images=data.test_images[:IMAGES],
        test_labels=data.test_labels[:IMAGES],
    ).to(where)
    epoch_steps = trial.training.epoch_steps(len(data.train_labels))
    model, donor = build_networks(trial, epoch_steps, where)
    once = trial.training.model_copy(update={"epochs": 1})
    train(model, part, once, trial.seed, donor=donor)
    z = heard(model)
    evaluation = _seconds(lambda: evaluate(model, part, once.test_batch_size))
    hearing = _seconds(lambda: hear(model, part, z))
    # An epoch of training ends with an evaluation of its own, and what is heard is measured before it and after.
    epoch = _seconds(lambda: train(model, part, once, trial.seed, donor=donor))
    step = max(epoch - evaluation - 2 * hearing, 0.0) / once.epoch_steps(images)
    evaluation *= len(data.test_labels) / len(part.test_labels)
    return count_parameters(model), trial.training.epochs * (epoch_steps * step + evaluation + hearing)


def _seconds(work: Callable[[], object]) -> float:
    """Return the median of three timings."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Sensitivity:
    """What a number of seeds can show with 80 % power, in standard deviations of the paired differences.

    Attributes:
        alone: the smallest true difference that is detected, at level 1 − confidence.
        family: the same at the strictest level of Holm's correction.
        equivalence: the margin that is needed to show equivalence of arms without a true difference, at the
            strictest level.
    """

    alone: float
    family: float
    equivalence: float


def sensitivity(seeds: int, declared: Declared) -> Sensitivity | None:
    """Return what a study's seeds can show.

    Args:
        seeds: how many pairs.
        declared: the confidence, and the family of contrasts.

    Returns:
        None for fewer than two seeds, which can show nothing.
    """
    if seeds < 2:
        return None
    alpha = round(1 - declared.confidence, 12)
    strict = alpha / len(declared.primary)
    top = 1.0
    while equivalence_power(seeds, 1.0, top, alpha=strict) < POWER:
        top *= 2
    margin = optimize.brentq(
        lambda margin: equivalence_power(seeds, 1.0, margin, alpha=strict) - POWER, 0.0, top, xtol=1e-6
    )
    return Sensitivity(detectable_effect(seeds, 1.0, alpha), detectable_effect(seeds, 1.0, strict), float(margin))
