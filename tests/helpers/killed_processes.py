"""Processes that are made to die, at a failpoint or after a time, with all their workers."""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import shutil
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from weight_feedback import failpoints

Work = Callable[[], Any]
_LIBC = ctypes.CDLL(None)


class BrokenPromiseError(AssertionError):
    """A kill did what none may; the message names the folder, which is kept."""


def require(holds: bool, folder: Path, what: str) -> None:
    if not holds:
        raise BrokenPromiseError(f"{folder}: {what}")


#: Whether this process has no other children than those that it kills.
_ADOPTS: list[bool] = []


def adopt() -> None:
    """Become the parent of the workers of processes that die, so that it is known when they are gone, too."""
    _LIBC.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    _ADOPTS.append(True)


def alone() -> bool:
    """Say whether this process has one thread alone, so that it can be forked without surprises."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


def fork(work: Work, deadly: str = "", log: Path | str = "") -> int:
    """Start work in a process group of its own; return its number."""
    number = os.fork()
    if number:
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(number, number)
        return number
    status = 1
    try:
        os.setpgid(0, 0)
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it doesn't outlive the process that started it
        os.environ |= {"WEIGHT_FEEDBACK_FAILPOINT": deadly, "WEIGHT_FEEDBACK_FAILPOINT_LOG": str(log)}
        importlib.reload(failpoints)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(number: int, seconds: float | None = None) -> int:
    """Kill a group of processes after a time, unless it has finished; return how its first process ended."""
    descriptor = os.pidfd_open(number)
    select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    with suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    with suppress(ChildProcessError):  # its workers and trials, which are this process's children now
        while True:
            os.waitpid(-1 if _ADOPTS else -number, 0)
    # What joblib keeps in memory, and nobody is left to clear.
    for left in Path("/dev/shm").glob(f"joblib_*_{number}_*"):
        shutil.rmtree(left)
    for left in Path("/dev/shm").glob(f"sem.loky-{number}-*"):
        left.unlink()
    return status


def complete(work: Work, folder: Path) -> None:
    """Do work undisturbed."""
    require(finish(fork(work)) == 0, folder, "an undisturbed run failed; its error is above")


def points(work: Work, log: Path) -> list[str]:
    """Return every failpoint that work reaches, each time that it does, in order: ``NAME:N``."""
    require(finish(fork(work, log=log)) == 0, log, "work failed; its error is above")
    seen: dict[str, int] = {}
    reached = []
    for name in log.read_text().splitlines():
        seen[name] = seen.get(name, 0) + 1
        reached.append(f"{name}:{seen[name]}")
    log.unlink()
    return reached


def kill_at(point: str, work: Work, folder: Path) -> None:
    status = finish(fork(work, deadly=point))
    require(status == -signal.SIGKILL, folder, f"expected to die at {point}, but the exit code was {status}")
