"""Reading a store that may be damaged, for commands that only look at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from weight_feedback.lab.store.store import Damaged, Record, Store
from weight_feedback.lab.study.trials import Kept


class Readable(Store):
    """A store in which a damaged result counts as missing; nothing is moved.

    Args:
        folder: of the study.
        on_note: told once of each damaged file.
    """

    def __init__(self, folder: Path, on_note: Callable[[str], None]) -> None:
        super().__init__(folder)
        self._on_note = on_note
        self._told: set[Path] = set()

    def read(self, trial: Kept) -> Record | None:
        """Return a finished trial or swap, or None if there is none that is whole.

        Args:
            trial: the settings.

        Raises:
            StoreError: the file is of another format.
        """
        try:
            return super().read(trial)
        except Damaged as error:
            path = self.path(trial)
            if path not in self._told:
                self._told.add(path)
                self._on_note(f"left out: {error}")
            return None
