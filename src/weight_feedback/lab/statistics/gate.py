"""The gate: what may be said of a study's contrasts, given when it was declared and what had been seen by then.

Whatever shows a verdict, an interval or a p-value of a contrast passes it first. A verdict needs a declaration that
is older than the results, on seeds whose trials no study beside it had run, and estimates wait until all trials are
there, unless someone looks earlier and it is kept that they did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from weight_feedback.lab.store.peeks import Peek, read_peeks
from weight_feedback.lab.store.store import (
    DECLARATION,
    Damaged,
    Declaration,
    Store,
    StoreError,
    read_declaration,
    read_record,
)
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.base import SEEDS_END
from weight_feedback.untrusted import printable

_TRIAL = re.compile(r".*-seed-([0-9]{5,10})-[0-9a-f]{16}\.json")

_CONFIRM = "were known before this study was declared, and a confirmation needs fresh seeds:"

Pair = tuple[str, str]


@dataclass(frozen=True)
class Passed:
    """What may be said of a study that was let through.

    Attributes:
        late: why nothing of it gets a verdict: it isn't known to be declared before its trials; empty if it is.
        used: contrast to why it gets no verdict: results of its seeds were there before the declaration.
        peeks: looks before the study was finished, in order.
        seeds: which they are and, of a study with a first seed, what others used.
    """

    late: str = ""
    used: Mapping[Pair, str] = field(default_factory=dict)
    peeks: Sequence[Peek] = ()
    seeds: str = ""

    @property
    def looked(self) -> str:
        """One sentence about looks before the study was finished; empty if there were none."""
        if not self.peeks:
            return ""
        return (
            f"Looked at before it was finished: {'; '.join(map(str, self.peeks))}. Verdicts hold only if nothing "
            "was decided by what was seen."
        )


def look(study: Study, store: Store, provenances: Mapping[tuple[str, int], Mapping[str, Any]]) -> Passed:
    """Say what may be said of a study's results.

    Args:
        study: arms × seeds, and what is declared of them.
        store: holds the results.
        provenances: of the finished trials within the study's own seeds, by arm and seed.

    Raises:
        StoreError: the folder's study was declared otherwise, or its declaration or list of looks is damaged.
    """
    known = store.declaration(study)
    if study.declared is None:
        return Passed()
    own = [provenances[name, seed] for name, seed in provenances if name in study.declared_arms]
    others = _Others(study, store)
    before = _declared_at(known, provenances.values())
    used = {
        pair: f"results of {_places(found)} {_CONFIRM} {others.remedy}"
        for pair in study.declared.primary
        if (found := others.used(pair, before))
    }
    return Passed(_late(store, known, own, others), used, read_peeks(store.folder), others.seeds(used))


def admit(study: Study, store: Store, provenances: Iterable[Mapping[str, Any]], *, trains: bool) -> None:
    """Refuse to run a study that can't get its verdicts.

    Args:
        study: arms × seeds, and what is declared of them.
        store: what is finished.
        provenances: of its finished trials.
        trains: whether there is anything to train.

    Raises:
        StoreError: the folder's study was declared otherwise, or is declared now for the first time, after some of
            its trials were run; or its seeds were used before.
    """
    known = store.declaration(study)
    if study.declared is None:
        return
    others = _Others(study, store)
    if known is None:
        begun, started = _begun(study, store)
        # Another run may have declared the study meanwhile, and begun it.
        if begun and (known := store.declaration(study)) is None:
            raise StoreError(f"{store.folder}: {_after(begun, started, others)}")
    if not trains:
        return
    before = _declared_at(known, provenances) if known else None
    found = {pair: places for pair in study.declared.primary if (places := others.used(pair, before))}
    if found:
        said = "; ".join(f"{a} − {b}: results of {_places(places)}" for (a, b), places in found.items())
        # What isn't declared yet can still be given other seeds.
        remedy = others.remedy if known else f"set first_seed = {others.free}"
        raise StoreError(f"{study.name}: {said} {_CONFIRM} {remedy}")


def came_before(known: Declaration | None, provenance: Mapping[str, Any]) -> bool:
    """Say whether a trial isn't known to have come after a declaration.

    Args:
        known: the declaration; None if there is none.
        provenance: of the trial.
    """
    if known is None:
        return True
    # What a trial says itself needs no clocks, which differ between machines.
    if "declaration" in provenance:
        return bool(provenance["declaration"] != known.declaration)
    return bool(known.time) and _started(provenance) < known.time


def _started(provenance: Mapping[str, Any]) -> str:
    return str(provenance.get("started", ""))


def _declared_at(known: Declaration | None, provenances: Iterable[Mapping[str, Any]]) -> str | None:
    """Return before when results of other studies must not have been begun; None: at no time."""
    if known is not None and known.time:
        return known.time
    return min(map(_started, provenances), default=None)


def _begun(study: Study, store: Store) -> tuple[int, list[str]]:
    """Return how many trials of the declared arms are finished or begun, and when those started that say it."""
    count, started = 0, []
    for _, trial in study.trials(sorted(study.declared_arms)):
        finished = store.path(trial).exists()
        if finished or store.checkpoint(trial.cohort()[0]).exists() or store.failure(trial) is not None:
            count += 1
        if finished:
            try:
                started.append(_started(read_record(store.path(trial)).provenance))
            except (StoreError, FileNotFoundError):
                continue  # that it is there is enough
    return count, started


def _late(store: Store, known: Declaration | None, own: Sequence[Mapping[str, Any]], others: _Others) -> str:
    """Return why a study isn't known to be declared before its trials; empty if it is."""
    late = [provenance for provenance in own if came_before(known, provenance)]
    if not late:
        return ""
    if known is None:
        return (
            f"{store.folder / DECLARATION} is missing, so that nothing says that this was declared before its "
            f"trials were run: put it back if there was one, or {others.remedy}"
        )
    return _after(len(late), list(map(_started, late)), others)


def _after(count: int, started: Sequence[str], others: _Others) -> str:
    first = min(filter(None, started), default="")
    when = f" (first started {printable(first)})" if first else ""
    return (
        f"declared after {count} of its trials were run{when}: a verdict needs a declaration made before; "
        f"{others.remedy}"
    )


class _Others:
    """The studies beside a study's own, in the same folder of results, and which seeds of its contrasts they have.

    Args:
        study: arms × seeds, and what is declared of them.
        store: of the study.
    """

    def __init__(self, study: Study, store: Store) -> None:
        self._study = study
        self._primary = study.declared.primary if study.declared else ()
        arms = {arm.name: arm for arm in study.arms if arm.name in study.declared_arms}

        @cache
        def name(arm: str, seed: int) -> str:
            return f"{study.trial(arms[arm], seed).file_name}.json"

        @cache
        def start(folder: Path, arm: str, seed: int) -> str:
            return _start(folder / "trials" / name(arm, seed))

        def held(folder: Path) -> dict[str, set[int]]:
            names = _by_seed(folder / "trials")
            return {arm: {seed for seed, known in names.items() if name(arm, seed) in known} for arm in arms}

        self._start = start
        self._own = held(store.folder)
        # Under the path that people gave; a folder's own may be that of a link, or relative to another.
        here = store.folder.absolute()
        beside = [path for path in here.parent.iterdir() if path.name != here.name] if here.parent.is_dir() else []
        self._held = {
            store.folder.parent / path.name: held(path)
            for path in sorted(beside)
            if (path / "trials").is_dir() and not _same(path, study)
        }

    def used(self, pair: Pair, before: str | None) -> dict[Path, list[int]]:
        """Return the study's own seeds of a contrast whose trials were begun in other folders before a time.

        Args:
            pair: names of the arms.
            before: the time; None: at any time.
        """

        def known(arm: str, seed: int) -> bool:
            return any(
                seed in held[arm] and (before is None or self._start(folder, arm, seed) < before)
                for folder, held in self._held.items()
            )

        own = set(self._study.seed_numbers())
        places = {folder: seeds & own for folder, seeds in self._both(pair).items()}
        seen = {seed for seed in set().union(*places.values()) if all(known(arm, seed) for arm in pair)}
        return {folder: sorted(seeds & seen) for folder, seeds in places.items() if seeds & seen}

    @property
    def remedy(self) -> str:
        """What to do to get a verdict on a study that can't have one any more."""
        return f"give the study a new name, and fresh seeds by first_seed = {self.free}"

    @property
    def free(self) -> int:
        """The lowest first seed with which none of the study's seeds was used, here or there."""
        taken = {seed for a, b in self._primary for seed in self._own[a] & self._own[b]}
        taken.update(seed for pair in self._primary for seeds in self._both(pair).values() for seed in seeds)
        first, size = 0, self._study.together
        while hits := taken.intersection(range(first, first + self._study.seeds)):
            first = -(-(max(hits) + 1) // size) * size
        return first

    def seeds(self, used: Mapping[Pair, str]) -> str:
        """Return which seeds the study has and, if it has a first one and they are fresh, what others used.

        Args:
            used: contrasts whose seeds were used before.
        """
        own = f"seeds {ranges(self._study.seed_numbers())}"
        if self._study.first_seed == 0 or used:
            return own
        earlier: dict[Path, set[int]] = {}
        for pair in self._primary:
            for folder, seeds in self._both(pair).items():
                earlier.setdefault(folder, set()).update(seeds)
        said = [f"{printable(str(folder))} used {ranges(seeds)}" for folder, seeds in earlier.items() if seeds]
        return "; ".join([f"fresh: {own}", *said]) if said else own

    def _both(self, pair: Pair) -> dict[Path, set[int]]:
        """Return the seeds of which each folder has an arm, and of which both are known, be it from two folders."""
        a, b = ({seed for held in self._held.values() for seed in held[arm]} for arm in pair)
        return {folder: (held[pair[0]] | held[pair[1]]) & a & b for folder, held in self._held.items()}


def ranges(seeds: Iterable[int]) -> str:
    """Return whole numbers as text: 0 to 7, 9.

    Args:
        seeds: in any order.
    """
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and runs[-1][1] == seed - 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)


def _places(found: Mapping[Path, Sequence[int]]) -> str:
    return " and ".join(
        f"{'seed' if len(seeds) == 1 else 'seeds'} {ranges(seeds)} in {printable(str(folder))}"
        for folder, seeds in found.items()
    )


def _by_seed(trials: Path) -> dict[int, set[str]]:
    """Return the names of the files in a folder of trials, by the seed in them."""
    found: dict[int, set[str]] = {}
    for path in trials.iterdir() if trials.is_dir() else ():
        if (match := _TRIAL.fullmatch(path.name)) and (seed := int(match[1])) < SEEDS_END:
            found.setdefault(seed, set()).add(path.name)
    return found


def _same(folder: Path, study: Study) -> bool:
    """Say whether a folder holds another part, or a copy, of the same study."""
    try:
        return read_declaration(folder / DECLARATION).declaration == study.declaration()
    except (Damaged, OSError):
        return False


def _start(path: Path) -> str:
    """Return when a trial was begun; one that can't be read counts as begun before everything."""
    try:
        return _started(read_record(path).provenance)
    except (StoreError, OSError):
        return ""
