"""Trials of three short epochs that are interrupted, and what is left of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from weight_feedback.lab.data import datasets
from weight_feedback.lab.store.store import Record
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Training
from weight_feedback.lab.training.run import Options, run_cohort

TRAINING = Training(epochs=3, batch_size=32, lr=0.05)
STEPS = 3


@functools.cache
def few_images() -> datasets.Dataset:
    """So few images that an epoch is `STEPS` steps: of 32, 32 and 16."""
    data = datasets.load("generated")
    return replace(
        data,
        train_images=data.train_images[:80],
        train_labels=data.train_labels[:80],
        test_images=data.test_images[:40],
        test_labels=data.test_labels[:40],
    )


class Cut(Exception):  # noqa: N818 - an interruption, not an error
    """Training is cut short here."""


def make(signal: str | None = "own", *, training: dict | None = None, **changes) -> NetworkTrial:
    fields = {
        "data": "generated",
        "training": TRAINING.model_copy(update=training or {}),
        "model": "mnist-plain",
        "signal": signal,
        "summary": Projected(k=8) if signal else None,
        "seed": 2,
    }
    return NetworkTrial(**(fields | changes))


def run(one: NetworkTrial, path: Path | None = None, **options) -> list[Record]:
    return run_cohort(one.cohort(), Options(checkpoint=path, **({"checkpoint_seconds": 0, "threads": 1} | options)))


def results(records: list[Record]) -> list[dict]:
    return [record.result for record in records]


def cut(one: NetworkTrial, path: Path, epoch: int = 1, **options) -> None:
    """Train from where the checkpoint is, and be interrupted after an epoch."""

    def interrupt(finished: int, _: Mapping[str, float]) -> None:
        if finished == epoch:
            raise Cut

    with pytest.raises(Cut):
        run(one, path, on_epoch=interrupt, **options)


def bits(lockstep: Lockstep) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in lockstep.tensors().items()}
