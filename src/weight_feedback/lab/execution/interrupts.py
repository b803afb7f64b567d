"""Ctrl-C and SIGTERM: the first asks a command to end, the second ends it at once; workers are left to neither."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

from weight_feedback.lab.execution.isolation import end_forked

#: What ends a process whatever it does; on Windows, any signal but Ctrl-C and Ctrl-Break.
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Attributes:
        code: what the process exits with, as shells count it: 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted`; a second one ends the process at once, and its workers with it.

    Signals that are ignored or handled already stay so: a shell, for one, starts background jobs with SIGINT
    ignored. Outside the main thread, which alone can handle signals, nothing happens.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    ours = {number: usual for number, usual in defaults.items() if main and signal.getsignal(number) == usual}

    def first(number: int, _: FrameType | None) -> NoReturn:
        for each in ours:
            signal.signal(each, _end_at_once)
        raise Interrupted(number)

    for number in ours:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, usual in ours.items():
            # After a first signal the process is about to end, and a second one still counts.
            if signal.getsignal(number) is first:
                signal.signal(number, usual)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Keep SIGINT from the processes that are started meanwhile.

    A terminal sends Ctrl-C to all processes of a command. Workers are ended by the one that started them, and would
    only print where they were.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # not below: starting it unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_at_once(number: int, _: FrameType | None) -> NoReturn:
    try:
        # Another thread, of a pool, would at once replace those that are killed: no process is started any more.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=threading.Event().wait)
        end_forked()
        for child in multiprocessing.active_children():
            # By its number: loky's processes have no `kill`, and one that has ended doesn't keep the others.
            if child.pid is not None:
                with suppress(OSError):
                    os.kill(child.pid, _KILL)
    finally:
        os._exit(128 + number)
