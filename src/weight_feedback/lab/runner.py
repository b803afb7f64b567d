"""Running a study: many trials side by side, one process a core and one thread each."""

from __future__ import annotations

import os
import shutil
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from weight_feedback.lab import datasets
from weight_feedback.lab.settings import Swap, Trial
from weight_feedback.lab.spec import Arm, Study
from weight_feedback.lab.store import Record, Store
from weight_feedback.lab.swaps import possible, run_swap
from weight_feedback.lab.trackers import Tracker
from weight_feedback.lab.trial import check_fit, choose_device, run_cohort, thread_count

#: Called with how many epochs are done, of all the trials that are run.
OnProgress = Callable[[int], None]


def missing(
    study: Study, store: Store, arms: Sequence[str] | None = None, seeds: int | None = None
) -> list[tuple[Arm, Trial]]:
    """Return the trials of a study that have yet to be run, each with its arm.

    Args:
        study: arms × seeds.
        store: what is finished.
        arms: see `Study.trials`.
        seeds: see `Study.trials`.

    Raises:
        StoreError: a finished trial is damaged.
        ValueError: there is no such arm, or no seed.
    """
    return [(arm, trial) for arm, trial in study.trials(arms, seeds) if not store.finished(trial)]


def run(
    study: Study,
    store: Store,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    tracker: Tracker | None = None,
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
        tracker: told of each trial that finishes.
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
    worker = _Worker(study, store, data_dir, device, tracker)
    with _watched(store.folder / "progress", [trial for _, trial in todo], on_progress) as progress:
        work = [delayed(worker.run_cohort)(arm, trials, progress) for arm, trials in _cohorts(todo)]
        _in_parallel(work, jobs or cores())
    left = [swap for _, swap in study.swaps() if store.read(swap) is None and possible(swap, store)]
    _in_parallel([delayed(worker.run_swap)(swap) for swap in left], jobs or cores())
    return len(todo)


@contextmanager
def _watched(progress: Path, todo: Sequence[Trial], on_progress: OnProgress | None) -> Iterator[Path]:
    """Make a folder for marks of progress, and watch it meanwhile."""
    if not todo:
        yield progress
        return
    shutil.rmtree(progress, ignore_errors=True)
    progress.mkdir(parents=True)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(progress, todo, on_progress, stop), daemon=True)
    watcher.start()
    try:
        yield progress
    finally:
        stop.set()
        watcher.join()
        shutil.rmtree(progress, ignore_errors=True)


def _cohorts(todo: Sequence[tuple[Arm, Trial]]) -> list[tuple[Arm, list[Trial]]]:
    """Bring together the trials that are trained as one; most are a cohort of their own."""
    cohorts: dict[Trial, tuple[Arm, list[Trial]]] = {}
    for arm, trial in todo:
        cohorts.setdefault(trial.cohort()[0], (arm, []))[1].append(trial)
    return list(cohorts.values())


def _in_parallel(work: Sequence[Any], jobs: int) -> None:
    # Results travel through files, not through the pool: joblib returns nothing that could be lost.
    for _ in Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
        pass


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Worker:
    """What every process needs to run any trial or swap of a study, and to keep it."""

    study: Study
    store: Store
    data_dir: Path | None
    device: str
    tracker: Tracker | None

    def run_cohort(self, arm: Arm, missing: Sequence[Trial], progress: Path) -> None:
        """Run the missing trials of one cohort, with the finished ones: only as a whole it gives the same bits."""
        trials = missing[0].cohort()
        for trial in missing:
            (progress / trial.key()).write_bytes(b"")

        def count(*_: object) -> None:
            for trial in missing:
                with (progress / trial.key()).open("ab") as file:  # one byte an epoch: the size is the count
                    file.write(b".")

        weights = {trial: self.store.weights(trial) for trial in missing if trial.keeps_weights}
        try:
            records = run_cohort(
                trials, data_dir=self.data_dir, device=self.device, threads=1, weights=weights, on_epoch=count
            )
        except Exception as error:  # whatever it is, the other trials go on
            for trial in missing:
                self.store.fail(trial, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            return
        for trial, record in zip(trials, records, strict=True):
            if trial in missing:
                self.store.write(trial, record)
                self._track(arm, trial, record)

    def _track(self, arm: Arm, trial: Trial, record: Record) -> None:
        if self.tracker:
            try:
                self.tracker.log(self.study, arm, trial, record)
            except Exception as error:  # the trial is kept; a tracker that is down must not stop the study
                warnings.warn(f"{trial.file_name}: the tracker failed: {error}", stacklevel=1)

    def run_swap(self, swap: Swap) -> None:
        with thread_count(1):
            self.store.write(swap, run_swap(swap, self.store, data_dir=self.data_dir, device=self.device))


def _watch(progress: Path, todo: Sequence[Trial], on_progress: OnProgress | None, stop: threading.Event) -> None:
    while on_progress:
        last = stop.wait(0.5)
        marks = (progress / trial.key() for trial in todo)
        on_progress(sum(mark.stat().st_size for mark in marks if mark.exists()))
        if last:
            return
