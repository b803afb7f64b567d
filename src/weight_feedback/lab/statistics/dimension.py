"""How many dimensions a task needs (Li et al. 2018, arXiv:1804.08838): from a metric alone, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weight_feedback.lab.statistics.estimates import check_confidence

RESAMPLES = 2_000
"""Bootstrap resamples behind an interval."""
# Percentages are of up to 100, with rounding errors of 1e-14; means that agree to this are equal.
_ROUNDING = 1e-9


class Dimension(NamedTuple):
    """The least dimensions with which a threshold is reached, with an interval.

    Attributes:
        value: the estimate; 0 if the smallest subspace reaches it already, infinity if the largest one doesn't.
        low: lower end of the interval, likewise; NaN if no size of subspace has two seeds.
        high: upper end, likewise.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What was measured in subspaces of several sizes, and what follows.

    Attributes:
        values: dimensions, smallest first, to the metric, sorted, shape ``[seeds]``.
        fitted: the monotone fit, shape ``[len(values)]``.
        threshold: of the metric.
        confidence: of the interval.
        dimension: the estimate.
    """

    values: dict[int, NDArray[np.float64]]
    fitted: NDArray[np.float64]
    threshold: float
    confidence: float
    dimension: Dimension

    def text(self, value: float) -> str:
        """Return dimensions as text; those outside of what was measured as a bound.

        Args:
            value: of an estimate, or an end of its interval.
        """
        if 0 < value < math.inf:
            return f"{value:,.0f}"
        return f"< {min(self.values):,}" if value == 0 else f"> {max(self.values):,}"

    @property
    def estimate(self) -> str:
        """The estimate and its interval as text."""
        value, low, high = self.dimension
        interval = "" if math.isnan(low) else f" [{self.text(low)}, {self.text(high)}]"
        return self.text(value) + interval


def estimate(
    values: Mapping[int, ArrayLike],
    threshold: float = 90.0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Measured:
    """Estimate the least dimensions with which a threshold is reached.

    Means are made monotone in ``d`` by least squares (isotonic regression, weighted by seeds), and
    interpolated in ``log d``. The interval is that of percentiles of a bootstrap (Efron 1979) in which seeds are
    drawn again for each ``d``; with few seeds it is too narrow. Where ends lie between two resamples, it is the
    outer one.

    Args:
        values: dimensions to a metric of which more is better, shape ``[seeds]``, of independent runs; seeds may
            differ in number. The order of neither matters.
        threshold: of the metric.
        confidence: of the interval, between 0 and 1.
        resamples: of the bootstrap.

    Returns:
        The estimate, with what it is made of.

    Raises:
        ValueError: there is nothing to fit, an array isn't a vector of finite numbers, dimensions aren't positive,
            the threshold isn't finite, the confidence isn't between 0 and 1, or there are no resamples.
    """
    check_confidence("estimate", confidence)
    if not values or min(values) < 1 or not math.isfinite(threshold):
        raise ValueError(
            "estimate: expected values of subspaces of at least 1 dimension and a finite threshold, got those "
            f"of {sorted(values)} and {threshold}"
        )
    if resamples < 1:
        raise ValueError(f"estimate: resamples: expected at least 1, got {resamples}")
    known = {d: _vector(d, values[d]) for d in sorted(values)}
    weights = np.array([len(one) for one in known.values()], dtype=np.float64)
    fitted = _fit(np.array([one.mean() for one in known.values()]), weights)
    dimensions = np.array([*known], dtype=np.float64)
    low = high = math.nan
    if weights.max() > 1:
        generator = np.random.default_rng(0)
        resampled = [generator.choice(one, (resamples, len(one))).mean(axis=1) for one in known.values()]
        crossings = [
            _crossing(dimensions, _fit(means, weights), threshold) for means in np.stack(resampled, axis=1)
        ]
        outside = (1 - confidence) / 2
        low = float(np.quantile(crossings, outside, method="lower"))
        high = float(np.quantile(crossings, 1 - outside, method="higher"))
    value = _crossing(dimensions, fitted, threshold)
    return Measured(known, fitted, threshold, confidence, Dimension(value, low, high))


def _vector(d: int, values: ArrayLike) -> NDArray[np.float64]:
    """Return values in an order of their own, so that resamples don't depend on that of the seeds."""
    x = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if np.ndim(values) != 1 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"estimate: values of {d} dimensions must be a vector of finite numbers, got {values!r}")
    return x


def _fit(means: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.optimize import isotonic_regression  # which takes seconds, and isn't needed to draw what was found

    return np.asarray(isotonic_regression(means, weights=weights).x)


def _crossing(dimensions: NDArray[np.float64], fitted: NDArray[np.float64], threshold: float) -> float:
    """Return where a monotone fit first reaches a threshold; 0 if before it begins, infinity if nowhere."""
    reached = np.flatnonzero(fitted >= threshold - _ROUNDING)
    if not reached.size:
        return math.inf
    if reached[0] == 0:
        return 0.0
    pair = slice(reached[0] - 1, reached[0] + 1)
    return float(np.exp(np.interp(threshold, fitted[pair], np.log(dimensions[pair]))))
