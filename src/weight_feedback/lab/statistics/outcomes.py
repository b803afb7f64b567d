"""What came out of the arms of a study, and the outcome that its contrasts compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.statistics.estimates import Interval, best, final, mean_interval
from weight_feedback.lab.study.study import Arm, OutcomeName, Study


class Outcome(NamedTuple):
    """What is compared.

    Attributes:
        title: for headings.
        unit: of differences.
        more_is_better: False where less is.
        diverged: what a diverged trial counts as.
    """

    title: str
    unit: str
    more_is_better: bool
    diverged: str


OUTCOMES: dict[OutcomeName, Outcome] = {
    "final-accuracy": Outcome("final accuracy", "points", True, "as chance"),
    "area-under-curve": Outcome("mean accuracy over training", "points", True, "as chance from then on"),
    "epochs-to-threshold": Outcome(
        "epochs to {threshold:g} % accuracy",
        "epochs",
        False,
        "as one epoch more than there are, unless it had reached the threshold before",
    ),
    "final-loss": Outcome(
        "final test loss", "nats", False, "as the loss of a guess, the logarithm of the number of classes"
    ),
}


@dataclass(frozen=True)
class ArmResult:
    """What came out of one arm.

    From its divergence on, a trial counts as chance: accuracy ``100 / classes``, loss ``log(classes)``.

    Attributes:
        arm: of the study.
        parameters: trainable numbers; 0 without a finished trial.
        seeds: of the finished trials, in order.
        accuracy: on the test set, percent, shape ``[seeds, epochs]``.
        loss: on the test set, nats, shape ``[seeds, epochs]``.
        hearings: ``norm``, ``drift`` and ``share`` of what is heard, before the first step and after each epoch,
            shape ``[seeds, epochs + 1]``, NaN after a divergence; empty for an arm that hears nothing.
        seconds: wall time of each trial, shape ``[seeds]``.
        diverged: seed to the step at which it diverged.
        failed: seed to why the trial failed; such trials are missing from all arrays.
    """

    arm: Arm
    parameters: int
    seeds: tuple[int, ...]
    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    hearings: Mapping[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]
    diverged: Mapping[int, int] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def final(self) -> Interval:
        """Accuracy after the last epoch, percent."""
        return mean_interval(final(self.accuracy))

    @property
    def best(self) -> Interval:
        """Accuracy after the best epoch of each trial, percent."""
        return mean_interval(best(self.accuracy))

    @property
    def final_loss(self) -> Interval:
        """Test loss after the last epoch, nats."""
        return mean_interval(self.loss[:, -1])


def study_outcome(study: Study) -> Outcome:
    """Return what a study's contrasts compare.

    Args:
        study: with or without a declaration; without, it is final accuracy.
    """
    if study.declared is None:
        return OUTCOMES["final-accuracy"]
    outcome = OUTCOMES[study.declared.outcome]
    return outcome._replace(title=outcome.title.format(threshold=study.declared.threshold))
