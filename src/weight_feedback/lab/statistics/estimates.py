"""Outcomes of trials, and estimates from differences paired by seed: pure functions of arrays, without torch.

A difference is arm A minus arm B; no estimate depends on the order of the seeds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FLIPS = 100_000
"""Random sign flips behind a p-value from more than `EXACT` pairs."""
EXACT = 16
"""The most pairs for which every sign flip is tried."""

# Rounding, not data. A percentage of up to 100 carries an error of 1e-14, so a difference of one hundredth of a
# point carries a relative error of 1e-12: what agrees to 1e-9 is equal.
_ROUNDING = 1e-9
# Signs multiplied at a time, to bound memory.
_BLOCK = 4_000_000


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


def final(curve: ArrayLike) -> NDArray[np.float64]:
    """Return a metric after the last epoch.

    Args:
        curve: shape ``[seeds, epochs]``; NaN where a trial failed, here and in the functions below.

    Returns:
        Shape ``[seeds]``, in the metric's unit.

    Raises:
        ValueError: the curve isn't a matrix with at least one epoch.
    """
    return _matrix("final", curve)[:, -1].copy()


def mean_of_last(curve: ArrayLike, last: int) -> NDArray[np.float64]:
    """Return the mean of a metric over the last epochs.

    Args:
        curve: shape ``[seeds, epochs]``.
        last: how many epochs; all, if there are fewer.

    Returns:
        Shape ``[seeds]``, in the metric's unit; NaN for a trial with any among them.

    Raises:
        ValueError: the curve isn't a matrix with at least one epoch, or there is no epoch to take.
    """
    if last < 1:
        raise ValueError(f"mean_of_last: last must be at least 1, got {last}")
    return np.asarray(_matrix("mean_of_last", curve)[:, -last:].mean(axis=1))


def best(curve: ArrayLike, higher: bool = True) -> NDArray[np.float64]:
    """Return a metric after the best epoch of each trial: optimistic, as it is chosen by its own values.

    Args:
        curve: shape ``[seeds, epochs]``.
        higher: whether higher is better.

    Returns:
        Shape ``[seeds]``, in the metric's unit; NaN for a trial with any.

    Raises:
        ValueError: the curve isn't a matrix with at least one epoch.
    """
    x = _matrix("best", curve)
    return np.asarray(x.max(axis=1) if higher else x.min(axis=1))


def at_best_of(curve: ArrayLike, other: ArrayLike, higher: bool = True) -> NDArray[np.float64]:
    """Return a metric at the epoch at which another one, such as one on validation data, is best.

    Args:
        curve: shape ``[seeds, epochs]``.
        other: the other metric, of the same shape.
        higher: whether higher is better of the other.

    Returns:
        Shape ``[seeds]``, in the metric's unit; of several best epochs, at the first. NaN for a trial whose other
        metric has any NaN, or whose own is NaN there.

    Raises:
        ValueError: the curves aren't matrices of one shape with at least one epoch.
    """
    x, y = _matrix("at_best_of", curve), _matrix("at_best_of", other)
    if x.shape != y.shape:
        raise ValueError(f"at_best_of: curves must have one shape, got {x.shape} and {y.shape}")
    known = ~np.isnan(y).any(axis=1)
    chosen = np.where(np.isnan(y), 0.0, y if higher else -y).argmax(axis=1)
    return np.where(known, x[np.arange(len(x)), chosen], math.nan)


def area_under_curve(curve: ArrayLike) -> NDArray[np.float64]:
    """Return the area under a metric by epoch (trapezoids), divided by the epochs between the first and the last.

    Args:
        curve: shape ``[seeds, epochs]``.

    Returns:
        A mean of the metric, shape ``[seeds]``; of a single epoch, its value. NaN for a trial with any.

    Raises:
        ValueError: the curve isn't a matrix with at least one epoch.
    """
    x = _matrix("area_under_curve", curve)
    return x[:, 0].copy() if x.shape[1] == 1 else np.asarray((x[:, :-1] + x[:, 1:]).mean(axis=1) / 2)


def first_past(curve: ArrayLike, threshold: float, higher: bool = True) -> NDArray[np.float64]:
    """Return the first epoch, counted from 1, whose metric reaches a threshold.

    Args:
        curve: shape ``[seeds, epochs]``.
        threshold: in the metric's unit.
        higher: whether higher is better, so that it is reached from below; else from above.

    Returns:
        Epochs, shape ``[seeds]``, of which fewer are better. A trial that never reaches it counts as epochs + 1,
        the least that it can have needed: means with such trials are bounds. NaN for a trial with any.

    Raises:
        ValueError: the curve isn't a matrix with at least one epoch.
    """
    x = _matrix("first_past", curve)
    reached = x >= threshold if higher else x <= threshold
    first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, x.shape[1] + 1.0)
    return np.where(np.isnan(x).any(axis=1), math.nan, first)


def paired_differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return A − B for every pair that is there, smallest first.

    Args:
        a: outcome of arm A, shape ``[seeds]``; NaN where a trial failed.
        b: outcome of arm B, likewise.

    Returns:
        Shape ``[pairs]``, sorted, so that no later result depends on the order of the seeds. Outcomes that agree up
        to rounding are ties: their difference is exactly 0.

    Raises:
        ValueError: shapes differ or aren't vectors, or an outcome is infinite.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(
            f"paired_differences: a and b must be vectors of one length, got {left.shape}, {right.shape}"
        )
    if np.isinf(left).any() or np.isinf(right).any():
        raise ValueError(
            "paired_differences: a and b must hold numbers, or NaN for a failed trial; got an infinity"
        )
    there = ~(np.isnan(left) | np.isnan(right))
    left, right = left[there], right[there]
    ties = np.isclose(left, right, rtol=1e-3 * _ROUNDING, atol=0.0)
    return np.sort(np.where(ties, 0.0, left - right))


def pairing(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Return how alike two arms are over seeds, and what pairing them by seed is worth.

    Args:
        a: outcome of arm A, shape ``[seeds]``; NaN where there is none.
        b: outcome of arm B, likewise.

    Returns:
        Pearson's correlation over the pairs that are there; and how many unpaired seeds of each arm a paired one is
        worth: the variance of an unpaired difference, the sum of the arms' own, in that of a paired one. Both are
        NaN for fewer than three pairs, and where an arm or all differences have no spread.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    there = np.isfinite(left) & np.isfinite(right)
    left, right = left[there], right[there]
    if left.size < 3 or no_spread(left) or no_spread(right) or no_spread(left - right):
        return math.nan, math.nan
    apart = float(left.var(ddof=1) + right.var(ddof=1))
    return float(np.corrcoef(left, right)[0, 1]), apart / float((left - right).var(ddof=1))


def no_spread(differences: ArrayLike) -> bool:
    """Say whether two or more differences are all equal, up to rounding.

    Args:
        differences: A − B, shape ``[n]``.
    """
    x = _vector("no_spread", differences)
    return x.size > 1 and bool(np.ptp(x) <= _ROUNDING * np.abs(x).max())


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
    check_confidence("mean_interval", confidence)
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan)
    return student_interval(mean, float(x.std(ddof=1)), x.size, confidence)


def student_interval(mean: float, sd: float, n: int, confidence: float) -> Interval:
    """Return Student's t interval of a mean.

    Args:
        mean: of the values.
        sd: their standard deviation.
        n: how many they are, at least 2.
        confidence: of the interval, from 0 to 1.
    """
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def sign_flip(differences: ArrayLike) -> float:
    """Test whether the mean difference is 0, by flipping signs (Fisher 1935; Phipson and Smyth 2010).

    If A and B were alike, each difference would be as likely with the other sign. Up to `EXACT` pairs every flip
    is tried; beyond, `FLIPS` random ones from a fixed seed.

    Args:
        differences: A − B, shape ``[n]``.

    Returns:
        The two-sided p-value: the share of flips whose mean is at least as far from 0 as the one observed, which
        counts itself. NaN for fewer than two differences.

    Raises:
        ValueError: the differences aren't a vector of finite numbers.
    """
    x = _vector("sign_flip", differences)
    return math.nan if x.size < 2 else float(flip_p(x[None], flip_signs(x.size, FLIPS))[0])


def flip_signs(n: int, flips: int) -> NDArray[np.int8]:
    """Return sign flips, shape ``[flips, n]``, of 1 and −1.

    Args:
        n: differences, at least 1.
        flips: how many; where `EXACT` allows it, all those that keep the last sign are returned instead. The
            other half are their mirrored ones, at the same distance from 0.
    """
    if n <= EXACT:
        bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, (flips, n), dtype=np.int8)
    return (1 - 2 * bits).astype(np.int8)


def flip_p(samples: NDArray[np.float64], signs: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the two-sided sign-flip p-values of many samples at once.

    Args:
        samples: differences, shape ``[samples, n]``.
        signs: of `flip_signs` for this n.

    Returns:
        Shape ``[samples]``.
    """
    count = np.minimum(_as_far(samples, np.abs(samples.sum(axis=1)), signs), len(signs))
    return _share(count, len(signs), samples.shape[1])


def equivalence_p(samples: NDArray[np.float64], margin: float, signs: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the equivalence p-values of many samples at once; see `equivalence`.

    Args:
        samples: differences, shape ``[samples, n]``, each with spread.
        margin: in the unit of the differences, above 0.
        signs: of `flip_signs` for this n.

    Returns:
        Shape ``[samples]``.
    """
    n = samples.shape[1]
    # Of the t tests, that of the nearer end has the larger p-value.
    room = margin - np.abs(samples.mean(axis=1))
    error = samples.std(axis=1, ddof=1) / math.sqrt(n)
    # Student's t, with the bits of `scipy.stats`, which takes seconds to import.
    p = special.stdtr(n - 1, -room / error)
    for distances in (margin - samples, margin + samples):
        count = _as_far(distances, distances.sum(axis=1), signs)
        p = np.maximum(p, _share(count, 2 * len(signs), n))
    return np.asarray(p)


def _as_far(samples: NDArray[np.float64], sums: NDArray[np.float64], signs: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return how many flips of each sample, and of its mirrored one, have at least a given sum."""
    # Flips act on the sizes alone: p depends neither on the order of the seeds nor on which arm is called A.
    sizes = np.sort(np.abs(samples), axis=1)
    # Sums that are equal but for rounding must count as equal.
    needed = (sums - _ROUNDING * sizes.sum(axis=1))[:, None]
    count = np.zeros(len(samples), dtype=np.int64)
    rows = max(1, _BLOCK // max(samples.shape))
    for start in range(0, len(signs), rows):
        flipped = sizes @ signs[start : start + rows].T.astype(np.float64)
        count += np.count_nonzero(flipped >= needed, axis=1) + np.count_nonzero(flipped <= -needed, axis=1)
    return count


def _share(count: NDArray[np.int64], flips: int, n: int) -> NDArray[np.float64]:
    if n <= EXACT:
        return count / flips
    # The observed signs are one more flip: without it, p could be 0, and the test too keen.
    return (1 + count) / (1 + flips)


def effect_size(differences: ArrayLike) -> float:
    """Return d_z, the mean difference in standard deviations of the differences, corrected for small samples.

    Args:
        differences: A − B, shape ``[n]``.

    Returns:
        d_z times `hedges(n − 1)`. NaN for fewer than three differences, where no correction exists. Without
        spread: 0 if the differences are 0, otherwise infinite, with their sign.

    Raises:
        ValueError: the differences aren't a vector of finite numbers.
    """
    x = _vector("effect_size", differences)
    if x.size < 3:
        return math.nan
    if no_spread(x):
        return math.copysign(math.inf, x.max()) if x.any() else 0.0
    return float(hedges(x.size - 1) * x.mean() / x.std(ddof=1))


def hedges(df: int) -> float:
    """Return J, by which a standardised mean difference is too large on average (Hedges 1981), exactly.

    Args:
        df: degrees of freedom, at least 2.

    Returns:
        Γ(df/2) / (√(df/2) Γ((df − 1)/2)), between 0 and 1.
    """
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def superiority(differences: ArrayLike) -> float:
    """Return the share of pairs in which A is above B, ties counted half: an estimate of P(A > B).

    Args:
        differences: A − B, shape ``[n]``.

    Returns:
        Between 0 and 1; NaN without pairs.

    Raises:
        ValueError: the differences aren't a vector of finite numbers.
    """
    x = _vector("superiority", differences)
    return float((1 + np.sign(x)).mean() / 2) if x.size else math.nan


def equivalence(differences: ArrayLike, margin: float) -> float:
    """Test whether the true difference lies within ±margin, by two one-sided tests (Schuirmann 1987).

    At each end, both a t test and a sign-flip test must say so. The t test alone is too keen where differences take
    few values, as counts of test examples do; flips of the distances from the end are exact wherever these are as
    likely on either side of it. With n pairs, no p-value is below 2⁻ⁿ.

    Args:
        differences: A − B, shape ``[n]``.
        margin: in the unit of the differences, above 0.

    Returns:
        The largest p-value of the four: small if the difference is shown to lie within. NaN for fewer than two
        differences, and without spread, of which no test knows anything.

    Raises:
        ValueError: the differences aren't a vector of finite numbers, or the margin isn't above 0.
    """
    x = _vector("equivalence", differences)
    if not 0 < margin < math.inf:
        raise ValueError(f"equivalence: margin must be a number above 0, got {margin}")
    if x.size < 2 or no_spread(x):
        return math.nan
    return float(equivalence_p(np.sort(x)[None], margin, flip_signs(x.size, FLIPS))[0])


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values for a family of tests (Holm 1979).

    Args:
        p: shape ``[..., tests]``, one family a row; NaN where there was nothing to test, which counts as 1.

    Returns:
        Adjusted p-values in the same order and shape; NaN stays NaN.

    Raises:
        ValueError: the p-values aren't numbers from 0 to 1, in rows.
    """
    raw = np.asarray(p, dtype=np.float64)
    if raw.ndim == 0 or ((raw < 0) | (raw > 1)).any():
        raise ValueError(f"holm: p must be a vector of numbers from 0 to 1, or several, got {raw!r}")
    filled = np.nan_to_num(raw, nan=1.0)
    order = np.argsort(filled, axis=-1, kind="stable")
    weighted = np.take_along_axis(filled, order, axis=-1) * np.arange(raw.shape[-1], 0, -1)
    adjusted = np.empty_like(raw)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(weighted, axis=-1), 1.0), axis=-1)
    return np.where(np.isnan(raw), math.nan, adjusted)


def _matrix(name: str, curve: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(curve, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name}: the curve must have shape [seeds, epochs] with at least one epoch, got {x.shape}"
        )
    return x


def _vector(name: str, differences: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(differences, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError(f"{name}: differences must be a vector of finite numbers, got {x!r}")
    return x


def check_confidence(name: str, confidence: float) -> None:
    """Refuse a confidence that isn't between 0 and 1.

    Args:
        name: of the function that was given it.
        confidence: of an interval.

    Raises:
        ValueError: it isn't.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"{name}: confidence must lie between 0 and 1, got {confidence}")
