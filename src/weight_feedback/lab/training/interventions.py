"""Swaps: what a trained network is worth when, in evaluation alone, it hears something else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch

from weight_feedback.fold import fold
from weight_feedback.lab.data import datasets
from weight_feedback.lab.store.store import Record, Store, read_record
from weight_feedback.lab.store.weights import read_weights
from weight_feedback.lab.study.trials import Swap, Trial
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.evaluation import evaluate, heard
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.training.environment import choose_device, provenance, surroundings


def possible(swap: Swap, store: Store) -> bool:
    """Say whether the weights that a swap needs are there, of networks that didn't diverge.

    Args:
        swap: the settings.
        store: what is finished.
    """
    records = [(store.read(trial), store.weights(trial)) for trial in _networks(swap)]
    return all(record and record.result["diverged"] is None and file.is_file() for record, file in records)


@torch.no_grad()
def run_swap(swap: Swap, store: Store, *, data_dir: Path | None = None, device: str = "auto") -> Record:
    """Evaluate a trained network with something else in place of what it hears.

    Args:
        swap: the settings.
        store: holds the final weights.
        data_dir: where data files are looked for; see `datasets.load`.
        device: see `choose_device`.

    Returns:
        Loss, correct count and accuracy.

    Raises:
        StoreError: weights are damaged.
        OSError: weights can't be read.
        DataError: the data are missing or damaged.
    """
    where = choose_device(device)
    data = datasets.load(swap.trial.data, data_dir)
    epoch_steps = swap.trial.training.epoch_steps(len(data.train_labels))
    model, *others = (_trained(trial, store, epoch_steps) for trial in _networks(swap))
    z = heard(others[0] if others else build_arm(swap.trial, epoch_steps))
    assert z is not None  # only networks with a signal are swapped
    plain = cast(ConvNet, fold(model, torch.zeros_like(z) if swap.heard == "zeros" else z))
    result = evaluate(plain.to(where), data.to(where), swap.trial.training.test_batch_size)
    content = {"swap": swap.settings(), "data": data.fingerprint, **asdict(result)}
    return Record(content, provenance(surroundings(where)))


def _networks(swap: Swap) -> list[Trial]:
    others = [] if swap.other is None else [swap.trial.model_copy(update={"seed": swap.other})]
    return [swap.trial, *others]


def _trained(trial: Trial, store: Store, epoch_steps: int) -> ConvNet:
    """Rebuild a network with its final weights, on the CPU."""
    model = build_arm(trial, epoch_steps)
    weights = read_weights(store.weights(trial), read_record(store.path(trial)))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model
