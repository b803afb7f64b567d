"""Bounds on what a test may take: memory that this process may ask for, and time that a call may need."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: That tests wait for other processes: far more than anything honest needs, however busy the machine.
SECONDS = 300


class Endless(BaseException):
    """A call took longer than it was given; no parser can take this for an error of its own."""


@contextmanager
def memory(more: int) -> Iterator[None]:
    """Let this process ask for so many bytes more than it has now, and no others; on Linux alone.

    Args:
        more: bytes.
    """
    if sys.platform != "linux":
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def seconds(most: float) -> Iterator[None]:
    """Interrupt what takes longer.

    Args:
        most: seconds; far more than anything honest needs, however busy the machine.

    Raises:
        Endless: it took longer.
    """

    def stop(*_: object) -> None:
        raise Endless(f"more than {most} s")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, most)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
