"""Processes that tests start, interrupt and kill: modules of their own can be imported by a spawned process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing import process as own_process
from pathlib import Path
from typing import Any, TypeVar

import joblib
import pytest
import vl_convert
from joblib.parallel import ParallelBackendBase
from matplotlib.figure import Figure

from helpers.limits import SECONDS
from weight_feedback.lab.commands import cli
from weight_feedback.lab.report import page

T = TypeVar("T")
#: From Python 3.12 on, a process that has threads, as pytest-xdist's have, warns when it forks.
may_fork = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


@contextmanager
def stand_ins() -> Iterator[None]:
    """Have a report's pictures made at once; what makes them takes long to start, and can't be forked."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("vegalite_to_png", "vegalite_to_svg", "javascript_bundle"):
            kind = bytes if name.endswith("png") else str
            patch.setattr(vl_convert, name, lambda *_, kind=kind, **__: kind())
        patch.setattr(Figure, "savefig", lambda *_, **__: None)
        yield
    page._library.cache_clear()  # which may be that of a stand-in


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Return what a condition gives as soon as it holds; fail if it doesn't in time."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"in {SECONDS} s, not yet: {what}"
        time.sleep(0.01)
    return found


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


@dataclass(frozen=True)
class Child:
    """A process that was forked, in a session of its own.

    Attributes:
        pid: its number, and that of its group.
        output: a pipe, to read what it prints.
    """

    pid: int
    output: int

    def end(self) -> tuple[int, str]:
        """Wait until it ends; return its exit code, or minus the signal that killed it, and what it printed."""
        found: list[int] = []

        def reap() -> bool:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            found.append(status)
            return bool(done)

        wait_until(reap, "the end of a process")
        os.set_blocking(self.output, False)  # workers that it left, if any, have the pipe as well
        printed = ""
        with suppress(BlockingIOError):  # nothing was printed, and they do have it
            printed = os.read(self.output, 2**20).decode()
        os.close(self.output)
        return os.waitstatus_to_exitcode(found[-1]), printed


def fork(work: Callable[[], object]) -> Child:
    """Do something in a process of its own, which exits with 0, or as it says, or with 70 after an error.

    What it prints must fit into a pipe.
    """
    output, end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(end)
        return Child(pid, output)
    code = 70
    try:
        os.setsid()
        own_process._children.clear()  # as at the start of a program; they are the test runner's
        # What is counted here is never read, and an interrupt may leave coverage with its lock held.
        sys.settrace(None)
        threading.settrace(None)
        # As at the start of a program, whatever the test runner has changed.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)  # noqa: T201
        os.dup2(end, 1)
        os.dup2(end, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        work()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fork_command(args: Sequence[object], before: Callable[[], object] = lambda: None) -> Child:
    """Give a command in a process of its own, with forked workers, after something else; see `fork`."""

    def work() -> None:
        before()
        with joblib.parallel_config(backend=Forking()):
            cli.main([str(arg) for arg in args])

    return fork(work)


def drop_privileges() -> None:
    """Let permissions bind this process even if it is root's, for good."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0


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
