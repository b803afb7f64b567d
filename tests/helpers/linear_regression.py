"""A task by somebody else: linear regression by gradient descent, in NumPy alone."""

from __future__ import annotations

import numpy as np

from weight_feedback.lab.tasks.base import Context, Metric, Task
from weight_feedback.lab.tasks.fields import Frozen


class Settings(Frozen):
    """What arms may change."""

    lr: float = 0.1
    ridge: float = 0.0
    epochs: int = 5


class Weights:
    """What training changes."""

    def __init__(self, n: int) -> None:
        self.values = np.zeros(n)

    def state_dict(self) -> dict:
        return {"values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.values = state["values"].copy()


class Regression(Task):
    metrics = {"error": Metric("", "lower")}
    Settings = Settings

    def run(self, trial: Context) -> None:
        drawn, settings, weights = trial.rng("data"), trial.settings, Weights(3)
        x, true = drawn.normal(size=(100, 3)), np.array([1.0, -2.0, 0.5])
        for _ in trial.epochs(settings.epochs, weights=weights):
            y = x @ true + drawn.normal(size=100)  # fresh noise, so that the generator's state matters
            slope = x.T @ (x @ weights.values - y) / 100 + settings.ridge * weights.values
            weights.values = weights.values - settings.lr * slope
            trial.report(error=float(np.square(weights.values - true).sum()))


REGRESSION = Regression()
