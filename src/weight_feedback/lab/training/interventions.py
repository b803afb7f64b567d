"""Swaps: what a trained model is worth when, in evaluation alone, something of it is replaced."""

from __future__ import annotations

from pathlib import Path

from weight_feedback.lab.store.store import Record, Store, read_record
from weight_feedback.lab.store.weights import read_weights
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.loading import find_task, reading
from weight_feedback.lab.training.environment import choose_device, provenance, surroundings


def possible(swap: Swap, store: Store) -> bool:
    """Say whether the weights that a swap needs are there, of models that didn't diverge.

    Args:
        swap: the settings.
        store: what is finished.
    """
    task = reading(swap.trial.task)
    records = [(store.read(trial), store.weights(trial)) for trial in _models(swap)]
    return all(record and not task.measured(record.result).diverged and file.is_file() for record, file in records)


def run_swap(swap: Swap, store: Store, *, data_dir: Path | None = None, device: str = "auto") -> Record:
    """Evaluate a trained model under something else.

    Args:
        swap: the settings.
        store: holds the final weights.
        data_dir: where data files are looked for.
        device: see `choose_device`.

    Returns:
        Metrics by name.

    Raises:
        StoreError: weights are damaged.
        OSError: weights can't be read.
        DataError: the data are missing or damaged.
    """
    where, task = choose_device(device), find_task(swap.trial.task)
    data = task.fingerprint(swap.trial, data_dir)
    models = [
        (trial, read_weights(store.weights(trial), read_record(store.path(trial)))) for trial in _models(swap)
    ]
    values = task.evaluate_under(swap.heard, models, data_dir, where)
    return Record(task.result_under(swap.settings(), data, values), provenance(surroundings(where)))


def _models(swap: Swap) -> list[Trial]:
    others = [] if swap.other is None else [swap.trial.model_copy(update={"seed": swap.other})]
    return [swap.trial, *others]
