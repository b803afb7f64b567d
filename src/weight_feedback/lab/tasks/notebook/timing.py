"""What a trial of the notebook's networks costs, timed on a few of its steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from weight_feedback.lab.data import datasets
from weight_feedback.lab.tasks.notebook.building import build_cohort
from weight_feedback.lab.tasks.notebook.cohorts import as_one
from weight_feedback.lab.tasks.notebook.evaluation import evaluate_all, hear, heard
from weight_feedback.lab.tasks.notebook.graphs import recorder_for
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import count_parameters
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Training

#: Steps that are timed, after as many to warm up.
STEPS = 20
#: Test images whose evaluation is timed.
IMAGES = 1000


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
    trial: NetworkTrial, data: datasets.Dataset, where: torch.device, steps: int = STEPS, graphs: bool = True
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
        lockstep.train_epoch()

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
