"""What a study found: its finished trials as arrays, its contrasts and their verdicts; without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.estimates import Interval, area_under_curve, best, epochs_to, final, mean_interval
from weight_feedback.lab.gate import Passed, look, read_peeks, record_peek
from weight_feedback.lab.spec import SEEDS_END, Arm, OutcomeName, Study
from weight_feedback.lab.store import Record, Store
from weight_feedback.lab.verdicts import Estimate, estimate, verdicts

HEARD = {
    "zeros": "z = 0",
    "initial": "its initial z",
    "other": "another seed's final z",
}
"""What each swap lets a network hear."""


class Outcome(NamedTuple):
    """What is compared.

    Attributes:
        title: for headings.
        unit: of differences.
        more_is_better: False where less is.
    """

    title: str
    unit: str
    more_is_better: bool


OUTCOMES: dict[OutcomeName, Outcome] = {
    "final-accuracy": Outcome("final accuracy", "points", True),
    "area-under-curve": Outcome("mean accuracy over training", "points", True),
    "epochs-to-threshold": Outcome("epochs to {threshold:g} % accuracy", "epochs", False),
    "final-loss": Outcome("final test loss", "nats", False),
}


@dataclass(frozen=True)
class ArmResult:
    """What came out of one arm.

    From its divergence on, a trial counts as chance: accuracy ``100 / classes``, loss ``log(classes)``.

    Attributes:
        arm: of the study.
        parameters: trainable numbers; 0 without a finished trial.
        seeds: of the finished trials, in order.
        accuracy: on the test set, percent, shape ``[seeds, epochs]``.
        loss: on the test set, nats, shape ``[seeds, epochs]``.
        hearings: ``norm``, ``drift`` and ``share`` of what is heard, before the first step and after each epoch,
            shape ``[seeds, epochs + 1]``, NaN after a divergence; empty for an arm that hears nothing.
        seconds: wall time of each trial, shape ``[seeds]``.
        diverged: seed to the step at which it diverged.
        failed: seed to why the trial failed; such trials are missing from all arrays.
    """

    arm: Arm
    parameters: int
    seeds: tuple[int, ...]
    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    hearings: Mapping[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]
    diverged: Mapping[int, int] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def final(self) -> Interval:
        """Accuracy after the last epoch, percent."""
        return mean_interval(final(self.accuracy))

    @property
    def best(self) -> Interval:
        """Accuracy after the best epoch of each trial, percent."""
        return mean_interval(best(self.accuracy))

    @property
    def final_loss(self) -> Interval:
        """Test loss after the last epoch, nats."""
        return mean_interval(self.loss[:, -1])


@dataclass(frozen=True)
class Compared:
    """One contrast, arm ``a`` minus arm ``b``, paired by seed.

    Attributes:
        a: name of the arm.
        b: name of the arm that it is compared with.
        primary: whether it was declared before the run; only then it gets a verdict.
        estimate: what the pairs say, in the outcome's unit.
        differences: seed to difference, of the pairs that are there.
        verdict: one sentence; empty for contrasts that weren't declared, and before all their trials are finished.
        kind: of the verdict, see `verdicts.Verdict`; empty likewise.
    """

    a: str
    b: str
    primary: bool
    estimate: Estimate
    differences: Mapping[int, float]
    verdict: str = ""
    kind: str = ""


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
            compare with; none for a study that declares nothing, or waits.
        waiting: how many trials of the primary contrasts are neither finished nor failed; until there are none,
            there are no verdicts, and no contrasts but for those who peek, since looking early and stopping when
            one likes the outcome would spoil them.
        swaps: in the order of arms.
        extended: how many seeds there are, with those beyond the study's own.
        exploratory: the same contrasts over all these seeds, if there are more than the study's own; no verdicts.
        provenance: of every finished trial within the study's own seeds.
        passed: what the gate says of the study.
        command: that runs what is missing.
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
    passed: Passed
    command: str

    def made_with(self, name: str) -> list[str]:
        """Return each value that an entry of the provenance has in any trial.

        Args:
            name: of the entry.
        """
        return sorted({str(provenance[name]) for provenance in self.provenance})

    @property
    def sentences(self) -> list[str]:
        """One verdict for each primary contrast, or why there is none; then what readers should know of them."""
        verdicts = [contrast.verdict for contrast in self.contrasts if contrast.verdict]
        return [*self.reasons, *verdicts, *filter(None, [self.passed.looked])]

    @property
    def reasons(self) -> list[str]:
        """Why there are no verdicts at all; empty if there are some, or nothing is declared."""
        reasons = [f"No verdicts, and estimates alone: {self.passed.late}."] if self.passed.late else []
        if self.study.declared is not None and self.waiting:
            reasons.append(
                f"No verdicts yet: {self.waiting} trials of the declared contrasts are still to be run, as by "
                f"{self.command}. Until then no differences are shown, but with --peek, which every later report "
                "tells of."
            )
        return reasons


def study_outcome(study: Study) -> Outcome:
    """Return what a study's contrasts compare.

    Args:
        study: with or without a declaration; without, it is final accuracy.
    """
    if study.declared is None:
        return OUTCOMES["final-accuracy"]
    outcome = OUTCOMES[study.declared.outcome]
    return outcome._replace(title=outcome.title.format(threshold=study.declared.threshold))


def analyse(study: Study, store: Store, *, command: str = "weight-feedback run", peek: bool = False) -> Analysis:
    """Read all that is finished of a study, and estimate what it says, as far as the gate lets it through.

    Args:
        study: arms × seeds, and what is declared of them.
        store: what is finished.
        command: that runs what is missing; to be named where something is.
        peek: whether to estimate contrasts before all of their trials are there. That is kept in the store.

    Raises:
        StoreError: a finished trial is damaged, the study was declared otherwise, or a peek can't be kept.
    """
    extended = extended_seeds(study, store)
    more = {(arm.name, trial.seed): store.read(trial) for arm, trial in study.trials(seeds=extended)}
    records = {(name, seed): record for (name, seed), record in more.items() if seed in study.seed_numbers()}
    failures = {
        (arm.name, trial.seed): store.failure(trial)
        for arm, trial in study.trials()
        if not records[arm.name, trial.seed]
    }
    passed = look(study, store, {place: record.provenance for place, record in records.items() if record})
    waiting = sum(reason is None for (name, _), reason in failures.items() if name in study.declared_arms)
    if peek and waiting:
        trials = len(study.declared_arms) * study.seeds
        record_peek(store, trials - waiting, trials)
        passed = replace(passed, peeks=read_peeks(store.folder))
    arms = [_arm_result(study, arm, records, failures) for arm in study.arms]
    wide = [_arm_result(study, arm, more, {}) for arm in study.arms] if extended > study.seeds else []
    shown = peek or not waiting
    return Analysis(
        study=study,
        outcome=study_outcome(study),
        arms=[arm for arm in arms if arm.seeds or arm.failed],
        contrasts=_compare(study, arms, study.seeds, passed, judge=not waiting) if shown else [],
        waiting=waiting,
        swaps=list(_swapped(study, store, arms)),
        extended=extended,
        exploratory=_compare(study, wide, extended, passed, judge=False) if shown else [],
        provenance=[record.provenance for record in records.values() if record],
        passed=passed,
        command=command,
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


def _by_seed(study: Study, arm: ArmResult, seeds: int) -> NDArray[np.float64]:
    """Return an arm's declared outcome, shape ``[seeds]``, from the first seed on, NaN where there is no trial."""
    assert study.declared is not None
    outcome = np.full(seeds, np.nan)
    if arm.seeds:
        found = {
            "final-accuracy": lambda: final(arm.accuracy),
            "area-under-curve": lambda: area_under_curve(arm.accuracy),
            "epochs-to-threshold": lambda: epochs_to(arm.accuracy, study.declared.threshold or 0),
            "final-loss": lambda: arm.loss[:, -1],
        }
        outcome[np.subtract(arm.seeds, study.first_seed)] = found[study.declared.outcome]()
    return outcome


def _compare(study: Study, arms: Sequence[ArmResult], seeds: int, passed: Passed, judge: bool) -> list[Compared]:
    """Estimate all contrasts that have a pair, and judge the primary ones as one family, if the gate lets them.

    What was declared too late counts as not declared, and gets estimates without p-values.
    """
    declared = study.declared
    if declared is None or not arms:
        return []
    outcomes = {result.arm.name: _by_seed(study, result, seeds) for result in arms}
    estimates = {
        (a, b): estimate(outcomes[a], outcomes[b], declared.margin, declared.confidence) for a, b in _pairs(study)
    }
    outcome = study_outcome(study)
    if passed.late:
        estimates = {pair: replace(one, flip_p=math.nan, tost_p=math.nan) for pair, one in estimates.items()}
    judged = judge and not passed.late
    family = {f"{a} − {b}": estimates[a, b] for a, b in declared.primary} if judged else {}
    found = verdicts(family, declared.margin, declared.confidence, outcome.more_is_better)
    for (a, b), reason in passed.used.items() if judged else ():
        found[f"{a} − {b}"] = replace(found[f"{a} − {b}"], kind="withheld", reason=reason)
    compared = []
    for (a, b), contrast in estimates.items():
        primary = (a, b) in declared.primary and not passed.late
        verdict = found.get(f"{a} − {b}") if primary else None
        if contrast.n or verdict:
            differences = outcomes[a] - outcomes[b]
            compared.append(
                Compared(
                    a,
                    b,
                    primary,
                    contrast,
                    {seed: float(x) for seed, x in enumerate(differences, study.first_seed) if not math.isnan(x)},
                    verdict.sentence(a, b, outcome.unit) if verdict else "",
                    verdict.kind if verdict else "",
                )
            )
    return compared


def _pairs(study: Study) -> list[tuple[str, str]]:
    """Return the primary contrasts, then each arm with each reference, each pair once, whichever way round."""
    assert study.declared is not None
    pairs = dict.fromkeys(study.declared.primary)
    for reference in dict.fromkeys(b for _, b in study.declared.primary):
        for arm in study.arms:
            if arm.name != reference and (reference, arm.name) not in pairs:
                pairs.setdefault((arm.name, reference))
    return list(pairs)


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
    following = study.seed_numbers().stop
    while following < SEEDS_END and any(store.read(study.trial(arm, following)) for arm in study.arms):
        following += 1
    return following - study.first_seed
