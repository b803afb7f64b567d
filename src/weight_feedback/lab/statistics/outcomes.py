"""What came out of the arms of a study, and the outcome that its contrasts compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.statistics.estimates import (
    Interval,
    area_under_curve,
    at_best_of,
    best,
    final,
    first_past,
    mean_interval,
    mean_of_last,
)
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.tasks.base import Metric

Curves = Mapping[str, NDArray[np.float64]]

#: What a best value on the data that judge it is marked as, wherever it is shown.
OPTIMISTIC = "optimistic"


class Outcome(NamedTuple):
    """What is compared.

    Attributes:
        title: for headings.
        unit: of its values.
        differences: unit of differences.
        more_is_better: False where less is.
        epochs: whether it counts epochs, up to one more than there are.
        note: what readers should know of it; empty if there is nothing.
        of: from curves, metric to values of shape ``[seeds, epochs]``, to values of shape ``[seeds]``.
    """

    title: str
    unit: str
    differences: str
    more_is_better: bool
    epochs: bool
    note: str
    of: Callable[[Curves], NDArray[np.float64]]


@dataclass(frozen=True)
class ArmResult:
    """What came out of one arm.

    From its divergence on, a trial counts as its metrics say: NaN where they say nothing.

    Attributes:
        arm: of the study.
        seeds: of the finished trials, in order.
        curves: metric to values, shape ``[seeds, epochs]``; NaN where a trial didn't report it.
        diagnostics: name to values, before the first epoch and after each, shape ``[seeds, epochs + 1]``; NaN after
            a divergence.
        seconds: wall time of each trial, shape ``[seeds]``.
        facts: name to a number that all its trials have, such as how many are trained.
        diverged: seed to when it diverged.
        counts: metric to the values that diverged trials count as.
        failed: seed to why the trial failed; such trials are missing from all arrays.
        data: the data and code that its trials come from: names and fingerprints.
    """

    arm: Arm
    seeds: tuple[int, ...]
    curves: Curves
    diagnostics: Mapping[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]
    facts: Mapping[str, Any] = field(default_factory=dict)
    diverged: Mapping[int, str] = field(default_factory=dict)
    counts: Mapping[str, frozenset[float]] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    data: frozenset[tuple[str, str]] = frozenset()

    @property
    def epochs(self) -> int:
        """How many epochs its trials have, or would have had."""
        return next(iter(self.curves.values())).shape[1] if self.curves else 0


def mean_there(values: NDArray[np.float64]) -> tuple[Interval, int]:
    """Return the mean of the values that are there, with its interval, and how many they are.

    Args:
        values: shape ``[seeds]``; NaN where there is none.
    """
    there = values[~np.isnan(values)]
    return (mean_interval(there) if there.size else Interval(math.nan, math.nan, math.nan)), there.size


def study_outcome(study: Study) -> Outcome:
    """Return what a study's contrasts compare.

    Args:
        study: with or without a declaration; without, it is the final value of its first metric.
    """
    declared, name = study.declared, study.judged
    metric = study.reported[name]
    label, higher = study.label(name), metric.better == "higher"
    kind = declared.outcome if declared else "final"
    more, epochs, note = higher, False, ""
    unit, differences = metric.unit, metric.differences
    of: Callable[[Curves], NDArray[np.float64]]
    if declared is None or kind == "final":
        title, of = f"final {label}", lambda curves: final(curves[name])
    elif kind == "mean-of-last":
        last = declared.last or 1
        title, of = f"mean {label} of the last {last} epochs", lambda curves: mean_of_last(curves[name], last)
    elif kind == "best":
        title, of = f"best {label} ({OPTIMISTIC})", lambda curves: best(curves[name], higher)
        note = (
            f"The best epoch is chosen by the very values that are compared, so that {label} is {OPTIMISTIC}: more "
            "epochs, or noisier ones, make it look better."
        )
    elif kind == "at-best-of":
        other = declared.of or name
        reference = study.reported[other]
        title = f"{label} at the epoch of the best {study.label(other)}"
        of = lambda curves: at_best_of(curves[name], curves[other], reference.better == "higher")  # noqa: E731
    elif kind == "area":
        title, of = f"mean {label} over training", lambda curves: area_under_curve(curves[name])
    else:
        threshold = declared.threshold or 0.0
        title = f"epochs to {with_unit(f'{threshold:g}', unit)} {label}"
        of, more, epochs = (lambda curves: first_past(curves[name], threshold, higher)), False, True
        unit = differences = "epochs"
    return Outcome(title, unit, differences, more, epochs, note, of)


def diverged_counts(study: Study, arms: Sequence[ArmResult]) -> str:
    """Return what a diverged trial counts as in a study's outcome, as text that follows "counts".

    Args:
        study: the study.
        arms: what came out of them.
    """
    name = study.judged
    metric = study.reported[name]
    values = sorted(set().union(*(arm.counts.get(name, frozenset()) for arm in arms)))
    if not values:
        values = [] if metric.diverged is None else [metric.diverged]
    if not values:
        return "as a missing pair"
    value = " or ".join(with_unit(f"{value:.4g}", metric.unit) for value in values)
    if study.declared is not None and study.declared.outcome == "first-past":
        return "as one epoch more than there are, unless it had reached the threshold before"
    return f"as {study.label(name)} of {value} from then on"


def headed(title: str, unit: str) -> str:
    """Return what a column or an axis is called.

    Args:
        title: of its numbers.
        unit: of them; empty for none.
    """
    return f"{title}, {unit}" if unit else title


def with_unit(text: str, unit: str) -> str:
    """Return a number with its unit, if it has one.

    Args:
        text: the number.
        unit: of a metric.
    """
    return f"{text} {unit}" if unit else text


def digits_of(metric: Metric, values: Sequence[NDArray[np.float64]]) -> int:
    """Return how many digits after the point show a metric's values, of which the smallest gets four in all.

    Args:
        metric: whose values they are.
        values: of all arms.
    """
    if metric.digits is not None:
        return metric.digits
    sizes = np.abs(np.concatenate([np.ravel(one) for one in values])) if values else np.empty(0)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return max(0, 3 - math.floor(math.log10(np.median(sizes)))) if sizes.size else 3
