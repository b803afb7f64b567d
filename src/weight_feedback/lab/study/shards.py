"""Shards: a study in parts of about equal size, for machines that share nothing but, at last, their results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from weight_feedback.lab.study.study import Arm
from weight_feedback.lab.tasks.base import Trial


@dataclass(frozen=True)
class Shard:
    """One of several parts of a study.

    Args:
        number: which, from 1 on.
        count: how many there are.

    Raises:
        ValueError: there is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"shard: expected I/N with I from 1 to N, as 1/8 to 8/8, got {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, trials: Iterable[tuple[Arm, Trial]]) -> list[tuple[Arm, Trial]]:
        """Return the trials of this part, in their order.

        Which these are depends on the study alone, not on what is finished. Cohorts stay whole. The cohorts of all
        arms, arm by arm, are dealt out in turn: so parts differ by one cohort at most, in all and in each arm.

        Args:
            trials: of a study, each with its arm.
        """
        given = list(trials)
        arms: dict[str, dict[Trial, None]] = {}
        for arm, trial in given:
            arms.setdefault(arm.name, {})[trial.cohort()[0]] = None
        dealt = [cohort for cohorts in arms.values() for cohort in cohorts]
        mine = set(dealt[self.number - 1 :: self.count])
        return [(arm, trial) for arm, trial in given if trial.cohort()[0] in mine]


def parse_shard(text: str) -> Shard:
    """Read which shard is meant.

    Args:
        text: as in 3/8.

    Raises:
        ValueError: it is written otherwise, or there is no such shard.
    """
    if not (found := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)):
        raise ValueError(f"shard: expected I/N with I from 1 to N, as 1/8 to 8/8, got {text!r}")
    return Shard(int(found[1]), int(found[2]))
