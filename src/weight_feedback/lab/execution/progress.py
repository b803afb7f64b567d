"""How far a run is: what its processes tell each other in files, in a folder that goes when the run ends.

No result is in them: how many epochs are done, which trials are under way, and lines for people.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True)
class ProgressFiles:
    """The files by which the processes of one run say how far they are; picklable, for workers.

    Args:
        folder: of this run alone.
    """

    folder: Path

    def count(self, key: str, epochs: int) -> None:
        """Say how far a job is.

        Args:
            key: of the job.
            epochs: done, of all its trials together.
        """
        # A full disk must not stop training for a progress bar.
        with suppress(OSError), (self.folder / "epochs" / key).open("ab") as file:
            file.truncate(epochs)  # its size is the count; a file without content takes no room

    def epochs(self) -> int:
        """Return how many epochs are done, of all jobs that aren't forgotten."""
        total = 0
        with suppress(FileNotFoundError):
            for mark in os.scandir(self.folder / "epochs"):
                with suppress(FileNotFoundError):  # forgotten meanwhile
                    total += mark.stat().st_size
        return total

    def forget(self, key: str) -> None:
        """Forget how far a job is: thousands of files would take long to read, again and again.

        Args:
            key: of the job.
        """
        with suppress(OSError):
            (self.folder / "epochs" / key).unlink()

    def join(self) -> int:
        """Return a number that no other process of this run has, from 0."""
        for number in itertools.count():
            with suppress(FileExistsError):
                (self.folder / f"process-{number}").touch(exist_ok=False)
                return number
        raise AssertionError

    def fail(self, name: str) -> None:
        """Mark a trial as failed.

        Args:
            name: of its files.
        """
        with suppress(OSError):  # as for epochs
            (self.folder / "failed" / name).touch()

    def failed(self) -> int:
        """Return how many trials have failed."""
        with suppress(FileNotFoundError):
            return sum(1 for _ in (self.folder / "failed").iterdir())
        return 0

    @property
    def alive(self) -> bool:
        """Whether the run is, and can be seen from here: its folder goes with it."""
        return self.folder.is_dir()

    @contextmanager
    def under_way(self, key: str) -> Iterator[None]:
        """Mark a job as under way; if the process dies, the mark stays.

        Args:
            key: of the job.
        """
        mark = self.folder / "under-way" / key
        mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def running(self) -> list[str]:
        """Return the keys of jobs that are under way."""
        with suppress(FileNotFoundError):
            return [mark.name for mark in (self.folder / "under-way").iterdir()]
        return []

    def take_unfinished(self) -> set[str]:
        """Return the keys of jobs that are marked as under way, and remove the marks."""
        left = set(self.running())
        for key in left:
            (self.folder / "under-way" / key).unlink(missing_ok=True)
        return left

    def note(self, line: str) -> None:
        """Say something to people.

        Args:
            line: becomes one line.
        """
        content = " ".join(line.split()).encode(errors="backslashreplace") + b"\n"
        file = os.open(self.folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, content)  # at once, so that lines of several processes don't mix
        finally:
            os.close(file)

    def notes(self, start: int) -> tuple[list[str], int]:
        """Return the whole lines that were said, from a position on, and the next position.

        Args:
            start: 0, or what was returned last.
        """
        with suppress(FileNotFoundError):
            with (self.folder / "notes").open("rb") as file:
                file.seek(start)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            return whole.decode().splitlines(), start + len(whole)
        return [], start


@contextmanager
def progress_files(parent: Path) -> Iterator[ProgressFiles]:
    """Make a folder for the progress files of a run, and remove it afterwards.

    The run holds a lock in it, which goes with the process, however it ends.

    Args:
        parent: holds one folder a run.
    """
    folder, lock = _make(parent)
    try:
        yield ProgressFiles(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
        _remove_if_empty(parent)


def clear_dead(parent: Path) -> None:
    """Remove the progress files of runs that are dead; where locks don't work, they stay.

    Args:
        parent: holds one folder a run.
    """
    if sys.platform == "win32":
        return
    with suppress(FileNotFoundError):
        for folder in parent.iterdir():
            # What can't be opened is gone, or not a run's; what can't be locked is a living one's.
            with suppress(OSError), (folder / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A run that is still making this folder must find it gone, not lose parts of it.
                dead = folder.rename(parent / uuid.uuid4().hex)
                shutil.rmtree(dead, ignore_errors=True)
    _remove_if_empty(parent)


def _make(parent: Path) -> tuple[Path, BinaryIO]:
    while True:
        folder = parent / uuid.uuid4().hex
        # Another run may take it for a dead one's before it is locked, or remove the folder above as it ends.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True)
            for part in ("epochs", "under-way", "failed"):
                (folder / part).mkdir()
            lock = (folder / "lock").open("xb")
            if sys.platform != "win32":
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / "lock").exists():
                return folder, lock
            lock.close()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it is in use, or gone
        folder.rmdir()


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epochs: done, of all trials that are run, together.
        running: trials under way.
        done: trials that are finished.
        failed: trials that have failed.
    """

    epochs: int
    running: int = 0
    done: int = 0
    failed: int = 0


class Tally:
    """Counts what ends; for several threads.

    Args:
        files: of the run.
    """

    def __init__(self, files: ProgressFiles) -> None:
        self._files = files
        self._left: dict[str, tuple[int, int]] = {}
        self._trials = self._epochs = 0
        self._lock = threading.Lock()

    def begin(self, jobs: Mapping[str, tuple[int, int]]) -> None:
        """Add jobs that are about to be run.

        Args:
            jobs: key to how many trials a job runs, and how many epochs these have together.
        """
        with self._lock:
            self._left |= jobs

    def end(self, key: str) -> None:
        """Count a job as through, or given up.

        Args:
            key: of the job.
        """
        with self._lock:
            trials, epochs = self._left.pop(key)
            self._trials += trials
            self._epochs += epochs
            self._files.forget(key)

    def progress(self) -> Progress:
        """Return how far the run is now."""
        with self._lock:
            epochs = self._epochs + self._files.epochs()
            running = sum(self._left.get(key, (0, 0))[0] for key in self._files.running())
            failed = self._files.failed()
            # A trial is marked as failed a little before its job ends.
            return Progress(epochs, running, max(0, self._trials - failed), failed)
