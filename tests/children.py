"""Processes that tests start, interrupt and kill: modules of their own can be imported by a spawned process."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import joblib
from joblib.parallel import ParallelBackendBase

from weight_feedback.lab import cli

SECONDS = 20


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as something holds; fail if it doesn't in time."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"in {SECONDS} s, not yet: {what}"
        time.sleep(0.01)


def living(group: int) -> list[str]:
    """Return the processes of a group that have yet to end, as lines of /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            line = stat.read_text()
        except OSError:  # it ended meanwhile
            continue
        state, _, its_group = line.rpartition(")")[2].split()[:3]
        if int(its_group) == group and state != "Z":
            found.append(line)
    return found


class Forking(ParallelBackendBase):
    """A joblib backend whose workers are forked, so that they cost nothing, and do what the test has patched."""

    supports_retrieve_callback = True

    def effective_n_jobs(self, n_jobs: int) -> int:
        return n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: object) -> int:
        self.parallel = parallel
        self.pool = ProcessPoolExecutor(n_jobs, mp_context=get_context("fork"))
        return n_jobs

    def submit(self, func: Callable[[], object], callback: Callable[[Future], None]) -> Future:
        future = self.pool.submit(func)
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future) -> object:
        return out.result()

    def terminate(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def abort_everything(self, **_: object) -> None:
        for process in list((self.pool._processes or {}).values()):
            process.kill()
        self.terminate()


def fork(work: Callable[[], object], output: Path) -> int:
    """Do something in a process and a process group of its own, and return its number.

    It exits with 0, or as what it does says, or with 70 after an error. What it prints goes to a file.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        # As at the start of a program, whatever the test runner has changed.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)  # noqa: T201
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.closerange(3, 100)  # of the test runner, which would wait for them
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fork_command(args: Sequence[object], output: Path) -> int:
    """Give a command in a process of its own, with forked workers; see `fork`."""

    def work() -> None:
        with joblib.parallel_config(backend=Forking()):
            cli.main([str(arg) for arg in args])

    return fork(work, output)


def ended(pid: int) -> int:
    """Wait until a forked process ends, and return its exit code; if it was killed, its signal, negative."""
    found: list[int] = []

    def reap() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        found.append(status)
        return bool(done)

    wait_until(reap, "the end of a process")
    return os.waitstatus_to_exitcode(found[-1])


class DiesOnce:
    """A tracker that kills its process, once."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def log(self, *_: object) -> None:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
