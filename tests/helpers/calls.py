"""What other processes are told to do; nothing here takes long to import."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def forever() -> bool:
    return True


def raises() -> None:
    raise ValueError("wrong", 3)


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs() -> None:
    time.sleep(10**6)


def leaves_one(mark: Path) -> int:
    """Fork a process that outlives this one unless it is ended."""
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(10**6)
    mark.write_text(str(os.getpgid(child)))
    return child


def who(size: int) -> tuple[int, bytes]:
    return os.getpid(), b"x" * size


def exits() -> None:
    os._exit(3)


def typed() -> bytes:
    return os.read(0, 1)


def speaks() -> int:
    return sys.stdout.write("spoken\n")


def interrupts_itself() -> None:
    raise KeyboardInterrupt("enough")
