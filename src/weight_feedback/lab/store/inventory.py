"""What a store holds before a run: what is whole, what is damaged, where it comes from, how much is to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weight_feedback.files import remove
from weight_feedback.lab.data.published import Found, described, listed
from weight_feedback.lab.store.provenance import differences
from weight_feedback.lab.store.store import Damaged, Record, Store, StoreError
from weight_feedback.lab.store.weights import read_weights
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.trials import Swap, data_of
from weight_feedback.lab.tasks.base import CODE, SEEDS_END, Trial


@dataclass(frozen=True)
class Inventory:
    """What was found.

    Attributes:
        whole: finished trials, with their weights if these are kept, all undamaged.
        damaged: file to what is wrong with it.
        provenances: arm to those of its finished trials.
        swaps: those that aren't finished, whether they are possible or not.
        data: how many results, of trials and swaps, come from which data.
    """

    whole: set[Trial] = field(default_factory=set)
    damaged: dict[Path, str] = field(default_factory=dict)
    provenances: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    swaps: list[Swap] = field(default_factory=list)
    data: dict[str, Counter[str]] = field(default_factory=dict)


def take_inventory(study: Study, store: Store, seeds: int | None = None) -> Inventory:
    """Read all that is finished of a study, once.

    Args:
        study: arms × seeds.
        store: what is finished.
        seeds: look at this many, if they are more than the study's own.

    Raises:
        StoreError: a file is of another format.
    """
    found, seeds = Inventory(), max(study.seeds, seeds or 0)
    for arm, trial in study.trials(seeds=seeds):
        record = _read(found, store, trial)
        if record is not None:
            found.provenances.setdefault(arm.name, []).append(record.provenance)
            if not trial.keeps_weights or _weights_are_whole(found, store, trial, record):
                found.whole.add(trial)
    found.swaps.extend(swap for _, swap in study.swaps() if _read(found, store, swap) is None)
    for trial in _following(study, store, seeds):
        with suppress(Damaged):
            _count(found, store.read(trial))
    return found


def _following(study: Study, store: Store, seeds: int) -> Iterator[Trial]:
    """Yield the trials of exploratory seeds beyond a number of seeds, as far as they follow without a gap."""
    for seed in range(study.first_seed + seeds, SEEDS_END):
        trials = [study.trial(arm, seed) for arm in study.arms]
        there = [trial for trial in trials if store.path(trial).exists()]
        if not there:
            return
        yield from there


def count_data(found: dict[str, Counter[str]], result: Mapping[str, Any]) -> None:
    """Count from which data a result comes.

    Args:
        found: how many results come from which data; this one is added.
        result: of a trial or a swap.
    """
    for name, fingerprint in data_of(result).items():
        found.setdefault(name, Counter())[fingerprint] += 1


def _count(found: Inventory, record: Record | None) -> None:
    if record is not None:
        count_data(found.data, record.result)


def _read(found: Inventory, store: Store, trial: Trial | Swap) -> Record | None:
    try:
        record = store.read(trial)
    except Damaged as error:
        found.damaged[store.path(trial)] = str(error)
        return None
    _count(found, record)
    return record


def _weights_are_whole(found: Inventory, store: Store, trial: Trial, record: Record) -> bool:
    path = store.weights(trial)
    try:
        read_weights(path, record)
    except FileNotFoundError:
        return False
    except StoreError as error:
        found.damaged[path] = str(error)
        return False
    return True


def clean(found: Inventory, store: Store, note: Callable[[str], None]) -> None:
    """Set damaged files aside, and remove checkpoints that are needed no more.

    Args:
        found: in the store.
        store: where it is.
        note: called with a line for people for each damaged file.
    """
    for path, reason in found.damaged.items():
        note(f"{reason}; it is now {store.set_aside(path, reason)}")
    for trial in found.whole:
        path = store.checkpoint(trial)
        # Left by a run that was killed after it had kept the results.
        if path.exists() and all(one in found.whole for one in trial.cohort()):
            remove(path)


def refuse_to_mix(found: Inventory, arms: Sequence[Arm], here: Mapping[str, Any]) -> None:
    """Refuse to add trials to an arm whose finished ones come from other surroundings.

    Args:
        found: in the store.
        arms: that are to be run.
        here: the surroundings, as in a provenance.

    Raises:
        StoreError: they differ.
    """
    for arm in arms:
        finished = found.provenances.get(arm.name, [])
        if phrases := differences(here, finished):
            raise StoreError(
                f"arm {arm.name}: its {len(finished)} finished trials come from other surroundings ("
                f"{'; '.join(phrases)}), in which equal settings needn't give equal bits. Run it where they were "
                "run, or all of it in another folder (--out), or mix them with --mixed, and the report says so"
            )


def refuse_other_data(found: Found, here: Mapping[str, str], folder: Path) -> None:
    """Refuse to add results to those of other data.

    Args:
        found: how many finished results come from which data.
        here: name to fingerprint of the data that are going to be used.
        folder: of the results.

    Raises:
        StoreError: they differ.
    """
    for name, fingerprint in here.items():
        if not set(found.get(name, ())) - {fingerprint}:
            continue
        if name == CODE:
            raise StoreError(
                f"{folder}: expected the code that its results come from, found other code: the task, or what it "
                "uses, was edited since. Put it back as it was, or run all of it in another folder (--out), or "
                "under another name"
            )
        raise StoreError(
            f"{folder}: expected the data under the name {name} that its results come from "
            f"({listed(name, found[name])}), found others ({described(name, fingerprint)}), whose results "
            "can't be compared with those. Point --data-dir to the files that were used, or run all of it in "
            "another folder (--out)"
        )
