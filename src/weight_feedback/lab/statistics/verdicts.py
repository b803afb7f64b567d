"""Contrasts: what the pairs of seeds say about arm A minus arm B, and what may be concluded.

A large p-value never means "no difference": that takes an equivalence test, against a margin declared beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from weight_feedback.lab.statistics.estimates import (
    Interval,
    check_confidence,
    effect_size,
    equivalence,
    holm,
    mean_interval,
    no_spread,
    paired_differences,
    sign_flip,
    student_interval,
    superiority,
)
from weight_feedback.lab.statistics.power import (
    MOST_SEEDS,
    detectable_effect,
    seeds_for_equivalence,
    seeds_to_detect,
)

MISSING_PERCENT = 5
"""Of the pairs; with more missing, a verdict is withheld: trials rarely fail by chance alone."""

MOST = f"more than {MOST_SEEDS:,}"

Direction = Literal["better", "worse"]
Kind = Literal["equivalent", "better", "worse", "undecided", "withheld"]
ErrorRate = Literal["each", "both"]


@dataclass(frozen=True)
class Estimate:
    """What the pairs say about a contrast, arm A minus arm B.

    Attributes:
        n: pairs with both outcomes.
        missing: pairs without, because a trial failed; dropped.
        mean: difference, in its unit, as sd, margin and detectable; NaN without pairs.
        sd: standard deviation of the differences; NaN for fewer than two pairs.
        t: mean and Student's t interval; NaN ends for fewer than two pairs, a point without spread.
        flip_p: two-sided sign-flip p-value of the mean; NaN for fewer than two pairs.
        d_z: the mean in standard deviations of the differences, Hedges-corrected; see `effect_size`.
        superiority: P(A > B), ties counted half; NaN without pairs.
        tost_p: p-value of equivalence within the margin; NaN for fewer than two pairs, and without spread.
        detectable: the true difference that a sign-flip test detects with 80 % power, at the strictest
            level that Holm's correction may ask for; NaN for fewer pairs than that takes, and without spread.
        no_spread: whether all differences are equal, so that they say nothing of how others would vary.
        same: whether the arms gave the same numbers throughout, as where they differ in nothing that acts; then
            the difference is 0, and there is nothing to test.
        margin: of equivalence.
        confidence: of the intervals.
    """

    n: int
    missing: int
    mean: float
    sd: float
    t: Interval
    flip_p: float
    d_z: float
    superiority: float
    tost_p: float
    detectable: float
    no_spread: bool
    same: bool
    margin: float
    confidence: float

    @property
    def too_few(self) -> bool:
        """Whether there are fewer than two pairs, and so no intervals and no p-values."""
        return self.n < 2

    def interval(self, confidence: float) -> Interval:
        """Return mean and Student's t interval; without spread, a point.

        Args:
            confidence: of the interval, from 0 to 1.
        """
        return student_interval(self.mean, self.sd, self.n, confidence)


def estimate(
    a: ArrayLike, b: ArrayLike, margin: float, confidence: float = 0.95, tests: int = 1, same: bool = False
) -> Estimate:
    """Estimate a contrast from outcomes paired by seed.

    Args:
        a: outcome of arm A, shape ``[seeds]``; NaN where a trial failed.
        b: outcome of arm B, same seeds in the same order.
        margin: of equivalence, in the unit of the outcome's differences, above 0.
        confidence: of the intervals, between 0 and 1.
        tests: how many tests share the error rate 1 − confidence, for the detectable difference.
        same: whether the arms gave the same numbers throughout, not in this outcome alone.

    Returns:
        Everything at once; each part is one function of the differences.

    Raises:
        ValueError: shapes differ or aren't vectors, an outcome is infinite, or a setting is out of range.
    """
    check_confidence("estimate", confidence)
    x = paired_differences(a, b)
    constant = no_spread(x)
    mean = float(x.mean()) if x.size else math.nan
    if x.size < 2 or constant:
        end = mean if constant else math.nan
        t, sd, detectable = Interval(mean, end, end), 0.0 if constant else math.nan, math.nan
    else:
        t, sd = mean_interval(x, confidence), float(x.std(ddof=1))
        detectable = detectable_effect(x.size, sd, level(confidence) / tests)
    return Estimate(
        n=x.size,
        missing=np.size(a) - x.size,
        mean=mean,
        sd=sd,
        t=t,
        flip_p=sign_flip(x),
        d_z=effect_size(x),
        superiority=superiority(x),
        tost_p=equivalence(x, margin),
        detectable=detectable,
        no_spread=constant,
        same=same and constant,
        margin=margin,
        confidence=confidence,
    )


class Seeds(NamedTuple):
    """How many seeds a verdict would take; None for more than `MOST_SEEDS`.

    Attributes:
        about: at the measured standard deviation of the differences.
        low: at the lower end of its 95 % interval.
        high: at the upper end.
    """

    about: int | None
    low: int | None
    high: int | None


@dataclass(frozen=True)
class Verdict:
    """What may be concluded about a contrast.

    Attributes:
        kind: equivalent, better (A than B), worse or undecided; or withheld, which isn't a verdict.
        estimate: of the contrast.
        flip_p: sign-flip p-value, Holm-adjusted over the family; NaN where there was nothing to test.
        tost_p: equivalence p-value, likewise.
        flip_confidence: of the interval that goes with the test of a difference: 1 minus the level at which Holm's
            correction tests this contrast.
        tost_confidence: of the interval that goes with the test of equivalence: 1 minus twice its level.
        direction: better or worse where there is a difference; of an equivalent contrast, one that is too small to
            matter.
        seeds: undecided only: how many would decide it with 80 % power, were the observed difference the true one.
        reason: withheld only: why.
    """

    kind: Kind
    estimate: Estimate
    flip_p: float = math.nan
    tost_p: float = math.nan
    flip_confidence: float = math.nan
    tost_confidence: float = math.nan
    direction: Direction | None = None
    seeds: Seeds | None = None
    reason: str = ""

    def sentence(self, a: str, b: str, unit: str = "", scope: str = "") -> str:
        """Say it in one plain sentence, with the intervals and the adjusted p-values that it rests on.

        Args:
            a: name of arm A.
            b: name of arm B.
            unit: of the difference.
            scope: what a verdict speaks of, as ``"on this test set"``; default: nothing is said of it.
        """
        name, e = f"{a} − {b}", self.estimate
        if self.kind == "withheld":
            return f"{name}: verdict withheld: {self.reason}."
        # Enough digits to tell differences of a tenth of the margin apart.
        digits = max(2, 1 - math.floor(math.log10(e.margin)))
        pairs = f"{e.n} seeds" + (f", {e.missing} missing" if e.missing else "")
        unit, on = (f" {words}" if words else "" for words in (unit, scope))
        found = f"difference {_signed(e.mean, digits)}{unit} ({self._evidence(digits)}; {pairs})"
        if self.kind == "equivalent":
            also = f", and {self.direction}," if self.direction else ""
            return f"{name}: equivalent within ±{e.margin:g}{unit}{also}{on}: {found}."
        if self.kind != "undecided":
            return f"{name}: {self.kind}{on}: {found}."
        return f"{name}: undecided{on}: {found}; {self._needed()}."

    def _evidence(self, digits: int) -> str:
        e = self.estimate
        if e.same:
            return "the same numbers in every epoch of every pair"
        claims = {
            "equivalence": (self.tost_confidence, self.tost_p, self.kind == "equivalent"),
            "a difference": (self.flip_confidence, self.flip_p, self.kind != "equivalent" or self.direction),
        }
        parts = []
        for claim, (confidence, _, made) in claims.items():
            if made:
                what = f" for {claim}" if self.kind == "equivalent" and self.direction else ""
                parts.append(f"{_percent(confidence)} % interval {_ends(e.interval(confidence), digits)}{what}")
        ps = [f"{p_value(p)} of {claim}" for claim, (_, p, _) in claims.items() if not math.isnan(p)]
        return ", ".join(parts) + f"; adjusted p {' and '.join(ps)}"

    def _needed(self) -> str:
        assert self.seeds is not None
        about, low, high = (MOST if n is None else f"{_round_up(n):,}" for n in self.seeds)
        if about == MOST:
            return f"{MOST} seeds would be needed if this were the true difference"
        known = f"{low} to {high}, as {self.estimate.n} pairs tell their spread"
        return f"about {about} fresh seeds ({known}) would be needed if this were the true difference"


def verdicts(
    estimates: Mapping[str, Estimate],
    margin: float,
    confidence: float = 0.95,
    more_is_better: bool = True,
    error: ErrorRate = "each",
    withheld: Mapping[str, str] | None = None,
) -> dict[str, Verdict]:
    """Judge the primary contrasts of a study.

    Holm's correction runs over the sign-flip p-values of all, and by itself over their equivalence p-values: two
    families of claims. With ``error="each"``, each family makes any false claim with a chance of at most
    1 − confidence, and both together of at most twice that; with ``"both"``, levels are halved, and both together
    keep to it. A contrast can be equivalent and different at once: the difference is real, and too small to matter.

    Args:
        estimates: every declared contrast by name.
        margin: of equivalence, as in each estimate.
        confidence: as in each estimate.
        more_is_better: of the outcome; False for a loss.
        error: what the error rate 1 − confidence is of: each family, or both together.
        withheld: of contrasts that mustn't be judged, why.

    Returns:
        One verdict a contrast, in the same order. It is withheld for the reasons given, with fewer than two pairs,
        with more than 5 % of them missing, and without any spread, unless the arms are the same throughout. Such
        contrasts still count in both families, with p-values of 1.

    Raises:
        ValueError: an estimate was made with another margin or confidence.
    """
    for name, e in estimates.items():
        if (e.margin, e.confidence) != (margin, confidence):
            raise ValueError(
                f"verdicts: estimate {name!r} must have margin {margin} and confidence {confidence}, "
                f"got {e.margin} and {e.confidence}"
            )
    alpha = family_level(confidence, error)
    reasons = {name: (withheld or {}).get(name) or _reason(e) for name, e in estimates.items()}
    flips, flip_levels = _family([math.nan if reasons[name] else e.flip_p for name, e in estimates.items()], alpha)
    tosts, tost_levels = _family(
        [math.nan if reasons[name] else 0.0 if e.same else e.tost_p for name, e in estimates.items()], alpha
    )
    judged = {}
    for i, (name, e) in enumerate(estimates.items()):
        if reasons[name]:
            judged[name] = Verdict("withheld", e, reason=reasons[name])
            continue
        direction: Direction | None = None
        if flips[i] < alpha:
            direction = "better" if (e.mean > 0) == more_is_better else "worse"
        kind: Kind = "equivalent" if tosts[i] < alpha else direction or "undecided"
        judged[name] = Verdict(
            kind,
            e,
            flips[i],
            tosts[i],
            1 - flip_levels[i],
            1 - 2 * tost_levels[i],
            direction,
            _seeds_to_decide(e, alpha / len(estimates)) if kind == "undecided" else None,
        )
    return judged


def _reason(e: Estimate) -> str:
    """Return why an estimate can't be judged; nothing if it can."""
    pairs = e.n + e.missing
    if 100 * e.missing > MISSING_PERCENT * pairs:
        return f"{e.missing} of {pairs} pairs are missing, more than {MISSING_PERCENT} %"
    if e.too_few:
        return f"at least 2 pairs are needed, there are {e.n}"
    if e.no_spread and not e.same:
        return f"all {e.n} differences are {e.mean + 0.0:g}, and without any spread nothing is known of others"
    return ""


def _family(p: list[float], alpha: float) -> tuple[list[float], list[float]]:
    """Return Holm-adjusted p-values, and the level at which each hypothesis was tested at last."""
    adjusted = holm(p)
    rejected = int((adjusted < alpha).sum())
    ranks = np.argsort(np.argsort(np.nan_to_num(np.array(p), nan=1.0), kind="stable"), kind="stable")
    return adjusted.tolist(), [alpha / (len(p) - min(int(rank), rejected)) for rank in ranks]


def _seeds_to_decide(e: Estimate, alpha: float) -> Seeds:
    """Return the fewer of the seeds for either claim, at the strictest level that Holm's correction may ask for."""

    def fewest(sd: float) -> int | None:
        needed = [seeds_to_detect(e.mean, sd, alpha)]
        if not math.isnan(e.tost_p):
            needed.append(seeds_for_equivalence(sd, e.margin, e.mean, alpha))
        return min((n for n in needed if n is not None), default=None)

    df = e.n - 1
    low, high = (e.sd * math.sqrt(df / special.chdtri(df, tail)) for tail in (0.025, 0.975))
    return Seeds(fewest(e.sd), fewest(low), fewest(high))


def level(confidence: float) -> float:
    """Return 1 − confidence, without the rounding error: 1 − 0.95 is a little more than 0.05.

    Args:
        confidence: between 0 and 1.
    """
    return round(1 - confidence, 12)


def family_level(confidence: float, error: ErrorRate) -> float:
    """Return the level of each of the two families of claims: of differences, and of equivalence.

    Args:
        confidence: of intervals.
        error: what the error rate is of.
    """
    return level(confidence) / (2 if error == "both" else 1)


def p_value(p: float) -> str:
    """Return a p-value as text.

    Args:
        p: between 0 and 1.
    """
    # Rounded down or up to a level, a p-value would contradict its verdict.
    digits = next((d for d in range(2, 12) if float(f"{p:.{d}g}") not in (0.05, 0.025, 0.1, 0.01)), 12)
    return "below 0.0001" if p < 1e-4 else f"{p:.{digits}g}"


def _percent(confidence: float) -> str:
    """Return a confidence in percent, with as many digits as tell it from 100."""
    digits = max(1, 1 - math.floor(math.log10(100 * (1 - confidence)))) if confidence < 1 else 1
    return f"{round(100 * confidence, digits):g}"


def _round_up(n: int) -> int:
    # To two digits: the plan rests on an estimated spread.
    step: int = 10 ** max(0, len(str(n)) - 2)
    return -(-n // step) * step


def _ends(interval: Interval, digits: int) -> str:
    return f"{_signed(interval.low, digits)} to {_signed(interval.high, digits)}"


def _signed(value: float, digits: int) -> str:
    # Adding 0 makes a negative zero positive.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
