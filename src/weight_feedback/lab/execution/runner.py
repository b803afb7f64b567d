"""Running a study: many trials side by side, one process a core and one thread each."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from weight_feedback.lab.execution.backends import Backend, Processes, connected
from weight_feedback.lab.execution.cluster import Site, agree, shared_paths
from weight_feedback.lab.execution.jobs import Job, run_all
from weight_feedback.lab.execution.progress import Progress, ProgressFiles, Tally, clear_dead, progress_files
from weight_feedback.lab.execution.trackers import Tracker
from weight_feedback.lab.execution.workers import THREADS, Worker
from weight_feedback.lab.statistics.gate import admit
from weight_feedback.lab.store.inventory import Inventory, clean, refuse_other_data, refuse_to_mix, take_inventory
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.shards import Shard
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.loading import BUILT_IN, provided
from weight_feedback.lab.training.environment import choose_device, device_count, surroundings
from weight_feedback.lab.training.interventions import possible


class Watcher(Protocol):
    """Told how a run goes, from several threads."""

    def begin(self, trials: int, todo: int, epochs: int, jobs: int) -> None:
        """Called once, before anything is trained, with what there is to do.

        Args:
            trials: all that were asked for.
            todo: those of them that are going to be run.
            epochs: of these, all together.
            jobs: how many run side by side.
        """

    def progress(self, now: Progress) -> None:
        """Called about twice a second, and when the run ends, with how far it is.

        Args:
            now: epochs, and trials that are running, done and failed.
        """

    def note(self, line: str) -> None:
        """Called with what people should know: what failed, was damaged, or is tried again.

        Args:
            line: a sentence or two.
        """


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
        StoreError: a finished trial is of another format.
        ValueError: there is no such arm, or no seed.
    """
    return [(arm, trial) for arm, trial in study.trials(arms, seeds) if not store.finished(trial)]


def run(
    study: Study,
    store: Store | None = None,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    backend: AbstractContextManager[Backend] | None = None,
    shard: Shard | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    tracker: Tracker | None = None,
    retries: int = 2,
    mixed: bool = False,
    checkpoint_seconds: float = 60.0,
    per_device: int | None = None,
    watcher: Watcher | None = None,
) -> int:
    """Run the missing trials of a study, then its missing swaps; each is kept the moment it finishes.

    A trial that raises an error is noted as failed, and the others go on; the next run tries it again. So is one
    whose process dies, or whose memory runs out, once that has happened while it ran alone, ``retries`` times and
    once more. Damaged results are set aside and made again. Several runs of one study at once do no harm.

    Args:
        study: arms × seeds.
        store: what is finished, and where to keep what is run; default: in ``results``.
        arms: names of the arms to run; default: all.
        seeds: run more or fewer seeds than the study has.
        jobs: trials side by side, in processes of this machine; default: one for each core, or this very process
            where it trains all of them in less time than it takes to start others.
        backend: where trials run, in place of these; see ``backends.connected``. It is entered if there is anything
            to run.
        shard: which part of the trials to run; swaps are left until all of the study's trials are finished.
        data_dir: where data files are looked for.
        device: what trains: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA where there is one.
        tracker: told of each trial that finishes.
        retries: see above.
        mixed: whether trials may be added to an arm whose finished ones come from another machine, device or
            software, where equal settings needn't give equal bits.
        checkpoint_seconds: seconds, at least, from one checkpoint of a trial to the next.
        per_device: trials side by side on each GPU of this machine, in place of ``jobs``, for tasks of one's own:
            each process sees one GPU alone.
        watcher: told how it goes; default: its notes become warnings when the run ends.

    Returns:
        How many trials were run.

    Raises:
        DataError: the data are missing or damaged; this and what follows is said before anything is trained.
        ValueError: an arm can't be run on these data, there is none of that name, a number is too small, there
            is nothing to connect to, or ``per_device`` has no GPU, or something else beside it that says where.
        StoreError: results can't be kept, come from another version, other surroundings or other data, the study
            was declared otherwise, after its first trial, or with seeds that were used before, or a worker of a
            cluster can't work for it. While it runs: a trial gave another result than the known one, or a failure
            can't be noted.
        ChildProcessError: worker processes die before they begin a trial.
    """
    _check(
        jobs=(jobs, 1), per_device=(per_device, 1), retries=(retries, 0), checkpoint_seconds=(checkpoint_seconds, 0)
    )
    asked = (shard or Shard(1, 1)).of(study.trials(arms, seeds))
    store = store or Store.of(study)
    where, task = choose_device(device), study.running()
    firsts = [study.trial(arm, study.first_seed) for arm in study.arms]
    task.check(firsts, data_dir)
    data = task.fingerprints(firsts, data_dir)
    found = take_inventory(study, store, seeds)
    todo = [(arm, trial) for arm, trial in asked if trial not in found.whole]
    admit(study, store, itertools.chain.from_iterable(found.provenances.values()), trains=bool(todo))
    refuse_other_data(found.data, data, store.folder)
    gpus = _gpus(study, where.type, jobs is not None or backend is not None) if per_device else ()
    idle = not todo and not any(possible(swap, store) for swap in found.swaps)
    brief = task.is_brief([trial for _, trial in todo], len(found.swaps), data_dir)
    engine = backend or connected(jobs=(per_device or 0) * len(gpus) or jobs or (1 if brief else None))
    with nullcontext(Processes(1)) if idle else engine as pool:
        if pool.remote:
            store, data_dir = shared_paths(store, data_dir)
        elif not mixed:
            refuse_to_mix(found, [arm for arm, _ in todo], surroundings(where) | {"threads": THREADS})
        if todo or found.damaged:
            store.probe(task.bytes_needed([trial for _, trial in todo], data_dir))
        store.declare(study)
        store.describe(study)
        clean(found, store, watcher.note if watcher else warnings.warn)
        clear_dead(store.folder / "progress")
        if watcher:
            watcher.begin(len(asked), len(todo), sum(trial.planned_epochs for _, trial in todo), pool.jobs)
        if idle:
            return 0
        here, data_there = _seen_by_workers(study, pool, store.folder, data_dir)
        with watched(here / "progress", watcher) as (progress, tally):
            worker = Worker(
                study,
                Store(here),
                progress,
                data_there,
                device,
                tracker,
                checkpoint_seconds,
                data=data,
                gpus=gpus,
                task=provided(study.task),
                look_in=() if study.task in BUILT_IN else tuple(sys.path),
            )
            if pool.remote:
                worker = _sent(worker, pool, firsts, data, None if mixed else (found, [arm for arm, _ in todo]))
            run_all(_trials(worker, todo), pool, retries, progress, tally)
            if shard is None or not missing(study, store, arms, seeds):
                run_all(_swaps(worker, found.swaps), pool, retries, progress, tally)
    return len(todo)


def _gpus(study: Study, device: str, elsewhere: bool) -> tuple[str, ...]:
    """Return the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    if study.task in BUILT_IN or device != "cuda" or elsewhere:
        raise ValueError(
            "per_device: expected a task of your own, on GPUs of this machine, without jobs or backend; got "
            f"{study.task} on {device}"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return tuple(visible[i] if i < len(visible) and visible[i] else str(i) for i in range(device_count()))


def _seen_by_workers(study: Study, pool: Backend, folder: Path, data_dir: Path | None) -> tuple[Path, Path | None]:
    """Return paths that mean the same in a process that was started in another folder, or goes to one."""
    own = study.task not in BUILT_IN
    if own and isinstance(pool, Processes):
        pool.renew()
    if pool.jobs == 1 and not own:
        return folder, data_dir
    return folder.absolute(), data_dir.absolute() if data_dir else None


def _check(**numbers: tuple[float | None, float]) -> None:
    for name, (value, least) in numbers.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def _sent(
    worker: Worker,
    pool: Backend,
    firsts: Sequence[Trial],
    data: Mapping[str, str],
    unmixed: tuple[Inventory, Sequence[Arm]] | None,
) -> Worker:
    """Return what works on a cluster, all of whose workers can run these trials, and are alike unless mixed."""
    folder, known = worker.store.folder, tuple(data.items())
    site = Site(folder, worker.progress, tuple(firsts), worker.data_dir, known, worker.device, THREADS)
    here = agree(pool, site, mixed=unmixed is None)
    if unmixed is None:
        return replace(worker, site=site)
    refuse_to_mix(*unmixed, here)
    return replace(worker, site=site, expected=here)


def _trials(worker: Worker, todo: Sequence[tuple[Arm, Trial]]) -> list[Job]:
    """Return one job a cohort, for those of its trials that are to be run; most are a cohort of their own."""
    cohorts: dict[Trial, tuple[Arm, list[Trial]]] = {}
    for arm, trial in todo:
        cohorts.setdefault(trial.cohort()[0], (arm, []))[1].append(trial)
    return [
        Job(
            trials[0].key(),
            trials[0].file_name,
            partial(worker.run_cohort, arm, trials),
            partial(worker.fail, trials),
            len(trials),
            sum(trial.planned_epochs for trial in trials),
        )
        for arm, trials in cohorts.values()
    ]


def _swaps(worker: Worker, swaps: Sequence[Swap]) -> list[Job]:
    return [
        Job(swap.key(), swap.file_name, partial(worker.run_swap, swap), partial(worker.fail_swap, swap))
        for swap in swaps
        if possible(swap, worker.store)
    ]


@contextmanager
def watched(folder: Path, watcher: Watcher | None) -> Iterator[tuple[ProgressFiles, Tally]]:
    """Make the progress files of a run and a tally of what ends, and watch them meanwhile.

    Args:
        folder: holds one folder a run.
        watcher: told what is in them; without one, notes are warnings.
    """
    with progress_files(folder) as progress:
        stop, tally = threading.Event(), Tally(progress)
        thread = threading.Thread(target=_watch, args=(progress, tally, watcher, stop), daemon=True)
        if watcher:
            thread.start()
        try:
            yield progress, tally
        finally:
            stop.set()
            if watcher:
                thread.join()
            else:
                for line in progress.notes(0)[0]:
                    warnings.warn(line, stacklevel=4)  # where the run was asked for


def _watch(progress: ProgressFiles, tally: Tally, watcher: Watcher, stop: threading.Event) -> None:
    position, last = 0, False
    while not last:
        last = stop.wait(0.5)
        lines, position = progress.notes(position)
        for line in lines:
            watcher.note(line)
        watcher.progress(tally.progress())
