"""Running the trials of one cohort: load the data, train, and make their records."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from weight_feedback.files import prepare, write_atomically
from weight_feedback.lab.data import datasets
from weight_feedback.lab.store.store import Record
from weight_feedback.lab.study.trials import Trial
from weight_feedback.lab.tasks.base import digest, weights_digest
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation
from weight_feedback.lab.tasks.notebook.graphs import recorder_for
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep, LoggedStep
from weight_feedback.lab.tasks.notebook.networks import ConvNet, count_parameters
from weight_feedback.lab.tasks.notebook.task import build_cohort, check_fit
from weight_feedback.lab.training.checkpoints import Checkpointer
from weight_feedback.lab.training.environment import (
    check_threads,
    choose_device,
    keep_freed_memory,
    provenance,
    surroundings,
    thread_count,
)
from weight_feedback.lab.training.loop import train


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=2)


@dataclass(frozen=True)
class Options:
    """How trials are run; their results don't depend on it.

    Bit for bit, that holds on one kind of machine, device and thread count, and one version of PyTorch; whether
    training was interrupted or not.
    """

    data_dir: Path | None = None
    """Where data files are looked for; see `datasets.load`."""
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
    on_log: Callable[[LoggedStep], None] | None = None
    """Called every ``log_interval`` steps with the step of the first network."""
    on_epoch: Callable[[int, Evaluation], None] | None = None
    """Called after each epoch that is trained here, with its number, from 1, and the evaluation of the first
    network that hasn't diverged."""
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
        ValueError: network and data don't fit together, there is no such network or device, there are no threads
            or far too many, or ``checkpoint_seconds`` isn't at least 0.
        OSError: weights or checkpoint can't be written there, which is said before training, or read.
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
    settings = trials[0]
    check_threads(options.threads)
    device = choose_device(options.device)
    keep_freed_memory()
    checkpointer = Checkpointer(options.checkpoint, options.checkpoint_seconds, options.on_note)
    data = datasets.load(settings.data, options.data_dir)
    check_fit(settings, data)
    _check_writable([*options.weights.values(), *([options.checkpoint] if options.checkpoint else [])])
    epoch_steps = settings.training.epoch_steps(len(data.train_labels))
    with thread_count(options.threads):  # building as well: there, projections are calibrated
        here = surroundings(device)
        models, donors = build_cohort(trials, epoch_steps, device)
        seeds = [trial.seed for trial in trials]
        lockstep = Lockstep(models, data.to(device), settings.training, seeds, donors, recorder_for(device))
        same = {"settings": digest([trial.settings() for trial in trials]), "data": data.fingerprint, **here}
        checkpointer.resume(lockstep, same)
        train(lockstep, options.on_epoch, options.on_log, checkpointer.keep)
    about = {
        "started": checkpointer.started,
        "seconds": round(checkpointer.seconds / len(trials), 3),  # each trial's share
        "resumed": checkpointer.resumed,
        **provenance(here),
    }
    records = []
    for trial, model, history in zip(trials, models, lockstep.histories, strict=True):
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        if trial in options.weights:
            header = {"network": trial.model, "data": trial.data, "seed": str(trial.seed)}
            write_atomically(options.weights[trial], save(state, header))
        records.append(Record(_result(trial, data.fingerprint, model, history, state), about))
    return records


def _result(
    trial: Trial, fingerprint: str, model: ConvNet, history: History, state: Mapping[str, Tensor]
) -> dict[str, Any]:
    subspace = trial.training.subspace
    return {
        "trial": trial.settings(),
        "data": fingerprint,
        "parameters": subspace.dimensions if subspace else count_parameters(model),
        "classes": model.fc2.out_features,
        **asdict(history),
        "weights": weights_digest({name: value.cpu().numpy() for name, value in state.items()}),
    }


def _check_writable(files: Sequence[Path]) -> None:
    """Raise now what writing these files would raise after hours of training."""
    for file in files:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "expected a file, found a directory", str(file))
        try:
            prepare(file.parent)
        except OSError as error:  # of a file beside it, which nobody asked for
            raise OSError(error.errno, error.strerror, str(file)) from error
