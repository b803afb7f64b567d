"""The contrasts of a study: estimates of all, verdicts on those that were declared, and what keeps one from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.statistics.estimates import pairing
from weight_feedback.lab.statistics.gate import Pair, Passed
from weight_feedback.lab.statistics.outcomes import ArmResult, study_outcome, with_unit
from weight_feedback.lab.statistics.verdicts import MISSING_PERCENT, Estimate, Verdict, estimate, verdicts
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.study import Study
from weight_feedback.untrusted import printable


@dataclass(frozen=True)
class Compared:
    """One contrast, arm ``a`` minus arm ``b``, paired by seed.

    Attributes:
        a: name of the arm.
        b: name of the arm that it is compared with.
        primary: whether it was declared before the run; only then it gets a verdict.
        estimate: what the pairs say, in the outcome's unit.
        differences: seed to difference, of the pairs that are there.
        judged: its verdict; None for contrasts that weren't declared, and before all their trials are finished.
        verdict: the same in a sentence or two; empty likewise.
    """

    a: str
    b: str
    primary: bool
    estimate: Estimate
    differences: Mapping[int, float]
    judged: Verdict | None = None
    verdict: str = ""

    @property
    def kind(self) -> str:
        """Of the verdict; empty without one."""
        return self.judged.kind if self.judged else ""


def compare(study: Study, arms: Sequence[ArmResult], seeds: int, passed: Passed, judge: bool) -> list[Compared]:
    """Estimate all contrasts that have a pair, and judge the primary ones, if the gate lets them.

    What was declared too late counts as not declared, and gets estimates without p-values.

    Args:
        study: with a declaration; without one there are no contrasts.
        arms: what came out of all of its arms.
        seeds: how many there are.
        passed: what the gate says of the study.
        judge: whether it is time for verdicts.
    """
    declared = study.declared
    if declared is None or not arms:
        return []
    results = {result.arm.name: result for result in arms}
    outcomes = {name: _by_seed(study, result, seeds) for name, result in results.items()}
    paired = {(a, b): _Paired(study, results[a], results[b], outcomes[a], outcomes[b]) for a, b in _pairs(study)}
    if passed.late:
        for one in paired.values():
            one.estimate = replace(one.estimate, flip_p=math.nan, tost_p=math.nan)
    judged: Mapping[Pair, tuple[Verdict, str]] = {}
    if judge and not passed.late:
        judged = _judge({pair: paired[pair] for pair in declared.primary}, passed.used)
    compared = []
    for (a, b), contrast in paired.items():
        verdict, sentence = judged.get((a, b), (None, ""))
        if contrast.estimate.n or verdict:
            differences = outcomes[a] - outcomes[b]
            there = {seed: float(x) for seed, x in enumerate(differences, study.first_seed) if not math.isnan(x)}
            primary = (a, b) in declared.primary and not passed.late
            shown = contrast.estimate
            if verdict and verdict.kind == "withheld":
                shown = replace(shown, flip_p=math.nan, tost_p=math.nan)
            compared.append(Compared(a, b, primary, shown, there, verdict, sentence))
    return compared


class Paired(NamedTuple):
    """How alike the arms of a contrast are over seeds, and what pairing them is worth.

    Attributes:
        a: name of an arm.
        b: name of the arm that it is compared with.
        n: pairs.
        correlation: of the arms' outcomes over seeds.
        worth: unpaired seeds of each arm that a paired one is worth.
    """

    a: str
    b: str
    n: int
    correlation: float
    worth: float


def pairings(study: Study, arms: Sequence[ArmResult]) -> list[Paired]:
    """Return, of each primary contrast with enough pairs, what pairing is worth; it tells of no difference.

    Args:
        study: arms × seeds.
        arms: what came out of all of its arms, so far.
    """
    results = {result.arm.name: result for result in arms}
    found = []
    for a, b in study.declared.primary if study.declared else ():
        left, right = (_by_seed(study, results[name], study.seeds) for name in (a, b))
        correlation, worth = pairing(left, right)
        if not math.isnan(correlation):
            found.append(Paired(a, b, int((~np.isnan(left - right)).sum()), correlation, worth))
    return found


def _pairs(study: Study) -> list[Pair]:
    """Return the primary contrasts, then each arm with each reference, each pair once, whichever way round."""
    assert study.declared is not None
    pairs = dict.fromkeys(study.declared.primary)
    for reference in dict.fromkeys(b for _, b in study.declared.primary):
        for arm in study.arms:
            if arm.name != reference and (reference, arm.name) not in pairs:
                pairs.setdefault((arm.name, reference))
    return list(pairs)


def _by_seed(study: Study, arm: ArmResult, seeds: int) -> NDArray[np.float64]:
    """Return an arm's declared outcome, shape ``[seeds]``, from the first seed on, NaN where there is no trial."""
    outcome = np.full(seeds, np.nan)
    if arm.seeds:
        outcome[np.subtract(arm.seeds, study.first_seed)] = study_outcome(study).of(arm.curves)
    return outcome


class _Paired:
    """Two arms, seed by seed: their estimate, and what it rests on."""

    def __init__(
        self, study: Study, a: ArmResult, b: ArmResult, left: NDArray[np.float64], right: NDArray[np.float64]
    ) -> None:
        assert study.declared is not None
        self.study, self.declared, self.arms = study, study.declared, (a, b)
        self.outcomes = left, right
        there = ~np.isnan(left - right)
        by_arm = [there & np.isin(study.first_seed + np.arange(left.size), [*arm.diverged]) for arm in (a, b)]
        self.diverged, self.trials_diverged = by_arm[0] | by_arm[1], int(by_arm[0].sum() + by_arm[1].sum())
        self.estimate = self._estimate(left, right)

    def _estimate(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Estimate:
        found = estimate(
            left, right, self.declared.margin, self.declared.confidence, _tests(self.declared), _same(*self.arms)
        )
        if 100 * self.censored > MISSING_PERCENT * 2 * found.n:
            # What counts as the least that it can be may be any amount more: no claim of equivalence rests on it.
            return replace(found, tost_p=math.nan)
        return found

    @property
    def censored(self) -> int:
        """How many trials of the pairs never reached the threshold whose epoch is the outcome."""
        if self.declared.outcome != "first-past":
            return 0
        left, right = self.outcomes
        there = ~np.isnan(left - right)
        return sum(int((x[there] > arm.epochs).sum()) for x, arm in zip((left, right), self.arms, strict=True))

    @property
    def without_diverged(self) -> Estimate:
        """The estimate of the pairs in which no trial diverged."""
        left, right = self.outcomes
        return self._estimate(left[~self.diverged], right[~self.diverged])

    @property
    def reason(self) -> str:
        """Why the pairs hold too little to be judged; nothing if they hold enough."""
        trials = 2 * self.estimate.n
        a, b = self.arms
        if self.estimate.n and a.data != b.data:
            return (
                f"{a.arm.name} and {b.arm.name} come from different data or code "
                f"({_told(a.data - b.data)} against {_told(b.data - a.data)}), so that their pairs aren't pairs"
            )
        if 2 * self.trials_diverged > trials:
            return (
                f"{self.trials_diverged} of {trials} trials diverged, so that most of what is compared is what "
                "such trials count as"
            )
        if 2 * self.censored > trials:
            return (
                f"{self.censored} of {trials} trials never reached the threshold, {self._threshold}, so that most "
                "of what is compared is a bound"
            )
        return ""

    @property
    def _threshold(self) -> str:
        metric = self.study.reported[self.study.judged]
        return f"{with_unit(f'{self.declared.threshold:g}', metric.unit)} {self.study.label(self.study.judged)}"

    @property
    def note(self) -> str:
        """What to add to a verdict on them."""
        if not self.censored:
            return ""
        epochs = sorted({arm.epochs + 1 for arm in self.arms})
        unjudged = math.isnan(self.estimate.tost_p) and not self.estimate.same
        judged = "; equivalence isn't judged from them" if unjudged else ""
        return (
            f" {self.censored} of {2 * self.estimate.n} trials never reached the threshold, and count as "
            f"{' or '.join(map(str, epochs))} epochs, the least that they can have needed{judged}."
        )


def _tests(declared: Declared) -> int:
    """Return by how much Holm's correction divides the error rate at most."""
    return len(declared.primary) * (2 if declared.error == "both" else 1)


def _same(a: ArmResult, b: ArmResult) -> bool:
    """Say whether two arms gave the same numbers in each epoch of each seed that both trained to the end."""
    there = [seed for seed in a.seeds if seed in b.seeds and seed not in a.diverged and seed not in b.diverged]
    left, right = ([result.seeds.index(seed) for seed in there] for result in (a, b))
    return (
        len(there) > 1
        and a.curves.keys() == b.curves.keys()
        and all(np.array_equal(a.curves[name][left], b.curves[name][right], equal_nan=True) for name in a.curves)
    )


def _told(data: Iterable[tuple[str, str]]) -> str:
    """Return names and fingerprints as text."""
    return printable(", ".join(f"{name} {fingerprint[:16]}" for name, fingerprint in sorted(data))) or "none"


def _judge(paired: Mapping[Pair, _Paired], withheld: Mapping[Pair, str]) -> dict[Pair, tuple[Verdict, str]]:
    """Return the verdicts on the primary contrasts, and their sentences."""
    study = next(iter(paired.values())).study
    outcome, scope = study_outcome(study), study.kind.scope
    reasons = {pair: withheld.get(pair) or one.reason for pair, one in paired.items()}

    def family(estimates: Mapping[Pair, Estimate]) -> dict[Pair, Verdict]:
        declared = study.declared
        assert declared is not None
        found = verdicts(
            {f"{a} − {b}": one for (a, b), one in estimates.items()},
            declared.margin,
            declared.confidence,
            outcome.more_is_better,
            declared.error,
            {f"{a} − {b}": reason for (a, b), reason in reasons.items()},
        )
        return dict(zip(estimates, found.values(), strict=True))

    found = family({pair: one.estimate for pair, one in paired.items()})
    without = found
    if any(one.diverged.any() for one in paired.values()):
        without = family({pair: one.without_diverged for pair, one in paired.items()})
    judged = {}
    for (a, b), one in paired.items():
        verdict, other = found[a, b], without[a, b]
        sentence = verdict.sentence(a, b, outcome.differences, scope)
        if verdict.kind != "withheld":
            sentence += one.note
            if (verdict.kind, verdict.direction) != (other.kind, other.direction):
                own = int(one.diverged.sum())
                where = (
                    f"In {own} of the pairs a trial diverged"
                    if own
                    else "In pairs of other contrasts trials diverged"
                )
                sentence += f" {where}; without them, {other.sentence(a, b, outcome.differences, scope)}"
        judged[a, b] = verdict, sentence
    return judged
