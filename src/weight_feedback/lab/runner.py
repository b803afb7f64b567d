"""Running a study: many trials side by side, one process a core and one thread each."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from joblib import Parallel, delayed

from weight_feedback.lab import datasets
from weight_feedback.lab.spec import Study, Trial
from weight_feedback.lab.store import Record, Store
from weight_feedback.lab.trial import check_fit, choose_device, run_trial

#: Called with how many epochs are done, of all the trials that are run.
OnProgress = Callable[[int], None]


def missing(study: Study, store: Store) -> list[Trial]:
    """Return the trials of a study that have yet to be run.

    Args:
        study: arms × seeds.
        store: what is finished.

    Raises:
        StoreError: a finished trial is damaged.
    """
    return [trial for _, trial in study.trials() if store.read(trial) is None]


def run(
    study: Study,
    store: Store,
    *,
    jobs: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> int:
    """Run the missing trials of a study; each is kept the moment it finishes.

    Args:
        study: arms × seeds.
        store: what is finished, and where to keep what is run.
        jobs: trials side by side; default: one for each core.
        data_dir: where data files are looked for.
        device: see `choose_device`.
        on_progress: called about twice a second, from another thread.

    Returns:
        How many trials were run.

    Raises:
        DataError: the data are missing or damaged; said before anything is trained.
        ValueError: an arm can't be run on these data; said before anything is trained.
        StoreError: a finished trial is damaged.
    """
    todo = missing(study, store)
    choose_device(device)
    data = datasets.load(study.data, data_dir)
    for _, trial in study.trials():
        check_fit(trial, data)
    store.declare(study)
    if not todo:
        return 0
    progress = store.folder / "progress"
    shutil.rmtree(progress, ignore_errors=True)
    progress.mkdir(parents=True)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(progress, todo, on_progress, stop), daemon=True)
    watcher.start()
    try:
        work = (delayed(_run_and_keep)(trial, store, progress, data_dir, device) for trial in todo)
        # Results travel through files, not through the pool: joblib returns nothing that could be lost.
        for _ in Parallel(n_jobs=jobs or cores(), return_as="generator_unordered")(work):
            pass
    finally:
        stop.set()
        watcher.join()
        shutil.rmtree(progress, ignore_errors=True)
    return len(todo)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def collect(study: Study, store: Store) -> dict[str, list[Record]]:
    """Return the finished trials of a study.

    Args:
        study: arms × seeds.
        store: what is finished.

    Returns:
        Arm name to records, in the order of seeds; arms without any are left out.

    Raises:
        StoreError: a finished trial is damaged.
    """
    found: dict[str, list[Record]] = {}
    for arm, trial in study.trials():
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

    store.write(trial, run_trial(trial, data_dir=data_dir, device=device, threads=1, on_epoch=count))


def _watch(progress: Path, todo: list[Trial], on_progress: OnProgress | None, stop: threading.Event) -> None:
    while on_progress:
        last = stop.wait(0.5)
        marks = (progress / trial.key() for trial in todo)
        on_progress(sum(mark.stat().st_size for mark in marks if mark.exists()))
        if last:
            return
