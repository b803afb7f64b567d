"""What a pilot, on seeds outside a study, says of the seeds that it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from weight_feedback.lab.statistics.estimates import paired_differences, pairing
from weight_feedback.lab.statistics.outcomes import ArmResult, study_outcome
from weight_feedback.lab.statistics.power import seeds_for_equivalence, seeds_to_detect
from weight_feedback.lab.statistics.verdicts import family_level
from weight_feedback.lab.study.study import Study

#: By the standard deviation that was found, and by the lower and upper end of its interval.
Needed = tuple[int | None, int | None, int | None]


@dataclass(frozen=True)
class Piloted:
    """What a pilot says of one contrast, and not which arm was better.

    Attributes:
        a: name of an arm.
        b: name of the arm that it is compared with.
        n: pairs.
        sd: standard deviation of their differences, in the outcome's unit.
        low: lower end of its 95 % interval (of normal differences, by chi-squared).
        high: upper end.
        correlation: of the arms over seeds; NaN where one of them has no spread.
        equivalence: seeds to show equivalence of arms that don't differ, with 80 % power at Holm's strictest level.
        detection: likewise, to detect a true difference as large as the margin.
    """

    a: str
    b: str
    n: int
    sd: float
    low: float
    high: float
    correlation: float
    equivalence: Needed
    detection: Needed


def pilot_contrasts(study: Study, arms: Sequence[ArmResult]) -> list[Piloted]:
    """Return what a pilot's trials say of the primary contrasts of a study.

    Args:
        study: whose seeds are to be chosen, with a declaration.
        arms: what came out of its arms, over the pilot's seeds.

    Raises:
        ValueError: a contrast has fewer than two pairs.
    """
    declared = study.declared
    assert declared is not None
    strict = family_level(declared.confidence, declared.error) / len(declared.primary)
    by_name = {result.arm.name: result for result in arms}
    found = []
    for a, b in declared.primary:
        sides = [_by_seed(study, by_name.get(name)) for name in (a, b)]
        shared = [seed for seed in sides[0] if seed in sides[1]]
        left, right = (np.array([side[seed] for seed in shared]) for side in sides)
        differences = paired_differences(left, right)
        n = differences.size
        if n < 2:
            diverged = sum(len(by_name[name].diverged) for name in (a, b) if name in by_name)
            raise ValueError(
                f"pilot: expected at least 2 pairs of {a} and {b} that are there, got {n}; {diverged} trials "
                "diverged"
            )
        sd = float(differences.std(ddof=1))
        low, high = (
            sd * math.sqrt((n - 1) / (2 * special.gammaincinv((n - 1) / 2, level))) for level in (0.975, 0.025)
        )
        found.append(
            Piloted(
                a,
                b,
                n,
                sd,
                low,
                high,
                pairing(left, right)[0],
                _three(lambda spread: seeds_for_equivalence(spread, declared.margin, alpha=strict), sd, low, high),
                _three(lambda spread: seeds_to_detect(declared.margin, spread, strict), sd, low, high),
            )
        )
    return found


def _three(seeds: Callable[[float], int | None], sd: float, low: float, high: float) -> Needed:
    return seeds(sd), seeds(low), seeds(high)


def _by_seed(study: Study, arm: ArmResult | None) -> dict[int, float]:
    if arm is None or not arm.seeds:
        return {}
    values = study_outcome(study).of(arm.curves)
    return {seed: float(value) for seed, value in zip(arm.seeds, values, strict=True) if not math.isnan(value)}
