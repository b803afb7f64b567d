"""Contrasts: what the pairs of seeds say about arm A minus arm B, and what may be concluded.

A large p-value never means "no difference": that takes an equivalence test, against a margin declared beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from weight_feedback.lab.estimates import (
    Interval,
    bca_interval,
    check_confidence,
    effect_size,
    equivalence,
    mean_interval,
    no_spread,
    paired_differences,
    sign_flip,
    superiority,
)

POWER = 0.8
"""The chance of a verdict for which seeds are planned."""
MOST_SEEDS = 1_000_000
"""Beyond this many, no number of seeds is named."""
MISSING_PERCENT = 5
"""Of the pairs; with more missing, a verdict is withheld: trials rarely fail by chance alone."""

# Of the measured standard deviation, in equal steps of probability.
_LEVELS = 1024

Kind = Literal["equivalent", "better", "worse", "undecided", "withheld"]


@dataclass(frozen=True)
class Estimate:
    """What the pairs say about a contrast, arm A minus arm B.

    Attributes:
        n: pairs with both outcomes.
        missing: pairs without, because a trial failed; dropped.
        mean: difference, in points; NaN without pairs.
        sd: standard deviation of the differences, in points; NaN for fewer than two pairs.
        t: mean and Student's t interval; NaN ends for fewer than two pairs, a point without spread.
        bca: mean and BCa bootstrap interval; likewise.
        flip_p: two-sided sign-flip p-value of the mean; NaN for fewer than two pairs.
        d_z: the mean in standard deviations of the differences, Hedges-corrected; see `effect_size`.
        superiority: P(A > B), ties counted half; NaN without pairs.
        tost_p: p-value of the two one-sided tests against the margin; NaN for fewer than two pairs.
        detectable: the true difference that a t test at level 1 − confidence detects with 80 % power, in points;
            NaN for fewer than two pairs, 0 without spread.
        no_spread: whether all differences are equal, so that intervals and t tests hold by definition only.
        margin: of equivalence, in points.
        confidence: of the intervals.
    """

    n: int
    missing: int
    mean: float
    sd: float
    t: Interval
    bca: Interval
    flip_p: float
    d_z: float
    superiority: float
    tost_p: float
    detectable: float
    no_spread: bool
    margin: float
    confidence: float

    @property
    def too_few(self) -> bool:
        """Whether there are fewer than two pairs, and so no intervals and no p-values."""
        return self.n < 2


def estimate(a: ArrayLike, b: ArrayLike, margin: float, confidence: float = 0.95) -> Estimate:
    """Estimate a contrast from outcomes paired by seed.

    Args:
        a: outcome of arm A in percent, shape ``[seeds]``; NaN where a trial failed.
        b: outcome of arm B, same seeds in the same order.
        margin: of equivalence, in points, above 0.
        confidence: of the intervals, between 0 and 1.

    Returns:
        Everything at once; each part is one function of the differences.

    Raises:
        ValueError: shapes differ or aren't vectors, an outcome is infinite, or a setting is out of range.
    """
    check_confidence("estimate", confidence)
    x = paired_differences(a, b)
    missing = np.size(a) - x.size
    constant = no_spread(x)
    mean = float(x.mean()) if x.size else math.nan
    if x.size < 2 or constant:
        end = mean if constant else math.nan
        t, sd = Interval(mean, end, end), 0.0 if constant else math.nan
    else:
        t, sd = mean_interval(x, confidence), float(x.std(ddof=1))
    return Estimate(
        n=x.size,
        missing=missing,
        mean=mean,
        sd=sd,
        t=t,
        bca=bca_interval(x, confidence),
        flip_p=sign_flip(x),
        d_z=effect_size(x),
        superiority=superiority(x),
        tost_p=equivalence(x, margin),
        detectable=math.nan if x.size < 2 else detectable_effect(x.size, sd, _level(confidence)),
        no_spread=constant,
        margin=margin,
        confidence=confidence,
    )


def detection_power(n: int, effect: float, alpha: float = 0.05) -> float:
    """Return the chance that a two-sided paired t test detects a true difference (Cohen 1988).

    Args:
        n: pairs, at least 2.
        effect: true difference, in standard deviations of the differences.
        alpha: level of the test.

    Returns:
        Between 0 and 1: both tails of the noncentral t distribution.
    """
    centre, edge = effect * math.sqrt(n), stats.t.isf(alpha / 2, n - 1)
    # The lower tail is written as the upper one of −t: scipy's and statsmodels' lower tail is NaN far out.
    return float(stats.nct.sf(edge, n - 1, centre) + stats.nct.sf(edge, n - 1, -centre))


def detectable_effect(n: int, sd: float, alpha: float = 0.05, power: float = POWER) -> float:
    """Return the smallest true difference that a two-sided paired t test detects with the given power.

    Args:
        n: pairs, at least 2.
        sd: standard deviation of the differences.
        alpha: level of the test, below the power.
        power: chance of detection, below 1.

    Returns:
        In the unit of `sd`.

    Raises:
        ValueError: there are fewer than two pairs, the standard deviation is below 0, or not 0 < alpha < power < 1.
    """
    if n < 2 or not 0 <= sd < math.inf or not 0 < alpha < power < 1:
        raise ValueError(
            "detectable_effect: expected n ≥ 2, sd ≥ 0 and 0 < alpha < power < 1, "
            f"got n = {n}, sd = {sd}, alpha = {alpha}, power = {power}"
        )
    # Here the mean is far enough out, and the spread small enough, with a chance of (1 + power)/2 each: together,
    # at least `power`.
    sure, df = (1 + power) / 2, n - 1
    spread = math.sqrt(stats.chi2.ppf(sure, df) / df)
    top = (stats.t.isf(alpha / 2, df) * spread + stats.norm.ppf(sure)) / math.sqrt(n)
    return sd * float(optimize.brentq(lambda effect: detection_power(n, effect, alpha) - power, 0.0, top))


def seeds_to_detect(effect: float, sd: float, alpha: float = 0.05) -> int | None:
    """Return how many seeds a two-sided paired t test needs to detect a true difference with 80 % power.

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
        return 2
    return _smallest(lambda n: detection_power(n, abs(effect) / sd, alpha) >= POWER)


def seeds_for_equivalence(sd: float, margin: float, difference: float = 0.0, alpha: float = 0.05) -> int | None:
    """Return how many seeds two one-sided t tests need to show equivalence with 80 % power.

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
    """Return the chance that two one-sided t tests show equivalence (Phillips 1990).

    Args:
        n: pairs, at least 2.
        sd: standard deviation of the differences.
        margin: of equivalence, in the same unit.
        difference: the true one.
        alpha: level of each test.

    Returns:
        Between 0 and 1, to within 1e-4: the mean, over the distribution of the measured standard deviation, of the
        chance that the measured difference leaves enough room on both sides.
    """
    if sd == 0:
        return float(abs(difference) < margin)
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    error = sd / math.sqrt(n)
    measured = error * np.sqrt(stats.chi2.ppf(levels, n - 1) / (n - 1))
    room = np.maximum(margin - stats.t.isf(alpha, n - 1) * measured, 0.0)
    shown = stats.norm.cdf((room - difference) / error) - stats.norm.cdf((-room - difference) / error)
    return float(shown.mean())


@dataclass(frozen=True)
class Verdict:
    """What may be concluded about a contrast.

    Attributes:
        kind: equivalent, better (A than B), worse or undecided; or withheld, which isn't a verdict.
        estimate: of the contrast.
        flip_p: sign-flip p-value, Holm-adjusted over the family; NaN for fewer than two pairs.
        tost_p: equivalence p-value, likewise.
        seeds: undecided only: how many would decide it with 80 % power, were the observed difference and spread
            the true ones; None if more than `MOST_SEEDS`.
        reason: withheld only: why.
    """

    kind: Kind
    estimate: Estimate
    flip_p: float
    tost_p: float
    seeds: int | None = None
    reason: str = ""

    def sentence(self, a: str, b: str, unit: str = "points") -> str:
        """Say it in one plain sentence.

        Args:
            a: name of arm A.
            b: name of arm B.
            unit: of the difference.
        """
        name = f"{a} − {b}"
        if self.kind == "withheld":
            return f"{name}: verdict withheld: {self.reason}."
        e = self.estimate
        # Enough digits to tell differences of a tenth of the margin apart.
        digits = max(2, 1 - math.floor(math.log10(e.margin)))
        pairs = f"{e.n} seeds" + (f", {e.missing} missing" if e.missing else "")
        spread = "no spread" if e.no_spread else f"{100 * e.confidence:g} % interval {_ends(e.t, digits)}"
        found = f"difference {_signed(e.mean, digits)} {unit} ({spread}, {pairs})"
        if self.kind == "equivalent":
            return f"{name}: equivalent within ±{e.margin:g} {unit}: {found}."
        if self.kind != "undecided":
            return f"{name}: {self.kind}: {found}."
        needed = f"more than {MOST_SEEDS:,}" if self.seeds is None else f"about {_round_up(self.seeds):,}"
        return f"{name}: undecided: {found}; {needed} seeds would be needed if this were the true difference."


def verdicts(
    estimates: Mapping[str, Estimate], margin: float, confidence: float = 0.95, more_is_better: bool = True
) -> dict[str, Verdict]:
    """Judge the primary contrasts of a study as one family.

    Holm's correction runs over the sign-flip p-values of all, and by itself over their equivalence p-values; each
    of the two keeps its chance of any false claim at 1 − confidence. *Equivalent* comes before *better* and
    *worse*, as a difference can be both real and too small to matter.

    Args:
        estimates: every declared contrast by name.
        margin: of equivalence, in points, as in each estimate.
        confidence: as in each estimate.
        more_is_better: of the outcome; False for a loss.

    Returns:
        One verdict a contrast, in the same order. It is withheld with fewer than two pairs, or with more than 5 %
        of them missing; such contrasts still count in the family.

    Raises:
        ValueError: an estimate was made with another margin or confidence.
    """
    for name, e in estimates.items():
        if (e.margin, e.confidence) != (margin, confidence):
            raise ValueError(
                f"verdicts: estimate {name!r} must have margin {margin} and confidence {confidence}, "
                f"got {e.margin} and {e.confidence}"
            )
    flips = holm([e.flip_p for e in estimates.values()])
    tosts = holm([e.tost_p for e in estimates.values()])
    return {
        name: _judge(e, float(flip_p), float(tost_p), len(estimates), more_is_better)
        for (name, e), flip_p, tost_p in zip(estimates.items(), flips, tosts, strict=True)
    }


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values for a family of tests (Holm 1979).

    Args:
        p: shape ``[tests]``; NaN where there was nothing to test, which counts as 1.

    Returns:
        Adjusted p-values in the same order, shape ``[tests]``; NaN stays NaN.

    Raises:
        ValueError: the p-values aren't a vector of numbers from 0 to 1.
    """
    raw = np.asarray(p, dtype=np.float64)
    if raw.ndim != 1 or ((raw < 0) | (raw > 1)).any():
        raise ValueError(f"holm: p must be a vector of numbers from 0 to 1, got {raw!r}")
    if raw.size == 0:
        return raw
    adjusted = multipletests(np.nan_to_num(raw, nan=1.0), method="holm")[1]
    return np.where(np.isnan(raw), math.nan, adjusted)


def _judge(e: Estimate, flip_p: float, tost_p: float, family: int, more_is_better: bool) -> Verdict:
    alpha = _level(e.confidence)
    pairs = e.n + e.missing
    if 100 * e.missing > MISSING_PERCENT * pairs:
        reason = f"{e.missing} of {pairs} pairs are missing, more than {MISSING_PERCENT} %"
        return Verdict("withheld", e, flip_p, tost_p, reason=reason)
    if e.too_few:
        return Verdict("withheld", e, flip_p, tost_p, reason=f"at least 2 pairs are needed, there are {e.n}")
    if tost_p < alpha:
        return Verdict("equivalent", e, flip_p, tost_p)
    if flip_p < alpha:
        return Verdict("better" if (e.mean > 0) == more_is_better else "worse", e, flip_p, tost_p)
    return Verdict("undecided", e, flip_p, tost_p, seeds=_seeds_to_decide(e, alpha / family))


def _seeds_to_decide(e: Estimate, alpha: float) -> int | None:
    """Return the fewer of the seeds for either claim, at the strictest level that Holm's correction may ask for."""
    detect = seeds_to_detect(e.mean, e.sd, alpha)
    if detect is not None:
        # All n signs alike give the smallest sign-flip p-value, 2 / 2ⁿ, which must be below alpha.
        detect = max(detect, math.floor(1 - math.log2(alpha)) + 1)
    equivalent = seeds_for_equivalence(e.sd, e.margin, e.mean, alpha)
    return min((n for n in (detect, equivalent) if n is not None), default=None)


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


def _level(confidence: float) -> float:
    # 1 − 0.95 is a little more than 0.05.
    return round(1 - confidence, 12)


def _round_up(n: int) -> int:
    # To two digits: the plan rests on an estimated spread.
    step: int = 10 ** max(0, len(str(n)) - 2)
    return -(-n // step) * step


def _ends(interval: Interval, digits: int) -> str:
    return f"{_signed(interval.low, digits)} to {_signed(interval.high, digits)}"


def _signed(value: float, digits: int) -> str:
    # Adding 0 makes a negative zero positive.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
