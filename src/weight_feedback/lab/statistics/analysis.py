"""What a study found: its finished trials as arrays, its contrasts and their verdicts; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.data.published import mixed_data
from weight_feedback.lab.statistics.contrasts import Compared, Paired, compare, pairings
from weight_feedback.lab.statistics.estimates import Interval, mean_interval
from weight_feedback.lab.statistics.gate import Passed, look
from weight_feedback.lab.statistics.outcomes import ArmResult, Outcome, mean_there, study_outcome
from weight_feedback.lab.store.checks import read_checks
from weight_feedback.lab.store.inventory import count_data
from weight_feedback.lab.store.peeks import read_peeks, record_peek
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.trials import Swap, data_of
from weight_feedback.lab.tasks.base import CODE, SEEDS_END, Measured, Metric


class Swapped(NamedTuple):
    """What became of an arm's trained models when they were evaluated under something else.

    Attributes:
        arm: name of the arm.
        under: what it was, as text.
        value: the judged metric then.
        change: of its final value by the swap, paired by seed.
        changes: seed to change.
    """

    arm: str
    under: str
    value: Interval
    change: Interval
    changes: Mapping[int, float]


@dataclass(frozen=True)
class Analysis:
    """Everything that a report shows.

    Attributes:
        study: arms × seeds, and what is declared of them.
        outcome: what the contrasts compare.
        arms: those with a finished or failed trial, in the study's order; of those that were asked for.
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
        data: how many results, of trials and swaps, come from which data.
        chosen: names of the arms that were asked for; None: all. Arms, contrasts, swaps and provenance are of these
            alone; everything else, the family of verdicts among it, is of the whole study.
        pairings: what pairing is worth in each primary contrast, from the first seeds on.
        unfit: what a preflight found wrong with the code that made these results.
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
    data: Mapping[str, Mapping[str, int]]
    chosen: Sequence[str] | None = None
    pairings: Sequence[Paired] = ()
    unfit: Sequence[str] = ()

    def made_with(self, name: str) -> list[str]:
        """Return each value that an entry of the provenance has in any trial.

        Args:
            name: of the entry.
        """
        return sorted({str(provenance[name]) for provenance in self.provenance})

    @property
    def mixed(self) -> str:
        """Why nothing is compared: results come from different data; empty if they don't."""
        return mixed_data(self.data)

    @property
    def choice(self) -> str:
        """Which arms are shown, in a sentence; empty if all are."""
        if self.chosen is None:
            return ""
        said = f"Shown: some arms ({', '.join(self.chosen)}), of {len(self.study.arms)}."
        if self.study.declared is None:
            return said
        return f"{said} Verdicts and adjusted p-values are those of the whole declared family of contrasts."

    @property
    def sentences(self) -> list[str]:
        """One verdict for each primary contrast, or why there is none; then what readers should know of them."""
        verdicts = [contrast.verdict for contrast in self.contrasts if contrast.verdict]
        return [*self.reasons, *verdicts, *filter(None, [self.passed.looked])]

    @property
    def notes(self) -> list[str]:
        """What readers should know besides: what makes results unfit, and what pairing by seed is worth."""
        return [*self.unfit, *self.paired]

    @property
    def paired(self) -> list[str]:
        """What pairing by seed is worth, in a sentence for each primary contrast with three pairs or more."""
        return [
            f"Pairing of {one.a} and {one.b}: correlation {_signed(one.correlation)} over {one.n} seeds; a paired "
            f"seed is worth {one.worth:.1f} unpaired ones of each arm."
            for one in self.pairings
        ]

    @property
    def reasons(self) -> list[str]:
        """Why there are no verdicts at all; empty if there are some, or nothing is declared on one data set."""
        if self.mixed:
            return [f"No verdicts, no differences and no means: {self.mixed}, and can't be compared."]
        reasons = [f"No verdicts, and estimates alone: {self.passed.late}."] if self.passed.late else []
        if self.study.declared is not None and self.waiting:
            reasons.append(
                f"No verdicts yet: {self.waiting} trials of the declared contrasts are still to be run, as by "
                f"{self.command}. Until then no differences are shown, but with --peek, which every later report "
                "tells of."
            )
        return reasons


def analyse(
    study: Study,
    store: Store | None = None,
    *,
    command: str = "weight-feedback run",
    peek: bool = False,
    arms: Sequence[str] | None = None,
) -> Analysis:
    """Read all that is finished of a study, and estimate what it says, as far as the gate lets it through.

    Args:
        study: arms × seeds, and what is declared of them.
        store: what is finished; default: the folder of the study's name in ``results``.
        command: that runs what is missing; to be named where something is.
        peek: whether to estimate contrasts before all of their trials are there. That is kept in the store.
        arms: names of those to show; default: all. Contrasts are shown between these alone, and are judged as in
            the whole family.

    Raises:
        ValueError: the study has no arm of a name.
        StoreError: a finished trial is damaged, the study was declared otherwise, or a peek can't be kept.
    """
    store = store or Store.of(study)
    chosen = study.choose(arms)
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
    passed = _peeked(study, store, passed, failures, waiting, peek)
    results = [_arm_result(study, arm, records, failures) for arm in study.arms]
    wide = [_arm_result(study, arm, more, {}) for arm in study.arms] if extended > study.seeds else []
    swapped = [(arm, swap, record) for arm, swap in study.swaps() if (record := store.read(swap))]
    data: dict[str, Counter[str]] = {}
    for one in (*more.values(), *(record for *_, record in swapped)):
        if one:
            count_data(data, one.result)
    mixed = bool(mixed_data(data))
    shown = (peek or not waiting) and not mixed
    return Analysis(
        study=study,
        outcome=study_outcome(study),
        arms=[one for one in results if one.arm.name in chosen and (one.seeds or one.failed)],
        contrasts=_between(chosen, compare(study, results, study.seeds, passed, judge=not waiting))
        if shown
        else [],
        waiting=waiting,
        swaps=[] if mixed else [one for one in _swapped(study, swapped, results) if one.arm in chosen],
        extended=extended,
        exploratory=_between(chosen, compare(study, wide, extended, passed, judge=False)) if shown else [],
        provenance=[one.provenance for (name, _), one in records.items() if one and name in chosen],
        passed=passed,
        command=command,
        data=data,
        chosen=None if arms is None else chosen,
        pairings=[] if mixed else [one for one in pairings(study, results) if {one.a, one.b} <= {*chosen}],
        unfit=_unfit(store, data),
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _unfit(store: Store, data: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return what a preflight found wrong with the code of some results."""
    checked = read_checks(store.folder)
    if checked is None or checked.code not in data.get(CODE, {}):
        return []
    return [check.warning for check in checked.failed]


def _between(arms: Sequence[str], contrasts: Sequence[Compared]) -> list[Compared]:
    """Return the contrasts between some arms; they were compared and judged with all others."""
    return [contrast for contrast in contrasts if contrast.a in arms and contrast.b in arms]


def _peeked(
    study: Study,
    store: Store,
    passed: Passed,
    failures: Mapping[tuple[str, int], str | None],
    waiting: int,
    peek: bool,
) -> Passed:
    """Keep a look at a study that isn't finished, and return what the gate says with the looks that there were.

    With a failed trial it isn't finished either, as the next run tries it again.
    """
    trials = len(study.declared_arms) * study.seeds
    finished = trials - sum(name in study.declared_arms for name, _ in failures)
    peeks = passed.peeks
    if finished < trials and (peek or not waiting) and finished not in [known.finished for known in peeks]:
        record_peek(store, finished, trials)
        peeks = read_peeks(store.folder)
    return replace(passed, peeks=[one for one in peeks if waiting or one.finished != finished])


def _arm_result(
    study: Study,
    arm: Arm,
    records: Mapping[tuple[str, int], Record | None],
    failures: Mapping[tuple[str, int], str | None],
) -> ArmResult:
    found = {seed: record for (name, seed), record in records.items() if record and name == arm.name}
    measured = {seed: study.kind.measured(record.result) for seed, record in found.items()}
    trials = [*measured.values()]
    epochs = max((one.epochs for one in trials), default=0)
    names = dict.fromkeys(name for one in trials for name in one.diagnostics)
    counts = {name: _counts(name, metric, trials) for name, metric in study.reported.items()}
    return ArmResult(
        arm=arm,
        seeds=tuple(found),
        curves={
            name: _rows([_curve(name, metric, one, epochs) for one in trials], epochs)
            for name, metric in study.reported.items()
        },
        diagnostics={
            name: _rows([_padded(one.diagnostics.get(name, ()), epochs + 1) for one in trials], epochs + 1)
            for name in names
        },
        seconds=np.array([record.provenance["seconds"] for record in found.values()]),
        facts=_shared([one.facts for one in trials]),
        diverged={seed: one.diverged for seed, one in measured.items() if one.diverged},
        counts={name: values for name, values in counts.items() if values},
        failed={seed: reason for (name, seed), reason in failures.items() if reason and name == arm.name},
        data=frozenset(item for record in found.values() for item in data_of(record.result).items()),
    )


def _rows(rows: Sequence[NDArray[np.float64]], size: int) -> NDArray[np.float64]:
    return np.stack(rows) if rows else np.empty((0, size))


def _padded(values: Sequence[float], size: int, end: float | None = None) -> NDArray[np.float64]:
    """Return values, and something else from their end on: NaN if it is None."""
    row = np.full(size, np.nan if end is None else end)
    row[: len(values)] = values[:size]
    return row


def _counts(name: str, metric: Metric, trials: Sequence[Measured]) -> frozenset[float]:
    """Return the values that diverged trials of an arm count as."""
    found = (one.counts_as(name, metric) for one in trials)
    return frozenset(value for value in found if value is not None)


def _curve(name: str, metric: Metric, measured: Measured, epochs: int) -> NDArray[np.float64]:
    """Return a metric's values, one an epoch; where it isn't reported, it is as it was, and NaN before it is."""
    values: list[float] = []
    for value in measured.curves.get(name, ()):
        values.append((values[-1] if values else np.nan) if value is None else value)
    if measured.diverged:
        return _padded(values, epochs, measured.counts_as(name, metric))
    return _padded(values, epochs, values[-1] if values else None)


def _shared(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts that all trials have, and agree on."""
    if not facts:
        return {}
    return {name: value for name, value in facts[0].items() if all(one.get(name) == value for one in facts)}


def _swapped(
    study: Study, swaps: Sequence[tuple[Arm, Swap, Record]], arms: Sequence[ArmResult]
) -> Iterator[Swapped]:
    metric, titles = study.judged, study.kind.interventions
    trained = {
        (result.arm.name, seed): float(value)
        for result in arms
        for seed, value in zip(result.seeds, result.curves[metric][:, -1:].ravel(), strict=True)
    }
    found: dict[tuple[str, str], dict[int, float]] = {}
    for arm, swap, record in swaps:
        if (arm.name, swap.trial.seed) in trained and metric in record.result:
            found.setdefault((arm.name, swap.heard), {})[swap.trial.seed] = record.result[metric]
    for (name, heard), values in found.items():
        changes = {seed: value - trained[name, seed] for seed, value in values.items()}
        yield Swapped(
            name,
            titles.get(heard, heard),
            mean_interval(list(values.values())),
            mean_there(np.array([*changes.values()]))[0],
            changes,
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
