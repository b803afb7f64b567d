"""Do the estimators keep their promises? Measured on simulated studies whose true difference is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from weight_feedback.lab.statistics.estimates import (
    Interval,
    equivalence_p,
    flip_p,
    flip_signs,
    holm,
    mean_interval,
)

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


Shape = Literal["normal", "lattice", "outlier", "skewed"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
"""Of differences: normal; of few values, as counts of test examples have; normal but for one, 10 standard
deviations out to either side; or 0 but for a fifth of them, which are 1: of these, tests promise nothing."""
MARGINS: dict[Shape, float] = {"normal": 1.0, "lattice": 0.5, "outlier": 1.0, "skewed": 0.2}
"""Of equivalence, in the unit of the differences."""
CONTRASTS = 10
"""The most contrasts of a simulated family."""


@dataclass(frozen=True)
class Families:
    """How often families of verdicts hold a false claim; each share with its Wilson 95 % interval.

    Each is the worst of families of 1 to `CONTRASTS` independent contrasts.

    Attributes:
        shape: of the differences.
        n: seeds a study.
        studies: how many.
        difference: where all true differences are 0: any claim of one.
        equivalence: where all lie at the margin: any claim of equivalence.
        both: where one is 0 and all others lie at the margin: any false claim of either kind, each kind at 5 %.
        halved: the same, both kinds together at 5 %.
    """

    shape: Shape
    n: int
    studies: int
    difference: Interval
    equivalence: Interval
    both: Interval
    halved: Interval


def families(studies: int = 20_000, n: int = 20, shape: Shape = "normal", seed: int = 0) -> Families:
    """Give verdicts on simulated families of contrasts whose truth is known.

    Args:
        studies: how many.
        n: seeds a study, at least 2.
        shape: of the differences.
        seed: of the simulation; each n and shape has its own stream.

    Returns:
        How often claims are false.
    """
    if studies < 1 or n < 2:
        raise ValueError(f"families: expected studies ≥ 1 and n ≥ 2, got studies = {studies}, n = {n}")
    rng, margin = np.random.default_rng([seed, n, SHAPES.index(shape)]), MARGINS[shape]
    zero = _p_values(_differences(rng, shape, (studies, CONTRASTS, n), 0.0), margin)
    edge = _p_values(_differences(rng, shape, (studies, CONTRASTS, n), margin), margin)

    def worst(false: Callable[[int], NDArray[np.bool_]], fewest: int = 1) -> Interval:
        return max(_share(int(false(size).sum()), studies) for size in range(fewest, CONTRASTS + 1))

    def either(size: int, alpha: float) -> NDArray[np.bool_]:
        flips, tosts = (
            np.column_stack([at_0[:, :1], at_edge[:, 1:size]]) for at_0, at_edge in zip(zero, edge, strict=True)
        )
        false = np.column_stack([holm(flips)[:, :1], holm(tosts)[:, 1:]])
        return np.asarray(false.min(axis=1) < alpha)

    return Families(
        shape,
        n,
        studies,
        difference=worst(lambda size: holm(zero[0][:, :size]).min(axis=1) < 0.05),
        equivalence=worst(lambda size: holm(edge[1][:, :size]).min(axis=1) < 0.05),
        both=worst(lambda size: either(size, 0.05), fewest=2),
        halved=worst(lambda size: either(size, 0.025), fewest=2),
    )


def looking(studies: int = 20_000, looks: Sequence[int] = (20, 40, 92), seed: int = 0) -> Interval:
    """Return how often a difference is claimed where there is none, by who looks again and again.

    Args:
        studies: simulated, with normal differences.
        looks: after how many seeds there is a t test at 5 %, smallest first; the first that rejects is believed.
        seed: of the simulation.
    """
    samples = np.random.default_rng(seed).normal(0.0, 1.0, (studies, looks[-1]))
    p = np.array([stats.ttest_1samp(samples[:, :n], 0.0, axis=1).pvalue for n in looks])
    return _share(int((p.min(axis=0) < 0.05).sum()), studies)


def _differences(
    rng: np.random.Generator, shape: Shape, size: tuple[int, int, int], mean: float
) -> NDArray[np.float64]:
    """Return differences of a true mean, shape ``[studies, contrasts, n]``."""
    if shape == "lattice":
        # −1, 0 or 1 around 0; around a half, 0 or 1.
        return np.asarray(rng.binomial(1 if mean else 2, 0.5, size) - (0.0 if mean else 1.0))
    if shape == "skewed":
        return np.asarray(rng.binomial(1, 0.2, size) - (0.2 - mean))
    samples = rng.normal(mean, 1.0, size)
    if shape == "outlier":
        samples[..., 0] += 10 * rng.choice([-1, 1], size[:-1])
    return samples


def _p_values(samples: NDArray[np.float64], margin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return p-values of a difference and of equivalence; 1 without spread, where no verdict is given."""
    flat, signs = samples.reshape(-1, samples.shape[-1]), flip_signs(samples.shape[-1], FLIPS)
    spread = np.ptp(flat, axis=1) > 0
    found = np.ones((2, len(flat)))
    found[0, spread] = flip_p(flat[spread], signs)
    found[1, spread] = equivalence_p(flat[spread], margin, signs)
    return found[0].reshape(samples.shape[:-1]), found[1].reshape(samples.shape[:-1])


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
