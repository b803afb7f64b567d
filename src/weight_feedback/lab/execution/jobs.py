"""Jobs side by side in processes that may die: each is done, or given up for a reason of its own.

It rests on a backend's few calls, and on progress in files: a process that dies can't say which job it was at, nor
can those that die with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

from weight_feedback.lab.execution.backends import Backend, Outcome
from weight_feedback.lab.execution.interrupts import interrupts_blocked
from weight_feedback.lab.execution.progress import ProgressFiles, Tally


@dataclass(frozen=True)
class Job:
    """What a process does in one go.

    Attributes:
        key: tells it from other jobs; part of file names.
        name: for people.
        work: does it, and can be pickled. It returns None when it is done, or why it must be tried again; what it
            raises ends the run.
        give_up: is told, in the process that runs all jobs, why it will not be tried again.
        trials: that it runs.
        epochs: of these, together.
    """

    key: str
    name: str
    work: Callable[[], str | None]
    give_up: Callable[[str], None]
    trials: int = 0
    epochs: int = 0


class _StoppedError(Exception):
    """What a job raised; anything else that comes out of the pool is the pool's own trouble."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True)
class _Attempt:
    """What came of some jobs: which are done, which to try again and why, and what broke the pool, if it did."""

    done: set[str]
    again: dict[str, str]
    broke: Exception | None


def run_all(jobs: Sequence[Job], backend: Backend, retries: int, progress: ProgressFiles, tally: Tally) -> None:
    """Run jobs side by side, and those that had to be broken off again, alone.

    When a process dies, those beside it die with it, and memory that one takes is missing to others. Whose fault it
    was shows when each of them is tried again alone. Only what fails alone counts against a job.

    Args:
        jobs: what to do.
        backend: runs them.
        retries: a job that fails alone is tried this many times more, then it is given up.
        progress: of the run.
        tally: told of each job that ends.

    Raises:
        ChildProcessError: the pool breaks before any process begins a job.
        Exception: what a job raised.
    """
    left = {job.key: job for job in jobs}
    alone: dict[str, None] = {}
    failed: Counter[str] = Counter()
    idle = 0
    tally.begin({job.key: (job.trials, job.epochs) for job in jobs})
    while left:
        batch = [left[key] for key in left if key not in alone]
        if not batch:
            batch = [left[next(key for key in alone if key in left)]]
        attempt = _attempt(batch, backend, progress, tally)
        for key in attempt.done:
            del left[key]
        idle = 0 if attempt.done or attempt.again else idle + 1
        if idle > retries:
            raise ChildProcessError(
                f"the pool of workers broke before any of them began a trial, {idle} times; the last time: "
                f"{type(attempt.broke).__name__}: {attempt.broke}"
            ) from attempt.broke
        for key, reason in attempt.again.items():
            alone[key] = None
            if backend.jobs == 1 or len(batch) == 1:
                failed[key] += 1
            first, _, details = reason.partition("\n")
            if failed[key] > retries:
                left.pop(key).give_up(f"{first}, {failed[key]} times\n{details}")
                tally.end(key)
            else:
                progress.note(f"{left[key].name}: {first}; it will be tried again, alone")


def _attempt(jobs: Sequence[Job], backend: Backend, progress: ProgressFiles, tally: Tally) -> _Attempt:
    """Run jobs side by side until all are through, or the pool breaks."""
    done: set[str] = set()
    again: dict[str, str] = {}
    broke: Exception | None = None
    outcomes: Generator[Outcome] | None = None
    try:
        with interrupts_blocked():
            outcomes = backend.outcomes({job.key: partial(_work, job.key, job.work, progress) for job in jobs})
        for key, reason in outcomes:
            if reason is None:
                done.add(key)
                tally.end(key)
            else:
                again[key] = reason
    except _StoppedError as stopped:
        raise stopped.error from None
    except Exception as error:  # each backend has exceptions of its own
        broke = error
        reason = f"its process died, killed from outside or because memory ran out\n{type(error).__name__}: {error}"
        again |= dict.fromkeys(progress.take_unfinished(), reason)
    except BaseException as error:
        if outcomes:
            outcomes.throw(error)  # then the backend ends the workers, wherever this came from
        raise
    return _Attempt(done, again, broke)


def _work(key: str, work: Callable[[], str | None], progress: ProgressFiles) -> Outcome:
    try:
        with progress.under_way(key):
            return key, work()
    except Exception as error:
        raise _StoppedError(error) from error
