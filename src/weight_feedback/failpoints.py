"""Named points at which a process can be made to die, so that tests see what it leaves behind.

``WEIGHT_FEEDBACK_FAILPOINT=NAME`` kills the process when it first reaches that point, ``NAME:N`` at the N-th time;
``WEIGHT_FEEDBACK_FAILPOINT_LOG=FILE`` adds a line to a file for each point that is reached. Both are read when this
module is imported. Without them, a point costs a call and a test.
"""

from __future__ import annotations

import os

#: Every point that there is.
NAMES = (
    "folder-made",
    "write-begin",
    "write-half",
    "write-whole",
    "write-flushed",
    "write-synced",
    "write-renamed",
    "write-durable",
    "remove-begin",
    "remove-done",
    "aside-begin",
    "aside-noted",
    "aside-moved",
)


def _parse(wanted: str) -> tuple[str, int]:
    name, _, count = wanted.partition(":")
    if name not in NAMES or not (count or "1").isdecimal() or int(count or 1) < 1:
        raise ValueError(
            f"WEIGHT_FEEDBACK_FAILPOINT: expected NAME or NAME:N, N at least 1 and NAME one of {', '.join(NAMES)}; "
            f"found {wanted!r}"
        )
    return name, int(count or 1)


_wanted = os.environ.get("WEIGHT_FEEDBACK_FAILPOINT")
_log = os.environ.get("WEIGHT_FEEDBACK_FAILPOINT_LOG")
_fatal = _parse(_wanted) if _wanted else None
_armed = bool(_fatal or _log)
_times = dict.fromkeys(NAMES, 0)


def reach(name: str) -> None:
    """Die here, if that is asked for.

    Args:
        name: one of `NAMES`.
    """
    if _armed:
        _count(name)


def _count(name: str) -> None:
    _times[name] += 1
    if _log:
        file = os.open(_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{name}\n".encode())
        os.close(file)
    if _fatal == (name, _times[name]):
        os.kill(os.getpid(), 9)  # SIGKILL, by its number: Windows has no such name, but the same effect
