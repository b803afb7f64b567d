"""What a study will take, before it is run: parameters, trials and time."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from weight_feedback.lab.data import datasets
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.trials import Trial
from weight_feedback.lab.tasks.notebook.cohorts import as_one
from weight_feedback.lab.tasks.notebook.evaluation import evaluate_all, hear, heard
from weight_feedback.lab.tasks.notebook.graphs import recorder_for
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import count_parameters
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.tasks.notebook.task import build_cohort, check_fit
from weight_feedback.lab.training.environment import choose_device, keep_freed_memory, thread_count
from weight_feedback.lab.training.loop import train

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


def plan(
    study: Study,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
) -> list[PlannedArm]:
    """Build each arm of a study, and time a few of its steps on one thread.

    Args:
        study: arms × seeds.
        arms: names of the arms to plan; default: all.
        seeds: another number of them than the study's.
        data_dir: where data files are looked for; see `datasets.load`.
        device: see `choose_device`.

    Returns:
        One entry an arm, in the study's order.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: an arm can't be run on these data, there is none of a name, or there are too few or too many
            seeds.
    """
    trials = Counter(arm.name for arm, _ in study.trials(arms, seeds))
    where = choose_device(device)
    keep_freed_memory()
    data = datasets.load(study.data, data_dir)
    planned = []
    for arm in [arm for arm in study.arms if arm.name in trials]:
        trial = study.trial(arm, study.first_seed)
        check_fit(trial, data)
        with thread_count(1):
            timed = time_trial(trial, data, where, STEPS)
        seconds = timed.seconds(study.training, len(data.train_labels), len(data.test_labels))
        planned.append(PlannedArm(arm.name, timed.parameters, trials[arm.name], seconds))
    return planned


@dataclass(frozen=True)
class Timed:
    """What a trial costs, timed on a few steps; of a cohort, each trial's share.

    Attributes:
        parameters: trainable numbers, exactly.
        step: seconds of a training step.
        image: seconds of evaluating a test image.
        hearing: seconds, once an epoch, of measuring what is heard.
    """

    parameters: int
    step: float
    image: float
    hearing: float

    def seconds(self, training: Training, images: int, test_images: int) -> float:
        """Return the seconds of a whole trial.

        Args:
            training: how long it is.
            images: in the training set.
            test_images: in the test set.
        """
        epoch = training.epoch_steps(images) * self.step + test_images * self.image + self.hearing
        return training.epochs * epoch


def time_trial(
    trial: Trial, data: datasets.Dataset, where: torch.device, steps: int = STEPS, graphs: bool = True
) -> Timed:
    """Build the networks of a trial, and time some of their steps, with the present number of threads.

    Args:
        trial: the settings.
        data: the data; a part of them is used.
        where: the device.
        steps: how many are timed, at most; each three times, after as many to warm up.
        graphs: whether a GPU replays the steps as a CUDA graph, as it does in a study; recording isn't timed.
    """
    images = min(steps * trial.training.batch_size, len(data.train_labels))
    part = replace(
        data,
        train_images=data.train_images[:images],
        train_labels=data.train_labels[:images],
        test_images=data.test_images[:IMAGES],
        test_labels=data.test_labels[:IMAGES],
    ).to(where)
    once, trials = trial.training.model_copy(update={"epochs": 1}), trial.cohort()
    epoch_steps = trial.training.epoch_steps(len(data.train_labels))
    models, donors = build_cohort(trials, epoch_steps, where)
    evaluation = _seconds(partial(evaluate_all, as_one(models), part, once.test_batch_size))
    hearing = _seconds(partial(hear, models[0], part, heard(models[0])))
    recorder = recorder_for(where) if graphs else None
    lockstep = Lockstep(models, part, once, [one.seed for one in trials], donors, recorder)

    def run() -> None:
        # The same networks again: a graph that is recorded in the first epoch is replayed in the others.
        lockstep.epoch, lockstep.histories = 0, [History() for _ in models]
        train(lockstep)

    run()
    # An epoch of training ends with an evaluation of its own, and what is heard is measured before it and after.
    epoch = _seconds(run) - evaluation - 2 * hearing * len(models)
    shared = len(models) * once.epoch_steps(images)
    image = evaluation / len(models) / len(part.test_labels)
    return Timed(count_parameters(models[0]), max(epoch, 0.0) / shared, image, hearing)


def _seconds(work: Callable[[], object]) -> float:
    """Return the median of three timings."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
