"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

from weight_feedback import failpoints

#: What killed writers leave behind is cleared when it is this old, in seconds.
LEFTOVER_AGE = 24 * 3600
_LEFTOVER = re.compile(r"\..*[0-9a-f]{32}\.tmp")
_ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, have the quota raised, or choose another folder",
    errno.EROFS: "choose another folder: this one is read-only",
    errno.EACCES: "choose another folder, or get the permission to write there",
    errno.EPERM: "choose another folder, or get the permission to write there",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
    errno.EEXIST: "move away what is in the place of its folder",
    errno.EISDIR: "move away the folder that is in its place",
}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, either all of it or nothing is there, and stays there.

    Args:
        path: of the file; its folder is made if need be.
        content: the whole content.

    Raises:
        OSError: it can't be written; what was there before is as it was, and nothing else is left.
    """
    # A name of fixed length: one made from the file's could be longer than the file system takes.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        _make(path.parent)
        failpoints.reach("write-begin")
        try:
            _write(temporary, content)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        failpoints.reach("write-renamed")
        _sync(path.parent)  # the rename is durable only when the folder is
        failpoints.reach("write-durable")
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "see whether the disk is in order")
        raise OSError(
            error.errno, f"can't write this file ({error.strerror}): {advice}, then try again", str(path)
        ) from error


def tell(error: OSError) -> str:
    """Return in one line which file it is, what is wrong with it, and what to do.

    Args:
        error: of the operating system, or of `write_atomically`, which has the advice already.
    """
    what = error.strerror or str(error)
    # Of the others it isn't known here whether the file was to be written.
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if full and (advice := _ADVICE[error.errno or 0]) not in what:
        what = f"{what}; {advice}, then try again"
    return what if error.filename is None else f"{error.filename}: {what}"


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Args:
        path: of the file.

    Raises:
        OSError: it can't be removed.
    """
    failpoints.reach("remove-begin")
    path.unlink(missing_ok=True)
    failpoints.reach("remove-done")


def prepare(folder: Path) -> None:
    """Find out whether files can be written in a folder, and clear what killed writers left there.

    Only what is older than `LEFTOVER_AGE` is cleared: no write takes so long, and whether a younger one is still
    under way can't be known of another machine. Ages are by the file system's clock, not by this machine's.

    Args:
        folder: made if need be.

    Raises:
        OSError: nothing can be written there.
    """
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    write_atomically(probe, b"can be removed" * 300)  # more than what a file system may keep beside a name
    now = probe.stat().st_mtime
    probe.unlink()
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process clears as well
                if now - path.stat().st_mtime > LEFTOVER_AGE:
                    path.unlink()


def _make(folder: Path) -> None:
    """Make a folder, and those above it, so that they stay."""
    if folder.is_dir():
        return
    for missing in (*reversed(folder.parents), folder):
        if not missing.is_dir():
            missing.mkdir(exist_ok=True)
            failpoints.reach("folder-made")
            _sync(missing.parent)


def _write(path: Path, content: bytes) -> None:
    half = len(content) // 2
    with path.open("xb") as file:
        file.write(content[:half])
        file.flush()
        failpoints.reach("write-half")
        file.write(content[half:])
        failpoints.reach("write-whole")
        file.flush()
        failpoints.reach("write-flushed")
        os.fsync(file.fileno())
    failpoints.reach("write-synced")


def _sync(folder: Path) -> None:
    if os.name != "posix":  # Windows has no way to sync a folder
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
