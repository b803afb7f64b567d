"""One trial: build a network, train it, and say what came out and where it was run."""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import weight_feedback
from weight_feedback.lab import datasets
from weight_feedback.lab.controls import build_arm, build_donor, tell
from weight_feedback.lab.models import ConvNet, count_parameters, find_network
from weight_feedback.lab.settings import Trial
from weight_feedback.lab.store import Record, StoreError, write_atomically
from weight_feedback.lab.training import Donor, Evaluation, Progress, train


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
) -> Record:
    """Run one trial; its result depends on ``trial`` alone.

    Bit for bit, that holds on one kind of machine, device and thread count, and one version of PyTorch.

    Args:
        trial: the settings.
        data_dir: where data files are looked for; see `datasets.load`.
        device: see `choose_device`.
        threads: of PyTorch within this trial; default: as it is.
        weights: a file for the trained weights, in the safetensors format; default: they aren't kept.
        on_log: called while training; see `train`.
        on_epoch: called after each epoch; see `train`.

    Returns:
        The record of the trial.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: network and data don't fit together, or there is no such network or device.
        OSError: the weights can't be written there.
    """
    where = choose_device(device)
    started, clock = datetime.now(UTC), time.perf_counter()
    data = datasets.load(trial.data, data_dir)
    check_fit(trial, data)
    if weights is not None:  # now, not after hours of training
        weights.parent.mkdir(parents=True, exist_ok=True)
        with weights.open("ab") as file:
            empty = file.tell() == 0
        if empty:
            weights.unlink()
    epoch_steps = trial.training.epoch_steps(len(data.train_labels))
    model, donor = build_networks(trial, epoch_steps, where)
    with thread_count(threads):
        history = train(model, data.to(where), trial.training, trial.seed, on_log, on_epoch, donor)
        used_threads = torch.get_num_threads()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if weights is not None:
        about = {"network": trial.model, "data": trial.data, "seed": str(trial.seed)}
        write_atomically(weights, save(state, about))
    return Record(
        result={
            "trial": trial.settings(),
            "data": data.fingerprint,
            "parameters": count_parameters(model),
            "classes": model.fc2.out_features,
            **asdict(history),
            "weights": weights_digest(state),
        },
        provenance={
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            **provenance(where),
            "threads": used_threads,
        },
    )


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
        donor = Donor(other.to(device), seed, partial(tell, other, listener.to(device), model))
    return model.to(device), donor


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


def provenance(device: torch.device) -> dict[str, Any]:
    """Return where and with what a result is made.

    Args:
        device: of the computation.
    """
    return {
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "weight_feedback": weight_feedback.__version__,
    }


def check_fit(trial: Trial, data: datasets.Dataset) -> None:
    """Check that network, settings and data fit together, before any time is spent.

    Args:
        trial: the settings.
        data: the data.

    Raises:
        ValueError: there is no such network, the images have another shape than it takes, or a batch is larger
            than the data.
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
    images = len(data.train_images)
    if trial.training.batch_size > images:
        raise ValueError(
            f"training.batch_size: must be at most the {images} training images of {trial.data}, "
            f"got {trial.training.batch_size}"
        )


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
