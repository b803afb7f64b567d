"""Estimates from arrays of outcomes: pure functions, without torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: the estimate.
        low: lower end; NaN for a single value, which has no interval.
        high: upper end; NaN for a single value.
    """

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Estimate a mean, with Student's t interval.

    Args:
        values: independent values, shape ``[n]``, with n at least 1.
        confidence: of the interval, between 0 and 1.

    Returns:
        Mean and interval, in the unit of the values.

    Raises:
        ValueError: the values aren't a vector or there are none, or the confidence isn't between 0 and 1.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"mean_interval: values must be a vector of at least one number, got shape {x.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"mean_interval: confidence must lie between 0 and 1, got {confidence}")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half)
