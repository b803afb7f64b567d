"""Merging: results of one study from several folders, in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from weight_feedback.files import remove, write_atomically
from weight_feedback.lab.data.published import listed
from weight_feedback.lab.store.peeks import PEEKS, read_peeks, write_peeks
from weight_feedback.lab.store.store import (
    DECLARATION,
    Damaged,
    StoreError,
    read_declaration,
    read_fields,
    read_record,
)
from weight_feedback.lab.store.weights import read_weights
from weight_feedback.lab.study.toml import KEPT
from weight_feedback.lab.study.trials import data_of

_RESULTS = ("trials", "swaps")


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        trials: copied.
        swaps: copied.
        weights: files of final weights that were copied.
        already: results that the target had, the same ones.
    """

    trials: int
    swaps: int
    weights: int
    already: int


def merge(target: Path, sources: Sequence[Path]) -> Merged:
    """Copy what a study's folder lacks from other folders of the same study, and join what was looked at early.

    Everything is checked before anything is copied.

    Args:
        target: the folder; made if need be.
        sources: the others, each with finished trials.

    Returns:
        What was copied.

    Raises:
        StoreError: there is no source, one is the target or holds no trials, studies were declared differently, a
            file is damaged or bears the name of another trial, the same settings gave different results, or results
            come from different data.
    """
    _check(target, sources)
    declaration = {**_study(target, sources), **_declaration(target, sources)}
    if not any(path for source in sources for path in _files(source, (*_RESULTS, "failures"), "json")):
        raise StoreError(f"{', '.join(map(str, sources))}: expected finished trials to copy, found none")
    known, peeks = read_peeks(target), {peek for folder in (target, *sources) for peek in read_peeks(folder)}
    _refuse_other_data(target, sources)
    results, already = _results(target, sources)
    weights, notes = _weights(target, sources), _notes(target, sources, results)
    # Weights before results: a trial that keeps them is finished with both.
    for goal, path in {**declaration, **weights, **results, **notes}.items():
        write_atomically(goal, path.read_bytes())
    if peeks != set(known):
        write_peeks(target / PEEKS, peeks)
    for note in _files(target, ["failures"], "json"):
        if (target / "trials" / note.name).exists():
            remove(note)
    kinds = [goal.parent.name for goal in results]
    return Merged(kinds.count("trials"), kinds.count("swaps"), len(weights), already)


def _check(target: Path, sources: Sequence[Path]) -> None:
    """Refuse folders that can't be sources of the target."""
    if not sources:
        raise StoreError(
            f"merge: expected the folder to copy into, then one or more to copy from; got {target} alone"
        )
    for source in sources:
        if source.resolve() == target.resolve():
            raise StoreError(f"{source}: expected another folder than the one that is copied into")
        if not (source / "trials").is_dir():
            raise StoreError(f"{source}: expected the folder of a study, with trials in it; found none")


def _files(folder: Path, kinds: Sequence[str], ending: str) -> Iterator[Path]:
    for kind in kinds:
        # Names that begin with a dot are of writes that were cut short.
        yield from sorted(path for path in (folder / kind).glob(f"*.{ending}") if not path.name.startswith("."))


def _declaration(target: Path, sources: Sequence[Path]) -> dict[Path, Path]:
    """Return which declaration to copy, if any; all that there are must be the same, and the name is part of it.

    The earliest one is kept, one without a time being of before times were: trials say themselves what was declared
    when they were begun, so that those of a folder without a declaration stay what they are.
    """
    paths = [path for folder in (target, *sources) if (path := folder / DECLARATION).exists()]
    found = {path: read_declaration(path) for path in paths}
    for path, known in found.items():
        first = found[paths[0]].declaration
        if known.declaration != first:
            raise StoreError(
                f"{path}: declared otherwise than {paths[0]} (expected {first}, found {known.declaration}); these "
                "are two studies"
            )
    goal, earliest = target / DECLARATION, min(paths, key=lambda path: found[path].time, default=None)
    return {} if earliest in (None, goal) else {goal: earliest}


def _study(target: Path, sources: Sequence[Path]) -> dict[Path, Path]:
    """Return which copy of the study itself to take: the first, where the target has none."""
    goal = target / KEPT
    found = [path for source in sources if (path := source / KEPT).is_file()]
    return {goal: found[0]} if found and not goal.exists() else {}


def _results(target: Path, sources: Sequence[Path]) -> tuple[dict[Path, Path], int]:
    """Return which results to copy, and how many others the target has already; each is checked."""
    copies: dict[Path, Path] = {}
    already = set()
    for source in sources:
        for path in _files(source, _RESULTS, "json"):
            record = read_record(path)
            goal = target / path.relative_to(source)
            known = goal if goal.exists() else copies.setdefault(goal, path)
            if read_record(known).result != record.result:
                raise StoreError(
                    f"{path} and {known}: the same settings gave different results; nothing was copied. Trials of "
                    "one study must come from one kind of machine and software"
                )
            if known == goal:
                already.add(goal)
    return copies, len(already)


def _refuse_other_data(target: Path, sources: Sequence[Path]) -> None:
    """Refuse results of different data under one name, wherever they are."""
    found: dict[str, dict[Path, Counter[str]]] = {}
    for folder in (target, *sources):
        for path in _files(folder, _RESULTS, "json"):
            with suppress(Damaged):  # what is going to be copied is read again, and then it is refused
                for name, fingerprint in data_of(read_record(path).result).items():
                    found.setdefault(name, {}).setdefault(folder, Counter())[fingerprint] += 1
    for name, folders in found.items():
        if len(set().union(*folders.values())) > 1:
            each = "; ".join(f"{folder}: {listed(name, known)}" for folder, known in folders.items())
            raise StoreError(
                f"{target}: expected results of one data set under the name {name}, found different data ({each}), "
                "which can't be compared; nothing was copied. Keep them in folders of their own, or run again what "
                "was run on the wrong data"
            )


def _weights(target: Path, sources: Sequence[Path]) -> dict[Path, Path]:
    """Return which weights to copy, each checked against the record of its trial."""
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _files(source, ["weights"], "safetensors"):
            goal = target / path.relative_to(source)
            record = source / "trials" / f"{path.stem}.json"
            if goal.exists() or goal in found or not record.exists():
                continue
            read_weights(path, read_record(record))
            found[goal] = path
    return found


def _notes(target: Path, sources: Sequence[Path], results: Mapping[Path, Path]) -> dict[Path, Path]:
    """Return which notes of failures to copy: of trials that nobody finished."""
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _files(source, ["failures"], "json"):
            goal, trial = target / path.relative_to(source), target / "trials" / path.name
            read_fields(path, "reason")
            if not (goal.exists() or trial.exists() or trial in results):
                found.setdefault(goal, path)
    return found
