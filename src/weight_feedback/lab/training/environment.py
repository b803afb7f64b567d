"""Where a trial is trained: its device and threads, and what of its surroundings is kept with its result."""

from __future__ import annotations

import ctypes
import platform
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weight_feedback

#: Of PyTorch; far more than any machine has cores, and few enough to be started.
MOST_THREADS = 1024


def choose_device(device: str = "auto") -> torch.device:
    """Return the device to train on.

    Args:
        device: ``"auto"`` takes CUDA where there is one, else the CPU; or a name that PyTorch knows.

    Returns:
        The device.

    Raises:
        ValueError: PyTorch doesn't know the name, or the machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: expected auto, cpu, cuda or another device of this machine, got {device!r} "
                         f"({reason})") from None  # fmt: skip
    return chosen


def device_count() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count()


def check_threads(threads: int | None) -> None:
    """Refuse a thread count that PyTorch can't have.

    Args:
        threads: how many; None: as many as there are.

    Raises:
        ValueError: there would be none, or far too many.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads: expected 1 to {MOST_THREADS}, got {threads}")


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Set PyTorch's thread count for a while.

    Args:
        threads: how many; None changes nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for what is allocated next, in place of handing it back to the system.

    A training step frees and allocates the same megabytes each time; fetching them again costs thousands of page
    faults. It changes no result. Elsewhere, nothing happens.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold, size = -1, -3, 2**30  # as in malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, size)
        libc.mallopt(trim_threshold, size)


def provenance(here: Mapping[str, Any]) -> dict[str, Any]:
    """Return where and with what a result is made.

    Args:
        here: what `surroundings` returned there.
    """
    return {
        "host": socket.gethostname(),
        **here,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }


def surroundings(device: torch.device) -> dict[str, str | int]:
    """Return what bits depend on besides settings and data: kind of machine, device, threads and software.

    Args:
        device: of the computation.
    """
    return {
        "machine": platform.machine(),
        "processor": processor(device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "weight_feedback": weight_feedback.__version__,
    }


def processor(device: torch.device) -> str:
    """Return the name of the model of GPU or CPU; empty where the system doesn't tell.

    Args:
        device: either.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor()
