"""Running a study: many trials side by side, one process a core and one thread each."""

from __future__ import annotations

import os
import shutil
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from weight_feedback.lab import datasets
from weight_feedback.lab.settings import Swap, Trial
from weight_feedback.lab.spec import Study
from weight_feedback.lab.store import Record, Store
from weight_feedback.lab.swaps import possible, run_swap
from weight_feedback.lab.trial import check_fit, choose_device, run_trial, thread_count

#: Called with how many epochs are done, of all the trials that are run.
OnProgress = Callable[[int], None]


def missing(study: Study, store: Store, arms: Sequence[str] | None = None, seeds: int | None = None) -> list[Trial]:
    """Return the trials of a study that have yet to be run.

    Args:
        study: arms × seeds.
        store: what is finished.
        arms: see `Study.trials`.
        seeds: see `Study.trials`.

    Raises:
        StoreError: a finished trial is damaged.
        ValueError: there is no such arm, or no seed.
    """
    return [trial for _, trial in study.trials(arms, seeds) if not store.finished(trial)]


def run(
    study: Study,
    store: Store,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> int:
    """Run the missing trials of a study, then its missing swaps; each is kept the moment it finishes.

    A trial that raises an error is noted as failed, and the others go on; the next run tries it again.

    Args:
        study: arms × seeds.
        store: what is finished, and where to keep what is run.
        arms: names of the arms to run; default: all.
        seeds: run more or fewer seeds than the study has.
        jobs: trials side by side; default: one for each core.
        data_dir: where data files are looked for.
        device: see `choose_device`.
        on_progress: called about twice a second, from another thread.

    Returns:
        How many trials were run.

    Raises:
        DataError: the data are missing or damaged; said before anything is trained.
        ValueError: an arm can't be run on these data, or there is none of that name; said before anything is
            trained.
        StoreError: a finished trial is damaged.
    """
    todo = missing(study, store, arms, seeds)
    choose_device(device)
    data = datasets.load(study.data, data_dir)
    for _, trial in study.trials():
        check_fit(trial, data)
    store.declare(study)
    if todo:
        _run_trials(todo, store, jobs or cores(), data_dir, device, on_progress)
    left = [swap for _, swap in study.swaps() if store.read(swap) is None and possible(swap, store)]
    _in_parallel([delayed(_swap_and_keep)(swap, store, data_dir, device) for swap in left], jobs or cores())
    return len(todo)


def _run_trials(
    todo: list[Trial], store: Store, jobs: int, data_dir: Path | None, device: str, on_progress: OnProgress | None
) -> None:
    progress = store.folder / "progress"
    shutil.rmtree(progress, ignore_errors=True)
    progress.mkdir(parents=True)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(progress, todo, on_progress, stop), daemon=True)
    watcher.start()
    try:
        _in_parallel([delayed(_run_and_keep)(trial, store, progress, data_dir, device) for trial in todo], jobs)
    finally:
        stop.set()
        watcher.join()
        shutil.rmtree(progress, ignore_errors=True)


def _in_parallel(work: Sequence[Any], jobs: int) -> None:
    # Results travel through files, not through the pool: joblib returns nothing that could be lost.
    for _ in Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
        pass


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def collect(study: Study, store: Store, seeds: int | None = None) -> dict[str, list[Record]]:
    """Return the finished trials of a study.

    Args:
        study: arms × seeds.
        store: what is finished.
        seeds: another number of them than the study's.

    Returns:
        Arm name to records, in the order of seeds; arms without any are left out.

    Raises:
        StoreError: a finished trial is damaged.
    """
    found: dict[str, list[Record]] = {}
    for arm, trial in study.trials(seeds=seeds):
        record = store.read(trial)
        if record is not None:
            found.setdefault(arm.name, []).append(record)
    return {arm.name: found[arm.name] for arm in study.arms if arm.name in found}


def _run_and_keep(trial: Trial, store: Store, progress: Path, data_dir: Path | None, device: str) -> None:
    mark = progress / trial.key()
    mark.write_bytes(b"")

    def count(*_: object) -> None:
        with mark.open("ab") as file:  # one byte an epoch: the size is the count, whoever reads it
            file.write(b".")

    weights = store.weights(trial) if trial.keeps_weights else None
    try:
        record = run_trial(trial, data_dir=data_dir, device=device, threads=1, weights=weights, on_epoch=count)
    except Exception as error:  # whatever it is, the other trials go on
        store.fail(trial, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    else:
        store.write(trial, record)


def _swap_and_keep(swap: Swap, store: Store, data_dir: Path | None, device: str) -> None:
    with thread_count(1):
        store.write(swap, run_swap(swap, store, data_dir=data_dir, device=device))


def _watch(progress: Path, todo: list[Trial], on_progress: OnProgress | None, stop: threading.Event) -> None:
    while on_progress:
        last = stop.wait(0.5)
        marks = (progress / trial.key() for trial in todo)
        on_progress(sum(mark.stat().st_size for mark in marks if mark.exists()))
        if last:
            return
