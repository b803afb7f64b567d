"""How far a run is, as the process that runs it knows: what ended there, and what marks say of the rest."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from weight_feedback.lab.execution.progress import Marks


@dataclass(frozen=True)
class Standing:
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
        marks: of the run.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._left: dict[str, tuple[int, int]] = {}
        self._trials = self._epochs = 0
        self._lock = threading.Lock()

    def begin(self, tasks: Mapping[str, tuple[int, int]]) -> None:
        """Hear of tasks.

        Args:
            tasks: key to how many trials a task runs, and how many epochs these have together.
        """
        with self._lock:
            self._left |= tasks

    def end(self, key: str) -> None:
        """Hear that a task is through, or given up.

        Args:
            key: of the task.
        """
        with self._lock:
            trials, epochs = self._left.pop(key)
            self._trials += trials
            self._epochs += epochs
            self._marks.forget(key)

    def standing(self) -> Standing:
        """Return how far the run is now."""
        with self._lock:
            epochs = self._epochs + self._marks.epochs()
            running = sum(self._left.get(key, (0, 0))[0] for key in self._marks.running())
            failed = self._marks.failed()
            # A trial is marked as failed a little before its task ends.
            return Standing(epochs, running, max(0, self._trials - failed), failed)
