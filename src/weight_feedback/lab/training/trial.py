"""One trial: build a network, train it, and say what came out and where it was run."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import platform
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import weight_feedback
from weight_feedback.files import prepare, write_atomically
from weight_feedback.lab.data import datasets
from weight_feedback.lab.store.store import Record, StoreError
from weight_feedback.lab.study.trials import Trial
from weight_feedback.lab.tasks.base import digest
from weight_feedback.lab.tasks.notebook.arms import build_arm, build_donor, reads, summary, tell
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation
from weight_feedback.lab.tasks.notebook.graphs import recorder_for
from weight_feedback.lab.tasks.notebook.networks import ConvNet, Network, count_parameters, find_network
from weight_feedback.lab.tasks.notebook.settings import Pooled, Subspace, Summarised
from weight_feedback.lab.training.checkpoints import Checkpointer
from weight_feedback.lab.training.loop import Donor, History, Lockstep, Progress
from weight_feedback.signals import OwnWeights

#: Of PyTorch; far more than any machine has cores, and few enough to be started.
MOST_THREADS = 1024


def choose_device(device: str = "auto") -> torch.device:
    """Return the device to train on.

    Args:
        device: ``"auto"`` takes CUDA where there is one, else the CPU; or a name that PyTorch knows.

    Returns:
        The device.

    Raises:
        ValueError: PyTorch doesn't know the name, or the machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: expected auto, cpu, cuda or another device of this machine, got {device!r} "
                         f"({reason})") from None  # fmt: skip
    return chosen


def run_trial(
    trial: Trial,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    weights: Path | None = None,
    on_log: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_note: Callable[[str], None] | None = None,
) -> Record:
    """Run one trial, with the others of its cohort if it has one; its result depends on ``trial`` alone.

    Bit for bit, that holds on one kind of machine, device and thread count, and one version of PyTorch; whether
    training was interrupted or not.

    Args:
        trial: the settings.
        data_dir: where data files are looked for; see `datasets.load`.
        device: see `choose_device`.
        threads: of PyTorch within this trial; default: as it is.
        weights: a file for the trained weights, in the safetensors format; default: they aren't kept.
        on_log: called while training; see `train_cohort`.
        on_epoch: called after each epoch that is trained here; see `train_cohort`.
        checkpoint: a file that keeps how far training is. If it is there, training goes on from it; if it can't
            be used, being damaged or of other settings, data, machine or software, it is moved aside. Removing it
            is the caller's, once the record is safe. Default: training that is interrupted starts over.
        checkpoint_seconds: at the end of an epoch, the checkpoint is written if it is that long since it last was,
            or since the start.
        on_note: called with a line for people when a checkpoint can't be used or written; default: a warning.

    Returns:
        The record of the trial.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: network and data don't fit together, there is no such network or device, there are no threads
            or far too many, or ``checkpoint_seconds`` isn't at least 0.
        OSError: weights or checkpoint can't be written there, which is said before training, or read.
    """
    trials = trial.cohort()
    records = run_cohort(
        trials,
        data_dir=data_dir,
        device=device,
        threads=threads,
        weights={trial: weights} if weights else {},
        on_log=on_log,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        on_note=on_note,
    )
    return records[trials.index(trial)]


def run_cohort(
    trials: Sequence[Trial],
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    weights: Mapping[Trial, Path] | None = None,
    on_log: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_note: Callable[[str], None] | None = None,
) -> list[Record]:
    """Run the trials of one cohort, as `Trial.cohort` returns them; see `run_trial`.

    Args:
        trials: all of a cohort.
        data_dir: see `run_trial`.
        device: see `run_trial`.
        threads: see `run_trial`.
        weights: a file for the trained weights of any of the trials.
        on_log: see `run_trial`.
        on_epoch: see `run_trial`.
        checkpoint: see `run_trial`; one file for all of them.
        checkpoint_seconds: see `run_trial`.
        on_note: see `run_trial`.

    Returns:
        The records, one a trial.

    Raises:
        DataError: see `run_trial`.
        ValueError: see `run_trial`.
        OSError: see `run_trial`.
    """
    trial, weights = trials[0], weights or {}
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads: expected 1 to {MOST_THREADS}, got {threads}")
    where = choose_device(device)
    keep_freed_memory()
    kept = Checkpointer(checkpoint, checkpoint_seconds, on_note or _warn)
    data = datasets.load(trial.data, data_dir)
    check_fit(trial, data)
    _check_writable([*weights.values(), *([checkpoint] if checkpoint else [])])
    epoch_steps = trial.training.epoch_steps(len(data.train_labels))
    with thread_count(threads):  # building as well: there, projections are calibrated
        here = surroundings(where)
        models, donors = build_cohort(trials, epoch_steps, where)
        seeds, recorder = [one.seed for one in trials], recorder_for(where)
        lockstep = Lockstep(models, data.to(where), trial.training, seeds, donors, recorder)
        settings = digest([one.settings() for one in trials])
        kept.resume(lockstep, {"settings": settings, "data": data.fingerprint, **here})
        histories = lockstep.train(on_epoch, on_log, kept.keep)
    seconds = round(kept.seconds / len(trials), 3)  # each trial's share
    about = {"started": kept.started, "seconds": seconds, "resumed": kept.resumed, **provenance(here)}
    states = [{name: value.contiguous() for name, value in model.state_dict().items()} for model in models]
    for one, state in zip(trials, states, strict=True):
        if one in weights:
            header = {"network": one.model, "data": one.data, "seed": str(one.seed)}
            write_atomically(weights[one], save(state, header))
    return [
        Record(_result(one, data, model, history, state), about)
        for one, model, history, state in zip(trials, models, histories, states, strict=True)
    ]


def _result(
    trial: Trial, data: datasets.Dataset, model: ConvNet, history: History, state: dict[str, Tensor]
) -> dict[str, Any]:
    subspace = trial.training.subspace
    return {
        "trial": trial.settings(),
        "data": data.fingerprint,
        "parameters": subspace.dimensions if subspace else count_parameters(model),
        "classes": model.fc2.out_features,
        **asdict(history),
        "weights": weights_digest(state),
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


def _warn(note: str) -> None:
    warnings.warn(note, stacklevel=2)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for what is allocated next, in place of handing it back to the system.

    A training step frees and allocates the same megabytes each time; fetching them anew costs thousands of page
    faults. It changes no result. Elsewhere, nothing happens.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold, size = -1, -3, 2**30  # as in malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, size)
        libc.mallopt(trim_threshold, size)


def build_networks(trial: Trial, epoch_steps: int, device: torch.device) -> tuple[ConvNet, Donor | None]:
    """Build the counted network of a trial and, if it is yoked, its donor.

    Args:
        trial: the settings.
        epoch_steps: optimiser steps in an epoch.
        device: where to.
    """
    model, donor = build_arm(trial, epoch_steps), None
    if trial.signal == "yoked":
        other, seed, listener = build_donor(trial, model, epoch_steps)
        told = partial(tell, other, listener.to(device), model) if listener else None
        donor = Donor(other.to(device), seed, told)
    return model.to(device), donor


def build_cohort(
    trials: Sequence[Trial], epoch_steps: int, device: torch.device
) -> tuple[list[ConvNet], list[Donor]]:
    """Build the counted networks of a cohort's trials and, if they are yoked, their donors.

    Args:
        trials: all of a cohort.
        epoch_steps: optimiser steps in an epoch.
        device: where to.
    """
    networks = [build_networks(trial, epoch_steps, device) for trial in trials]
    return [model for model, _ in networks], [donor for _, donor in networks if donor]


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return the hex SHA-256 digest of names, types, shapes and values of tensors.

    Args:
        state: name to contiguous tensor; the order doesn't matter.
    """
    # Without metadata, whose order in a safetensors file is random.
    return hashlib.sha256(save(state)).hexdigest()


def read_weights(path: Path, record: Record) -> dict[str, Tensor]:
    """Read the final weights of a trial, and check that they are those of its record.

    Args:
        path: of the safetensors file.
        record: of the trial.

    Raises:
        OSError: the file can't be read.
        StoreError: it is damaged, or holds other weights.
    """
    content = path.read_bytes()
    try:
        state = load(content)
    except SafetensorError:
        state = {}
    if weights_digest(state) != record.result["weights"]:
        raise StoreError(f"{path}: not the weights of the trial's record; delete both to run the trial again")
    return state


def provenance(here: Mapping[str, Any]) -> dict[str, Any]:
    """Return where and with what a result is made.

    Args:
        here: what `surroundings` returned there.
    """
    return {
        "host": socket.gethostname(),
        **here,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }


def surroundings(device: torch.device) -> dict[str, str | int]:
    """Return what bits depend on besides settings and data: kind of machine, device, threads and software.

    Args:
        device: of the computation.
    """
    return {
        "machine": platform.machine(),
        "processor": processor(device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "weight_feedback": weight_feedback.__version__,
    }


def processor(device: torch.device) -> str:
    """Return the name of the model of GPU or CPU; empty where the system doesn't tell.

    Args:
        device: either.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor()


def check_fit(trial: Trial, data: datasets.Dataset) -> None:
    """Check that network, settings and data fit together, before any time is spent.

    Args:
        trial: the settings.
        data: the data.

    Raises:
        ValueError: there is no such network, the images have another shape than it takes, a batch is larger than
            the data, or the summary doesn't fit the weights that it reads.
    """
    network = find_network(trial.model)
    takes, shape = (network.channels[0], network.side, network.side), tuple(data.train_images.shape[1:])
    if shape != takes:
        raise ValueError(
            f"network {trial.model}: expected images of shape {takes}, but those of {trial.data} are {shape}"
        )
    if trial.signal is not None and network.k:
        raise ValueError(
            f"arms.signal: {trial.signal!r} needs a plain network, but {trial.model} has its own feedback"
        )
    if trial.summary is not None:
        _check_summary(trial.summary, network)
    if trial.training.subspace is not None:
        _check_subspace(trial.training.subspace, trial, network)
    images = len(data.train_images)
    if trial.training.batch_size > images:
        raise ValueError(
            f"training.batch_size: must be at most the {images} training images of {trial.data}, "
            f"got {trial.training.batch_size}"
        )


def _check_subspace(settings: Subspace, trial: Trial, network: Network) -> None:
    with torch.device("meta"):
        plain = ConvNet(network.channels, network.side, network.hidden)
    hears = network.k if trial.signal is None else settings.dimensions * (trial.signal != "none")
    sides = 2 if trial.conditioning == "film" else 1
    settings.check_fit(count_parameters(plain) + hears * network.hidden * sides)


def _check_summary(settings: Summarised, network: Network) -> None:
    with torch.device("meta"):
        read = reads(ConvNet(network.channels, network.side, network.hidden))
    settings.check_fit(sum(one.tensor().numel() for one in read))
    if isinstance(settings, Pooled):  # it costs nothing to make, and says itself what doesn't fit
        try:
            OwnWeights(read, summary(settings, 0))
        except ValueError as error:
            raise ValueError(f"summary.kernels: {error}") from None


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Set PyTorch's thread count for a while.

    Args:
        threads: how many; None changes nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
