"""Power: what a number of pairs can show, by the very tests that verdicts are given by.

Differences are taken to be normal. Few pairs have few sign flips, and so coarse p-values: there the tests are
run on simulated differences of a fixed seed. With more, t tests have about the same power, and formulas.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from weight_feedback.lab.statistics.estimates import EXACT, FLIPS, equivalence_p, flip_p, flip_signs

POWER = 0.8
"""The chance of a verdict for which seeds are planned."""
MOST_SEEDS = 1_000_000
"""Beyond this many, no number of seeds is named."""
STUDIES = 2_000
"""Simulated studies behind a power; its standard error is below 0.009."""

# With so many attainable p-values below the level, the sign-flip test rejects as often as a t test does.
_FINE = 50
# Of the measured standard deviation, in equal steps of probability.
_LEVELS = 1024


def smallest_flip_p(n: int) -> float:
    """Return the smallest p-value that a two-sided sign-flip test of n pairs can have: all signs alike.

    Args:
        n: pairs, at least 1.
    """
    return 2.0 ** (1 - n) if n <= EXACT else 1 / (1 + FLIPS)


def smallest_equivalence_p(n: int) -> float:
    """Return the smallest p-value that a test of equivalence of n pairs can have.

    Args:
        n: pairs, at least 1.
    """
    return 2.0**-n if n <= EXACT else 1 / (1 + 2 * FLIPS)


def least_pairs(smallest: Callable[[int], float], alpha: float) -> int | None:
    """Return with how many pairs a test can be passed at all.

    Args:
        smallest: the smallest p-value that it can have, by the number of pairs.
        alpha: level of the test.

    Returns:
        At least 2; None if no number of pairs has a p-value below the level.
    """
    # From there on flips are drawn, always as many.
    return next((n for n in range(2, EXACT + 2) if smallest(n) < alpha), None)


def detection_power(n: int, effect: float, alpha: float = 0.05) -> float:
    """Return the chance that a sign-flip test detects a true difference.

    Args:
        n: pairs, at least 2.
        effect: true difference, in standard deviations of the differences.
        alpha: level of the test.

    Returns:
        Between 0 and 1; 0 where no p-value of n pairs is below the level. With few pairs by simulation (`STUDIES`);
        else both tails of the noncentral t distribution (Cohen 1988).
    """
    if smallest_flip_p(n) >= alpha:
        return 0.0
    if n <= EXACT and alpha / smallest_flip_p(n) < _FINE:
        return float((flip_p(_noise(n) + abs(effect), _signs(n)) < alpha).mean())
    centre, edge = effect * math.sqrt(n), -float(special.stdtrit(n - 1, alpha / 2))
    # The lower tail is written as the upper one of −t.
    return _above(edge, n - 1, centre) + _above(edge, n - 1, -centre)


def _above(edge: float, df: int, centre: float) -> float:
    """Return the chance that noncentral t is above an edge."""
    below = float(special.nctdtr(df, centre, edge))
    if not math.isnan(below):
        return 1 - below
    # It is NaN in places, some of them in the midst of others; this isn't, and takes a second to import.
    from scipy import stats

    return float(stats.nct.sf(edge, df, centre))


def detectable_effect(n: int, sd: float, alpha: float = 0.05, power: float = POWER) -> float:
    """Return the smallest true difference that a sign-flip test detects with the given power.

    Args:
        n: pairs, at least 2.
        sd: standard deviation of the differences.
        alpha: level of the test, below the power.
        power: chance of detection, below 1.

    Returns:
        In the unit of `sd`; NaN where n pairs are too few to detect anything.

    Raises:
        ValueError: there are fewer than two pairs, the standard deviation is below 0, or not 0 < alpha < power < 1.
    """
    if n < 2 or not 0 <= sd < math.inf or not 0 < alpha < power < 1:
        raise ValueError(
            "detectable_effect: expected n ≥ 2, sd ≥ 0 and 0 < alpha < power < 1, "
            f"got n = {n}, sd = {sd}, alpha = {alpha}, power = {power}"
        )
    return sd * _detectable(n, alpha, power)


@functools.cache
def _detectable(n: int, alpha: float, power: float) -> float:
    return math.nan if smallest_flip_p(n) >= alpha else _reach(lambda x: detection_power(n, x, alpha) - power)


def detectable_margin(n: int, alpha: float = 0.05) -> float:
    """Return the smallest margin within which equivalence of arms without a true difference is shown.

    Args:
        n: pairs, at least 2.
        alpha: level of each test.

    Returns:
        In standard deviations of the differences, for 80 % power; NaN where n pairs are too few to show anything.
    """
    if smallest_equivalence_p(n) >= alpha:
        return math.nan
    return _reach(lambda margin: equivalence_power(n, 1.0, margin, alpha=alpha) - POWER)


def _reach(short: Callable[[float], float]) -> float:
    """Return where a function that rises with its argument, from below 0, is 0."""
    from scipy import optimize

    top = 1.0
    while short(top) < 0:
        top *= 2
    return float(optimize.brentq(short, 1e-9, top, xtol=1e-9))


def seeds_to_detect(effect: float, sd: float, alpha: float = 0.05) -> int | None:
    """Return how many seeds a sign-flip test needs to detect a true difference with 80 % power.

    Args:
        effect: true difference, of either sign.
        sd: standard deviation of the differences, in the same unit.
        alpha: level of the test.

    Returns:
        At least 2; None if there is no difference to detect, or more than `MOST_SEEDS` are needed.
    """
    if effect == 0:
        return None
    if sd == 0:
        return least_pairs(smallest_flip_p, alpha)
    return _smallest(lambda n: detection_power(n, abs(effect) / sd, alpha) >= POWER)


def seeds_for_equivalence(sd: float, margin: float, difference: float = 0.0, alpha: float = 0.05) -> int | None:
    """Return how many seeds are needed to show equivalence with 80 % power.

    Args:
        sd: standard deviation of the differences.
        margin: of equivalence, in the same unit.
        difference: assumed to be the true one. The default, 0, is the most hopeful case; `verdicts` assumes the
            difference observed.
        alpha: level of each test.

    Returns:
        At least 2; None if the difference isn't within the margin, or more than `MOST_SEEDS` are needed.
    """
    return _smallest(lambda n: equivalence_power(n, sd, margin, difference, alpha) >= POWER)


def equivalence_power(n: int, sd: float, margin: float, difference: float = 0.0, alpha: float = 0.05) -> float:
    """Return the chance that equivalence is shown.

    Args:
        n: pairs, at least 2.
        sd: standard deviation of the differences.
        margin: of equivalence, in the same unit.
        difference: the true one.
        alpha: level of each test.

    Returns:
        Between 0 and 1; 0 where no p-value of n pairs is below the level. With few pairs by simulation (`STUDIES`);
        else, to within 1e-4, that of two one-sided t tests (Phillips 1990): the mean, over the distribution of the
        measured standard deviation, of the chance that the measured difference leaves enough room on both sides.
    """
    if smallest_equivalence_p(n) >= alpha:
        return 0.0
    if sd == 0:
        return float(abs(difference) < margin)
    if n <= EXACT and alpha / smallest_equivalence_p(n) < _FINE:
        return float((equivalence_p(difference + sd * _noise(n), margin, _signs(n)) < alpha).mean())
    error = sd / math.sqrt(n)
    room = np.maximum(margin + special.stdtrit(n - 1, alpha) * error * _measured(n), 0.0)
    shown = special.ndtr((room - difference) / error) - special.ndtr((-room - difference) / error)
    return float(shown.mean())


@functools.lru_cache(maxsize=256)
def _measured(n: int) -> NDArray[np.float64]:
    """Return measured standard deviations of n differences whose true one is 1, in equal steps of probability."""
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    return np.asarray(np.sqrt(2 * special.gammaincinv((n - 1) / 2, levels) / (n - 1)))


@functools.cache
def _noise(n: int) -> NDArray[np.float64]:
    return np.random.default_rng(n).standard_normal((STUDIES, n))


def _signs(n: int) -> NDArray[np.int8]:
    return flip_signs(n, FLIPS)


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest n from 2 to `MOST_SEEDS` that is enough, where every larger one is too."""
    low, high = 1, 2
    while not enough(high):
        if high == MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
