"""What a process does for a run: train the missing trials of a cohort, or evaluate a swap, and keep the result."""

from __future__ import annotations

import errno
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from weight_feedback.files import remove, tell
from weight_feedback.lab.execution.cluster import Site, check_site
from weight_feedback.lab.execution.isolation import ProcessDiedError, call_forked, call_fresh, may_fork
from weight_feedback.lab.execution.progress import ProgressFiles
from weight_feedback.lab.execution.trackers import Tracker
from weight_feedback.lab.store.store import Record, Store, StoreError
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.base import CODE, Task, Trial
from weight_feedback.lab.tasks.loading import BUILT_IN, find_task, provide, provided
from weight_feedback.lab.training.context import seed_everything
from weight_feedback.lab.training.environment import thread_count
from weight_feedback.lab.training.interventions import run_swap
from weight_feedback.lab.training.run import Options, random_state_kept, run_cohort

#: Of PyTorch in each trial and swap.
THREADS = 1
_BUSY = threading.Lock()
#: The tasks that this process has prepared; one whose module is loaded anew is another.
_PREPARED: list[Task] = []
#: Folder of a run's progress to the GPU that this process's trials are on.
_GPUS: dict[Path, str] = {}


class RunOverError(Exception):
    """The run that a trial is for has ended, or been killed, so that nobody waits for it."""


@dataclass(frozen=True)
class Worker:
    """What every process needs to run any trial or swap of a study, and to keep it; picklable.

    Args:
        study: whose trials they are.
        store: where results go.
        progress: of the run.
        data_dir: where data files are looked for.
        device: see `choose_device`.
        tracker: told of each trial that is finished.
        checkpoint_seconds: see `Options`.
        site: what every worker of a cluster must see; None on this machine.
        expected: surroundings that workers of a cluster must have; None: whatever they are.
        data: fingerprints of data and code that the run began with.
        gpus: names of those over which trials are spread; none: all are where ``device`` says.
        task: that of the study, where a process can't import it.
        look_in: folders in which its module is looked for, besides those of the process.
    """

    study: Study
    store: Store
    progress: ProgressFiles
    data_dir: Path | None
    device: str
    tracker: Tracker | None
    checkpoint_seconds: float
    site: Site | None = None
    expected: Mapping[str, Any] | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    task: Task | None = None
    look_in: tuple[str, ...] = ()
    driver: int = field(default_factory=os.getpid)
    """The process that all others work for."""

    def run_cohort(self, arm: Arm, missing: Sequence[Trial]) -> str | None:
        """Run the missing trials of one cohort, with the finished ones: only as a whole it gives the same bits.

        An error is noted in the store as the trials' failure.

        Args:
            arm: of the trials.
            missing: those to keep.

        Returns:
            None, or, if memory ran out, a reason to try again.

        Raises:
            StoreError: another result of the same settings is known, a failure can't be noted, or this process
                isn't fit to run trials.
            RunOverError: the run has ended.
        """
        with self._alone():
            if self.study.task in BUILT_IN:
                return self._run_cohort(arm, missing)
            return self._isolated(missing, partial(self._run_cohort, arm, missing))

    def _isolated(self, missing: Sequence[Trial], run: Callable[[], str | None]) -> str | None:
        """Run trials of somebody's own task in a process of their own.

        It is forked where that can be, from this one, which has imported the task and loaded its data.
        """
        waited_for = self._waited_for()
        if not waited_for():
            raise RunOverError(f"{self.progress.folder}: the run that this trial was for has ended")
        try:
            if self.site is None and may_fork(self.device):
                self._prepare()
                return call_forked(run, waited_for)  # type: ignore[no-any-return]
            gpu = {"CUDA_VISIBLE_DEVICES": self._gpu()} if self.gpus else {}
            return call_fresh(partial(_prepared, self, run), waited_for, gpu)  # type: ignore[no-any-return]
        except (StoreError, RunOverError):
            raise
        except ProcessDiedError as error:
            if not waited_for():
                raise RunOverError(str(error)) from None
            return str(error)
        except Exception as error:  # of what prepares, or imports the task
            self.fail(missing, describe(error))
        return None

    def _gpu(self) -> str:
        """Return the GPU that this process's trials are on: the next one, when it runs its first of a run."""
        if self.progress.folder not in _GPUS:
            _GPUS[self.progress.folder] = self.gpus[self.progress.join() % len(self.gpus)]
        return _GPUS[self.progress.folder]

    def _prepare(self) -> None:
        """See that this process has the code that the run began with, and what that loads before trials."""
        task = find_task(self.study.task)
        trial = self.study.trial(self.study.arms[0], self.study.first_seed)
        expected, found = self.data.get(CODE), task.fingerprint(trial, self.data_dir).get(CODE)
        if expected != found:
            raise StoreError(
                f"{self.study.task}: its code has changed since the run began, or is another one on "
                f"{socket.gethostname()} (expected {expected}, found {found}), or a value that it uses is, as one "
                "that is drawn when the module is imported; what is finished is kept: put the file back as it was, "
                "or give the study a new name, then run again"
            )
        prepare_once(task)

    def _waited_for(self) -> Callable[[], bool]:
        """Return what says whether anybody still waits for what this process does."""
        if self.site is not None:
            return lambda: self.progress.alive
        here = os.getpid() == self.driver
        return lambda: here or os.getppid() == self.driver

    def _run_cohort(self, arm: Arm, missing: Sequence[Trial]) -> str | None:
        trials, key = missing[0].cohort(), missing[0].key()
        # Another run may have finished some of them by now.
        left = [trial for trial in missing if not self.store.finished(trial)]
        try:
            if left:
                driver = self.driver if self.site is None else None
                epochs = missing[0].planned_epochs
                own = self.study.task not in BUILT_IN  # whose process is another one's
                count = counter(self.progress, key, driver, len(missing), epochs, forked=own)
                self._train(arm, trials, left, count)
        except (StoreError, RunOverError):
            raise
        except (Exception, SystemExit) as error:  # whatever it is, the other trials go on
            if out_of_memory(error):
                return describe(error)
            self.fail(left, describe(error))
        else:
            remove(self.store.checkpoint(trials[0]))
        return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """See, on a cluster, that a worker may run trials, and that this one runs no other now."""
        if self.task is not None and provided(self.study.task) != self.task:
            provide(self.study.task, self.task)  # once: what it has loaded stays with it
        if multiprocessing.get_start_method(allow_none=True) in ("loky", "loky_init_main"):
            # joblib's own, which what a task starts, as a loader of data does, can't be started by.
            multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
        sys.path += [folder for folder in self.look_in if folder not in sys.path]
        if self.site is None:
            yield
            return
        check_site(self.site, self.expected)
        if not _BUSY.acquire(blocking=False):
            raise StoreError(
                f"{socket.gethostname()}, process {os.getpid()}: expected one trial at a time in a worker, as "
                "equal bits need, got several; give workers one thread each"
            )
        try:
            yield
        finally:
            _BUSY.release()

    def _train(self, arm: Arm, trials: Sequence[Trial], left: Sequence[Trial], count: Callable[..., None]) -> None:
        options = Options(
            data_dir=self.data_dir,
            device=self.device,
            threads=THREADS,
            weights={trial: self.store.weights(trial) for trial in left if trial.keeps_weights},
            metrics=self.study.reported,
            on_epoch=count,
            checkpoint=self.store.checkpoint(trials[0]),
            checkpoint_seconds=self.checkpoint_seconds,
            on_note=self.progress.note,
            scratch=self.progress.folder / "scratch",
        )
        records = run_cohort(trials, options)
        declaration = self.study.declaration() if self.study.declared else ""
        for trial, made in zip(trials, records, strict=True):
            if trial in left:
                # Says that it came after the declaration, whatever the clocks of several machines say.
                record = Record(made.result, {**made.provenance, "declaration": declaration})
                self.store.write(trial, record)
                self._track(arm, trial, record)

    def fail(self, trials: Sequence[Trial], reason: str) -> None:
        """Note that trials failed, in the store and for people.

        Args:
            trials: those of them that are finished aren't noted.
            reason: its first line is shown.

        Raises:
            StoreError: that can't be noted.
        """
        first = reason.partition("\n")[0]
        for trial in trials:
            if self.store.finished(trial):
                continue
            try:
                self.store.fail(trial, reason)
            except OSError as error:
                raise StoreError(
                    f"{trial.file_name} failed ({first}), and that can't be noted: {tell(error)}"
                ) from None
            self.progress.fail(trial.file_name)
            self.progress.note(f"failed: {trial.file_name}: {first}")

    def _track(self, arm: Arm, trial: Trial, record: Record) -> None:
        if self.tracker:
            try:
                self.tracker.log(self.study, arm, trial, record)
            except Exception as error:  # the trial is kept; a tracker that is down must not stop the study
                self.progress.note(f"{trial.file_name}: the tracker failed: {error}")

    def run_swap(self, swap: Swap) -> str | None:
        """Run a swap.

        Args:
            swap: the settings.

        Returns:
            None, or, if memory ran out, a reason to try again.

        Raises:
            StoreError: weights are damaged, another result of the same settings is known, or this process isn't
                fit to run swaps.
        """
        with self._alone():
            return self._run_swap(swap)

    def _run_swap(self, swap: Swap) -> str | None:
        try:
            if self.store.read(swap) is None:
                with thread_count(THREADS):
                    self.store.write(swap, run_swap(swap, self.store, data_dir=self.data_dir, device=self.device))
        except StoreError:
            raise
        except Exception as error:  # whatever it is, the other swaps go on
            if out_of_memory(error):
                return describe(error)
            self.fail_swap(swap, describe(error))
        return None

    def fail_swap(self, swap: Swap, reason: str) -> None:
        """Say that a swap failed; the next run tries it again.

        Args:
            swap: the settings.
            reason: its first line is shown.
        """
        first = reason.partition("\n")[0]
        self.progress.note(f"failed: {swap.file_name}: {first}")


def prepare_once(task: Task) -> None:
    """Have a task load what all its trials need, once in a process.

    Args:
        task: of a study.
    """
    if not any(task is one for one in _PREPARED):
        # With one thread: what others leave behind can't be forked.
        with thread_count(THREADS), random_state_kept():
            seed_everything(0, 0)  # so that what it draws is the same in all processes
            task.prepare()
        # PyTorch's optimisers import its compiler at their first step, for a second: not again in each fork.
        weight = torch.zeros((), requires_grad=True)
        weight.grad = torch.zeros(())
        torch.optim.SGD([weight]).step()
        _PREPARED.append(task)


def _prepared(worker: Worker, run: Callable[[], str | None]) -> str | None:
    """Run trials in a fresh process."""
    with worker._alone():
        worker._prepare()
    return run()


def counter(
    progress: ProgressFiles,
    key: str,
    driver: int | None,
    trials: int = 1,
    epochs: int | None = None,
    forked: bool = False,
) -> Callable[..., None]:
    """Return what is to be called after each epoch, with its number: it says how far a job is.

    It ends the job when the run is dead, so that nobody waits for it any more: by an error where a process is a
    cluster's, and stays, else with the process.

    Args:
        progress: of the run.
        key: of the job.
        driver: the process that all others work for; None on a cluster.
        trials: of the job, trained together.
        epochs: that each is known to have; more than these aren't counted. Default: as many as there are.
        forked: whether this process is one that a worker has forked, or started, for the job.
    """
    # A worker whose run is dead mustn't begin another job of it.
    parent = os.getppid() if forked or driver is None else driver

    def count(epoch: int, *_: object) -> None:
        progress.count(key, trials * (epoch if epochs is None else min(epoch, epochs)))
        if driver is None:
            if not progress.alive:
                raise RunOverError(f"{progress.folder}: the run that this trial was for has ended")
        elif os.getpid() != driver and os.getppid() != parent:
            os._exit(1)

    return count


def describe(error: BaseException) -> str:
    """Return the type and message of an error on one line, and its traceback on those that follow.

    Args:
        error: that was raised.
    """
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}\n{''.join(traceback.format_exception(error))}"


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error comes from a lack of memory, so that trying again may help.

    Args:
        error: that was raised.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # PyTorch has a type for it on GPUs alone; on a CPU its message has the system's own words.
    words = ("out of memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
