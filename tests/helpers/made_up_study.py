"""A study whose trials are made up, so that every number is known."""

from __future__ import annotations

import json

import numpy as np

from weight_feedback.files import write_atomically
from weight_feedback.lab.store.store import DECLARATION, Record, Store
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Training

SIGNALS = ("none", "constant", "yoked", "own")
SEEDS = 8
EPOCHS = 3
STUDY = Study(
    name="made-up",
    title="Made up",
    data="generated",
    seeds=SEEDS,
    training=Training(epochs=EPOCHS),
    summary=Projected(k=2),
    arms=tuple(Arm(name=name, model="mnist-plain", label=f"{name} | <b>", signal=name) for name in SIGNALS),
    declared=Declared(primary=(("own", "none"), ("own", "yoked")), margin=0.5),
)
PROVENANCE = {
    "started": "2026-11-24T09:00:00+00:00",
    "host": "here",
    "machine": "x86_64",
    "device": "cpu",
    "threads": 1,
    "python": "3.13",
    "torch": "2.13.0",
    "numpy": "2.4",
    "weight_feedback": "0.1",
}
_random = np.random.default_rng(0)
#: Accuracy in percent, of arms × seeds (with two beyond the study's own) × epochs.
ACCURACY = np.sort(_random.normal([90.0, 95.0, 97.0], 0.2, (len(SIGNALS), SEEDS + 2, EPOCHS)), axis=2)
ACCURACY[SIGNALS.index("own")] += 1
LOSS = 3 - ACCURACY / 40
HEARINGS = _random.uniform(0, 1, (len(SIGNALS), SEEDS + 2, EPOCHS + 1, 3))


def record(trial: NetworkTrial, arm: str, epochs: int | None = None) -> Record:
    """Return what came out of a trial; with fewer epochs than the study's, it diverged."""
    i, seed = SIGNALS.index(arm), trial.seed
    planned = trial.planned_epochs
    epochs = planned if epochs is None else epochs
    result = {
        "trial": trial.settings(),
        "data": "0" * 64,
        "parameters": 9950 + 100 * (arm != "none"),
        "classes": 10,
        "step_losses": [2.0, 1.0],
        "epochs": [
            {"accuracy": float(a), "loss": float(loss), "correct": round(float(a))}
            for a, loss in zip(ACCURACY[i, seed, :epochs], LOSS[i, seed, :epochs], strict=True)
        ],
        "hearings": [
            dict(zip(("norm", "drift", "share"), map(float, values), strict=True))
            for values in HEARINGS[i, seed, : epochs + 1]
        ]
        if arm != "none"
        else [],
        "diverged": None if epochs == planned else 17,
        "weights": "0" * 64,
    }
    return Record(result, {**PROVENANCE, "seconds": 1.0 + i})


def declare(store: Store, study: Study = STUDY) -> Store:
    """Declare a study an hour before its made-up trials were begun."""
    store.declare(study)
    if study.declared is not None:
        path = store.folder / DECLARATION
        content = json.loads(path.read_bytes()) | {"declared": "2026-11-24T08:00:00+00:00"}
        write_atomically(path, json.dumps(content).encode())
    return store


def fill(store: Store, study: Study = STUDY, seeds: int = SEEDS) -> Store:
    """Declare a study, and keep a made-up record of every trial of it, and of every swap."""
    declare(store, study)
    for arm, trial in study.trials(seeds=seeds):
        store.write(trial, record(trial, arm.name))
    for arm, swap in study.swaps():
        trained = ACCURACY[SIGNALS.index(arm.name), swap.trial.seed, -1]
        drop = {"zeros": 2.0, "initial": 0.5, "other": 1.0}[swap.heard] + 0.1 * swap.trial.seed
        result = {"swap": swap.settings(), "data": "0" * 64, "accuracy": trained - drop, "loss": 1.0, "correct": 1}
        store.write(swap, Record(result, PROVENANCE))
    return store
