"""What a number of seeds can show, before a study is run."""

from __future__ import annotations

from dataclasses import dataclass

from weight_feedback.lab.statistics.power import (
    detectable_effect,
    detectable_margin,
    least_pairs,
    smallest_equivalence_p,
    smallest_flip_p,
)
from weight_feedback.lab.statistics.verdicts import family_level
from weight_feedback.lab.study.declared import Declared


@dataclass(frozen=True)
class Sensitivity:
    """What a number of seeds can show with 80 % power, in standard deviations of the paired differences.

    Each is NaN where the seeds are too few to show anything at all.

    Attributes:
        alone: the smallest true difference that is detected, at the mildest level of Holm's correction.
        family: the same at the strictest level.
        equivalence: the margin that is needed to show equivalence of arms without a true difference, at the
            strictest level.
        least: how many seeds it takes to show a difference at all, at the strictest level; None if none do.
        least_equivalence: how many seeds it takes to show equivalence at all, likewise.
    """

    alone: float
    family: float
    equivalence: float
    least: int | None
    least_equivalence: int | None


def sensitivity(seeds: int, declared: Declared) -> Sensitivity | None:
    """Return what a study's seeds can show.

    Args:
        seeds: how many pairs.
        declared: the error rate, and the family of contrasts.

    Returns:
        None for fewer than two seeds, which can show nothing.
    """
    if seeds < 2:
        return None
    mild = family_level(declared.confidence, declared.error)
    strict = mild / len(declared.primary)
    return Sensitivity(
        detectable_effect(seeds, 1.0, mild),
        detectable_effect(seeds, 1.0, strict),
        detectable_margin(seeds, strict),
        least_pairs(smallest_flip_p, strict),
        least_pairs(smallest_equivalence_p, strict),
    )
