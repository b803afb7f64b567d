"""Do the estimators keep their promises? Measured on simulated studies whose true difference is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from weight_feedback.lab.estimates import Interval, flip_p, flip_signs, mean_interval

RESAMPLES = 1_000
"""Bootstrap resamples a study."""
# Resampled numbers held at a time, to bound memory.
_BLOCK = 4_000_000
FLIPS = 10_000
"""Random sign flips a study here, for speed; an analysis uses ten times as many."""


@dataclass(frozen=True)
class Calibration:
    """What was measured at one number of seeds; each share with its Wilson 95 % interval, from 0 to 1.

    Attributes:
        n: seeds a study.
        studies: how many.
        t_rejections: share with a two-sided t test below 5 %: false positives if the true difference is 0,
            power otherwise.
        flip_rejections: share with a sign-flip test below 5 %; likewise.
        t_coverage: share of 95 % t intervals that hold the true difference.
        bca_coverage: share of 95 % BCa intervals that hold it.
    """

    n: int
    studies: int
    t_rejections: Interval
    flip_rejections: Interval
    t_coverage: Interval
    bca_coverage: Interval


def calibrate(
    studies: int = 2000, seeds: Sequence[int] = (10, 20, 30), effect: float = 0.0, sd: float = 1.0, seed: int = 0
) -> dict[int, Calibration]:
    """Run the estimators on simulated studies with normal differences.

    The studies of one n share their `FLIPS` sign flips (all flips up to 16 seeds) and the indices of their
    `RESAMPLES` bootstrap resamples, which don't depend on the data.

    Args:
        studies: how many, for each n.
        seeds: the numbers of seeds, each at least 2.
        effect: true difference, in points.
        sd: standard deviation of the differences, in points, above 0.
        seed: of the simulation. Each n has its own stream: its result doesn't depend on the others.

    Returns:
        Number of seeds to what was measured.

    Raises:
        ValueError: there are no studies, fewer than two seeds, or no spread.
    """
    if studies < 1 or any(n < 2 for n in seeds) or not sd > 0:
        raise ValueError(
            "calibrate: expected studies ≥ 1, seeds ≥ 2 and sd > 0, "
            f"got studies = {studies}, seeds = {seeds}, sd = {sd}"
        )
    return {n: _calibrate(studies, n, effect, sd, seed) for n in seeds}


def _calibrate(studies: int, n: int, effect: float, sd: float, seed: int) -> Calibration:
    return measure(np.random.default_rng([seed, n]).normal(effect, sd, (studies, n)), effect)


def measure(samples: NDArray[np.float64], effect: float = 0.0) -> Calibration:
    """Run the estimators on studies whose true difference is known.

    Args:
        samples: differences paired by seed, shape ``[studies, n]``, with n at least 2.
        effect: the true difference, in the same unit.

    Returns:
        What was measured.
    """
    studies, n = samples.shape
    t_p = np.asarray(stats.ttest_1samp(samples, 0.0, axis=1).pvalue)
    flips_p = flip_p(samples, flip_signs(n, FLIPS))
    intervals = [mean_interval(sample) for sample in samples]
    low, high = _bca_ends(samples, 0.95, RESAMPLES)
    return Calibration(
        n=n,
        studies=studies,
        t_rejections=_share(int((t_p < 0.05).sum()), studies),
        flip_rejections=_share(int((flips_p < 0.05).sum()), studies),
        t_coverage=_share(sum(interval.low <= effect <= interval.high for interval in intervals), studies),
        bca_coverage=_share(int(((low <= effect) & (effect <= high)).sum()), studies),
    )


def _bca_ends(
    samples: NDArray[np.float64], confidence: float, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of BCa intervals of means (Efron 1987), of many samples at once.

    Args:
        samples: shape ``[..., n]``, each with spread; all share one set of resampled indices.
        confidence: of the intervals, between 0 and 1.
        resamples: how many.

    Returns:
        Low ends and high ends, each of shape ``[...]``.
    """
    rows = max(1, _BLOCK // samples.size)
    found = stats.bootstrap(
        (samples,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        batch=rows,
        confidence_level=confidence,
        method="BCa",
        rng=0,
    )
    low, high = found.confidence_interval
    return np.asarray(low), np.asarray(high)


def _share(count: int, studies: int) -> Interval:
    ends = stats.binomtest(count, studies).proportion_ci(0.95, method="wilson")
    return Interval(count / studies, float(ends.low), float(ends.high))
