"""Measurements of intrinsic dimension side by side, kept in a `Store` like the trials of a study."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from weight_feedback.lab.data import datasets
from weight_feedback.lab.data.published import fingerprints
from weight_feedback.lab.execution.backends import connected
from weight_feedback.lab.execution.jobs import Job, run_all
from weight_feedback.lab.execution.progress import ProgressFiles, clear_dead
from weight_feedback.lab.execution.runner import Watcher, watched
from weight_feedback.lab.execution.workers import THREADS, counter
from weight_feedback.lab.store.inventory import refuse_other_data
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.lab.tasks.intrinsic.task import check, measure
from weight_feedback.lab.training.environment import keep_freed_memory, provenance, surroundings, thread_count

#: A job whose process dies is tried this many times more.
RETRIES = 2


def run(
    measurements: Sequence[Measurement],
    store: Store,
    *,
    jobs: int | None = None,
    data_dir: Path | None = None,
    watcher: Watcher | None = None,
) -> None:
    """Make those of some measurements that are missing, side by side; each is kept the moment it is finished.

    Args:
        measurements: of one data set.
        store: where results are and go; damaged ones are set aside and made again.
        jobs: how many side by side, with one thread each; default: one a core.
        data_dir: where data files are looked for; see `datasets.load`.
        watcher: told how it goes.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: see `check`; or there are no jobs.
        StoreError: results can't be kept, or other ones of the same settings or of other data are known.
        ChildProcessError: processes die, again and again.
    """
    backend = connected(jobs=jobs)
    data = datasets.load(measurements[0].data, data_dir)
    check(measurements, data)
    todo = [one for one in measurements if not store.finished(one)]
    if todo:
        known = [record.result for one in measurements if one not in todo and (record := store.read(one))]
        refuse_other_data(fingerprints(known), measurements[0].data, data.fingerprint, store.folder)
    store.probe()
    folder = store.folder / "progress"
    clear_dead(folder)
    with backend as pool:
        if watcher:
            watcher.begin(len(measurements), len(todo), sum(one.epochs for one in todo), pool.jobs)
        with watched(folder, watcher) as (progress, tally):
            worker = Worker(store, progress, data_dir)
            asked = [
                Job(one.key(), one.file_name, partial(worker.run, one), partial(_give_up, one), 1, one.epochs)
                for one in todo
            ]
            run_all(asked, pool, RETRIES, progress, tally)


def _give_up(measurement: Measurement, reason: str) -> None:
    raise ChildProcessError(f"{measurement.file_name}: {reason}")


@dataclass(frozen=True)
class Worker:
    """What every process needs to make any measurement, and to keep it; picklable.

    Args:
        store: where results go.
        progress: of the run.
        data_dir: where data files are looked for; see `datasets.load`.
        driver: the process that all others work for.
    """

    store: Store
    progress: ProgressFiles
    data_dir: Path | None
    driver: int = field(default_factory=os.getpid)

    def run(self, measurement: Measurement) -> None:
        """Make a measurement, unless another run has made it by now.

        Args:
            measurement: the settings.
        """
        if self.store.finished(measurement):
            return
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        keep_freed_memory()
        with thread_count(THREADS):
            data = datasets.load(measurement.data, self.data_dir)
            result = measure(measurement, data, counter(self.progress, measurement.key(), self.driver))
            about = provenance(surroundings(torch.device("cpu")))
        seconds = round(time.perf_counter() - clock, 3)
        self.store.write(measurement, Record(result, {"started": started, "seconds": seconds, **about}))
