"""What a study found: its finished trials as arrays, its contrasts and their verdicts; without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from weight_feedback.lab.contrasts import Compared, compare
from weight_feedback.lab.estimates import Interval, mean_interval
from weight_feedback.lab.outcomes import ArmResult, Outcome, study_outcome
from weight_feedback.lab.spec import Arm, Study
from weight_feedback.lab.store import Record, Store

HEARD = {
    "zeros": "z = 0",
    "initial": "its initial z",
    "other": "another seed's final z",
}
"""What each swap lets a network hear."""


class Swapped(NamedTuple):
    """What became of an arm's trained networks when they heard something else in evaluation.

    Attributes:
        arm: name of the arm.
        heard: what they heard instead, a key of `HEARD`.
        accuracy: then, percent.
        change: of accuracy by the swap, points, paired by seed.
        changes: seed to change.
    """

    arm: str
    heard: str
    accuracy: Interval
    change: Interval
    changes: Mapping[int, float]


@dataclass(frozen=True)
class Analysis:
    """Everything that a report shows.

    Attributes:
        study: arms × seeds, and what is declared of them.
        outcome: what the contrasts compare.
        arms: those with a finished or failed trial, in the study's order.
        contrasts: the primary ones in the order of their declaration, then every arm against each arm that these
            compare with; none for a study that declares nothing.
        waiting: how many trials of the primary contrasts are neither finished nor failed; until there are none,
            there are no verdicts, since looking early and stopping when one likes the outcome would spoil them.
        swaps: in the order of arms.
        extended: how many seeds there are, with those beyond the study's own.
        exploratory: the same contrasts over all these seeds, if there are more than the study's own; no verdicts.
        provenance: of every finished trial within the study's own seeds.
    """

    study: Study
    outcome: Outcome
    arms: Sequence[ArmResult]
    contrasts: Sequence[Compared]
    waiting: int
    swaps: Sequence[Swapped]
    extended: int
    exploratory: Sequence[Compared]
    provenance: Sequence[Mapping[str, Any]]

    def made_with(self, name: str) -> list[str]:
        """Return each value that an entry of the provenance has in any trial.

        Args:
            name: of the entry.
        """
        return sorted({str(provenance[name]) for provenance in self.provenance})

    @property
    def sentences(self) -> list[str]:
        """One verdict for each primary contrast, or why there is none yet."""
        if self.study.declared is None:
            return []
        if self.waiting:
            return [f"No verdicts yet: {self.waiting} trials of the declared contrasts are still to be run."]
        return [contrast.verdict for contrast in self.contrasts if contrast.verdict]


def analyse(study: Study, store: Store) -> Analysis:
    """Read all that is finished of a study, and estimate what it says.

    Args:
        study: arms × seeds, and what is declared of them.
        store: what is finished.

    Raises:
        StoreError: a finished trial is damaged.
    """
    extended = extended_seeds(study, store)
    more = {(arm.name, trial.seed): store.read(trial) for arm, trial in study.trials(seeds=extended)}
    records = {(name, seed): record for (name, seed), record in more.items() if seed < study.seeds}
    failures = {
        (arm.name, trial.seed): store.failure(trial)
        for arm, trial in study.trials()
        if not records[arm.name, trial.seed]
    }
    arms = [_arm_result(study, arm, records, failures) for arm in study.arms]
    wide = [_arm_result(study, arm, more, {}) for arm in study.arms] if extended > study.seeds else []
    waiting = sum(reason is None for (name, _), reason in failures.items() if name in study.declared_arms)
    return Analysis(
        study=study,
        outcome=study_outcome(study),
        arms=[arm for arm in arms if arm.seeds or arm.failed],
        contrasts=compare(study, arms, study.seeds, judge=not waiting),
        waiting=waiting,
        swaps=list(_swapped(study, store, arms)),
        extended=extended,
        exploratory=compare(study, wide, extended, judge=False),
        provenance=[record.provenance for record in records.values() if record],
    )


def _arm_result(
    study: Study,
    arm: Arm,
    records: Mapping[tuple[str, int], Record | None],
    failures: Mapping[tuple[str, int], str | None],
) -> ArmResult:
    found = {seed: record for (name, seed), record in records.items() if record and name == arm.name}
    results, epochs = [record.result for record in found.values()], study.training.epochs
    accuracy, loss = np.empty((len(results), epochs)), np.empty((len(results), epochs))
    for row, result in enumerate(results):
        done = result["epochs"]
        accuracy[row], loss[row] = 100 / result["classes"], math.log(result["classes"])
        accuracy[row, : len(done)] = [epoch["accuracy"] for epoch in done]
        loss[row, : len(done)] = [epoch["loss"] for epoch in done]
    hearings = {name: np.full((len(results), epochs + 1), np.nan) for name in ("norm", "drift", "share")}
    for name, values in hearings.items():
        for row, result in enumerate(results):
            values[row, : len(result["hearings"])] = [hearing[name] for hearing in result["hearings"]]
    return ArmResult(
        arm=arm,
        parameters=results[0]["parameters"] if results else 0,
        seeds=tuple(found),
        accuracy=accuracy,
        loss=loss,
        hearings=hearings if any(result["hearings"] for result in results) else {},
        seconds=np.array([record.provenance["seconds"] for record in found.values()]),
        diverged={seed: r.result["diverged"] for seed, r in found.items() if r.result["diverged"] is not None},
        failed={seed: reason for (name, seed), reason in failures.items() if reason and name == arm.name},
    )


def _swapped(study: Study, store: Store, arms: Sequence[ArmResult]) -> Iterator[Swapped]:
    trained = {
        (result.arm.name, seed): float(accuracy)
        for result in arms
        for seed, accuracy in zip(result.seeds, result.accuracy[:, -1:].ravel(), strict=True)
    }
    found: dict[tuple[str, str], dict[int, float]] = {}
    for arm, swap in study.swaps():
        record = store.read(swap)
        if record is not None and (arm.name, swap.trial.seed) in trained:
            found.setdefault((arm.name, swap.heard), {})[swap.trial.seed] = record.result["accuracy"]
    for (name, heard), accuracy in found.items():
        changes = {seed: value - trained[name, seed] for seed, value in accuracy.items()}
        yield Swapped(
            name, heard, mean_interval(list(accuracy.values())), mean_interval(list(changes.values())), changes
        )


def extended_seeds(study: Study, store: Store) -> int:
    """Return how many seeds there are: the study's own, and those that follow without a gap in any arm.

    Args:
        study: arms × seeds.
        store: what is finished.
    """
    seeds = study.seeds
    while any(store.read(study.trial(arm, seeds)) for arm in study.arms):
        seeds += 1
    return seeds
