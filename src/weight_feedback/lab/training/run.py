"""Running the trials of one cohort: give the task a context of each, let it train, and make their records."""

from __future__ import annotations

import errno
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weight_feedback.files import prepare
from weight_feedback.lab.store.store import Record
from weight_feedback.lab.tasks.base import Metric, Task, Trial
from weight_feedback.lab.tasks.fields import digest
from weight_feedback.lab.tasks.loading import find_task
from weight_feedback.lab.training.checkpoints import Checkpointer
from weight_feedback.lab.training.context import EnoughError, Rehearsal, TrialContext, seed_everything
from weight_feedback.lab.training.environment import (
    check_threads,
    choose_device,
    keep_freed_memory,
    provenance,
    surroundings,
    thread_count,
)


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=2)


@dataclass(frozen=True)
class Options:
    """How trials are run; their results don't depend on it.

    Bit for bit, that holds on one kind of machine, device and thread count, and one version of PyTorch; whether
    training was interrupted or not.
    """

    data_dir: Path | None = None
    """Where data files are looked for; None: where the task looks by itself."""
    device: str = "auto"
    """See `choose_device`."""
    threads: int | None = None
    """Of PyTorch; default: as it is."""
    weights: Mapping[Trial, Path] = field(default_factory=dict)
    """A file for the trained weights of any of the trials, in the safetensors format."""
    checkpoint: Path | None = None
    """A file that keeps how far training is, of all trials of a cohort. If it is there, training goes on from it;
    if it can't be used, being damaged or of other settings, data, machine or software, it is moved aside. Removing
    it is the caller's, once the records are safe. Default: training that is interrupted starts over."""
    checkpoint_seconds: float = 60.0
    """At the end of an epoch, the checkpoint is written if it is this long since it last was, or the start."""
    metrics: Mapping[str, Metric] | None = None
    """Metrics that may be reported; default: those that the task knows."""
    scratch: Path | None = None
    """Where trials' own folders are made; default: the system's place for what is temporary."""
    on_log: Callable[[Any], None] | None = None
    """Called with what the task says within an epoch."""
    on_epoch: Callable[[int, Mapping[str, float]], None] | None = None
    """Called after each epoch that is trained here, with its number, from 1, and what the first trial reported in
    it."""
    on_note: Callable[[str], None] = _warn
    """Called with a line for people when a checkpoint can't be used or written; default: a warning."""


def run_trial(trial: Trial, options: Options = Options()) -> Record:
    """Run one trial, with the others of its cohort if it has one; its result depends on ``trial`` alone.

    Args:
        trial: the settings.
        options: how it is run.

    Returns:
        The record of the trial.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: settings and data don't fit together, there is no such device, there are no threads or far too
            many, or ``checkpoint_seconds`` isn't at least 0.
        OSError: weights or checkpoint can't be written there, which is said before training, or read.
        Exception: what the task raises.
    """
    trials = trial.cohort()
    return run_cohort(trials, options)[trials.index(trial)]


def run_cohort(trials: Sequence[Trial], options: Options = Options()) -> list[Record]:
    """Run the trials of one cohort; see `run_trial`.

    Args:
        trials: all of a cohort, as `Trial.cohort` returns them.
        options: how they are run.

    Returns:
        The records, one a trial.

    Raises:
        DataError: see `run_trial`.
        ValueError: see `run_trial`.
        OSError: see `run_trial`.
    """
    with _training(trials, options) as (task, contexts, checkpointer, data, here):
        returned = None
        if len(contexts) == 1:
            returned = task.run(contexts[0])
        else:
            task.run_together(contexts)
    about = {
        "started": checkpointer.started,
        "seconds": round(checkpointer.seconds / len(trials), 3),  # each trial's share
        "resumed": checkpointer.resumed,
        **provenance(here),
    }
    return [
        Record(task.result(trial, data, context.finish(returned), context.kept), about)
        for trial, context in zip(trials, contexts, strict=True)
    ]


def rehearse(trial: Trial, options: Options, epochs: int) -> Rehearsal:
    """Run a trial as `run_trial` does, and leave it after some epochs; nothing of it is kept.

    Args:
        trial: of a task that trains it alone.
        options: how it is run; of a checkpoint it goes on.
        epochs: how many; a task without a loop over epochs goes to its end.

    Returns:
        What can be compared of it.

    Raises:
        Exception: see `run_trial`.
    """
    with _training([trial], options, epochs) as (task, (context,), _, _, _):
        returned = None
        with suppress(EnoughError):
            returned = task.run(context)
        if returned is not None:
            context.finish(returned)
        return context.so_far()


@contextmanager
def _training(
    trials: Sequence[Trial], options: Options, stop_after: int | None = None
) -> Iterator[tuple[Task, list[TrialContext], Checkpointer, dict[str, str], dict[str, str | int]]]:
    """Make the contexts of a cohort's trials, seeded and ready to be run, and clear what was theirs afterwards."""
    task = find_task(trials[0].task)
    check_threads(options.threads)
    device = choose_device(options.device)
    keep_freed_memory()
    task.check([trials[0]], options.data_dir)
    data = task.fingerprint(trials[0], options.data_dir)
    _check_writable([*options.weights.values(), *([options.checkpoint] if options.checkpoint else [])])
    with thread_count(options.threads), random_state_kept():  # building as well: there, projections are calibrated
        here = surroundings(device)
        same = {
            "settings": digest([trial.settings() for trial in trials]),
            "data": next(iter(data.values())) if len(data) == 1 else digest(data),
            **here,
        }
        checkpointer = Checkpointer(options.checkpoint, options.checkpoint_seconds, same, options.on_note)
        contexts = [
            TrialContext(
                trial,
                task.settings_of(trial),
                device,
                options.data_dir,
                options.weights.get(trial),
                checkpointer,
                task.metrics if options.metrics is None else options.metrics,
                *((options.on_epoch, options.on_log) if trial is trials[0] else (None, None)),
                options.scratch,
                stop_after,
            )
            for trial in trials
        ]
        seed_everything(trials[0].seed, 0)
        try:
            yield task, contexts, checkpointer, data, here
        finally:
            for context in contexts:
                context.clear()


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the random state of PyTorch, NumPy and Python as it was before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - that of others
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def _check_writable(files: Sequence[Path]) -> None:
    """Raise now what writing these files would raise after hours of training."""
    for file in files:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "expected a file, found a directory", str(file))
        try:
            prepare(file.parent)
        except OSError as error:  # of a file beside it, which nobody asked for
            raise OSError(error.errno, error.strerror, str(file)) from error
