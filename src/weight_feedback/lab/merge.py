"""Merging: results of one study from several folders, in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load

from weight_feedback.lab.store import StoreError, read_record, write_atomically
from weight_feedback.lab.trial import weights_digest

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
    """Copy what a study's folder lacks from other folders of the same study.

    Everything is checked before anything is copied.

    Args:
        target: the folder; made if need be.
        sources: the others, each with finished trials.

    Returns:
        What was copied.

    Raises:
        StoreError: a source holds no trials, studies were declared differently, a file is damaged, or the same
            settings gave different results.
    """
    copies: dict[Path, Path] = {}
    already = 0
    for source in sources:
        if not (source / "trials").is_dir():
            raise StoreError(f"{source}: expected the folder of a study, with trials in it; found none")
        _check_declarations(target, source)
        for path in _files(source, _RESULTS, "json"):
            goal = target / path.relative_to(source)
            known = copies.get(goal, goal)
            already += _same(path, known) and known == goal
            if not known.exists():
                copies[goal] = path
    weights = _weights(target, sources)
    declarations = [source / "declaration.json" for source in sources if (source / "declaration.json").exists()]
    for path in declarations[:1]:
        if not (target / path.name).exists():
            write_atomically(target / path.name, path.read_bytes())
    # Weights first: a trial that keeps them is finished with both.
    for goal, path in {**weights, **copies}.items():
        write_atomically(goal, path.read_bytes())
    _failures(target, sources)
    kinds = [goal.parent.name for goal in copies]
    return Merged(kinds.count("trials"), kinds.count("swaps"), len(weights), already)


def _files(folder: Path, kinds: Sequence[str], ending: str) -> Iterator[Path]:
    for kind in kinds:
        # Names that begin with a dot are of writes that were cut short.
        yield from sorted(path for path in (folder / kind).glob(f"*.{ending}") if not path.name.startswith("."))


def _check_declarations(target: Path, source: Path) -> None:
    paths = [path for path in (target / "declaration.json", source / "declaration.json") if path.exists()]
    found = [json.loads(path.read_bytes()) for path in paths]
    if len(found) == 2 and found[0]["declaration"] != found[1]["declaration"]:
        raise StoreError(
            f"{paths[1]}: declared otherwise than {paths[0]} (expected {found[0]['declaration']}, found "
            f"{found[1]['declaration']}); these are two studies"
        )


def _same(path: Path, known: Path) -> bool:
    """Check a result, and that a known one of the same settings is the same; say whether there is one."""
    record = read_record(path)
    if not known.exists():
        return False
    if read_record(known).result != record.result:
        raise StoreError(
            f"{path} and {known}: the same settings gave different results; nothing was copied. Trials of one "
            "study must come from one kind of machine and software"
        )
    return True


def _weights(target: Path, sources: Sequence[Path]) -> dict[Path, Path]:
    """Return which weights to copy, each checked against the record of its trial."""
    found = {}
    for source in sources:
        for path in _files(source, ["weights"], "safetensors"):
            goal = target / path.relative_to(source)
            record = source / "trials" / f"{path.stem}.json"
            if goal.exists() or goal in found or not record.exists():
                continue
            if weights_digest(load(path.read_bytes())) != read_record(record).result["weights"]:
                raise StoreError(f"{path}: not the weights of {record}; delete it, or run that trial again")
            found[goal] = path
    return found


def _failures(target: Path, sources: Sequence[Path]) -> None:
    """Copy notes of failures, but of trials that someone finished."""
    for source in sources:
        for path in _files(source, ["failures"], "json"):
            goal = target / path.relative_to(source)
            if not goal.exists():
                write_atomically(goal, path.read_bytes())
    for note in _files(target, ["failures"], "json"):
        if (target / "trials" / note.name).exists():
            note.unlink()
