"""The store: one directory a study, one immutable file a finished trial."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weight_feedback.files import write_atomically
from weight_feedback.lab.settings import Swap, Trial
from weight_feedback.lab.spec import Study

FORMAT = 1


class StoreError(ValueError):
    """A file of the store that can't be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Record:
    """What is kept of a finished trial.

    Attributes:
        result: what the trial's settings determine; the same, bit for bit, each time it is run.
        provenance: when, where and with what it was run.
    """

    result: dict[str, Any]
    provenance: dict[str, Any]


class Store:
    """The trials of one study, on disk.

    Args:
        folder: of the study; made when the first trial is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials = folder / "trials"

    def declare(self, study: Study) -> None:
        """Fix what a study is to decide, before its first trial; or check that it hasn't changed since.

        Args:
            study: arms × seeds, and what is declared of them; nothing happens where nothing is.

        Raises:
            StoreError: the folder's study was declared otherwise.
        """
        if study.declared is None:
            return
        path = self.folder / "declaration.json"
        if not path.exists():
            content = {"declaration": study.declaration(), "study": study.model_dump(mode="json")}
            write_atomically(path, json.dumps(content, indent=1).encode())
            return
        found = json.loads(path.read_bytes()).get("declaration")
        if found != study.declaration():
            raise StoreError(
                f"{path}: this study was declared otherwise before it was first run (expected "
                f"{study.declaration()}, found {found}); give the changed study a new name"
            )

    def path(self, trial: Trial | Swap) -> Path:
        """Return where a trial or a swap is kept, whether it is there or not.

        Args:
            trial: the settings.
        """
        return self.folder / trial.folder / f"{trial.file_name}.json"

    def weights(self, trial: Trial) -> Path:
        """Return where the final weights of a trial are kept, if they are.

        Args:
            trial: the settings.
        """
        return self.folder / "weights" / f"{trial.file_name}.safetensors"

    def finished(self, trial: Trial) -> bool:
        """Say whether everything is there that is kept of a trial.

        Args:
            trial: the settings.

        Raises:
            StoreError: its file is damaged, or of another format.
        """
        return self.read(trial) is not None and (not trial.keeps_weights or self.weights(trial).is_file())

    def fail(self, trial: Trial, reason: str) -> None:
        """Note that a trial failed; the note goes when it is run again and finishes.

        Args:
            trial: the settings.
            reason: for people; its first line is shown.
        """
        content = {"trial": trial.settings(), "reason": reason}
        write_atomically(self._failure(trial), json.dumps(content, indent=1).encode())

    def failure(self, trial: Trial) -> str | None:
        """Return why a trial failed when it was last run, or None.

        Args:
            trial: the settings.
        """
        try:
            return str(json.loads(self._failure(trial).read_bytes())["reason"])
        except FileNotFoundError:
            return None

    def _failure(self, trial: Trial) -> Path:
        return self.folder / "failures" / f"{trial.file_name}.json"

    def write(self, trial: Trial | Swap, record: Record) -> Path:
        """Keep a finished trial or swap.

        After this returns, it survives a crash; before, nothing of it is visible.

        Args:
            trial: the settings.
            record: what came out.

        Returns:
            The file.

        Raises:
            StoreError: something else is known to have come out of the same settings.
        """
        known = self.read(trial)
        if known is not None and known.result != record.result:
            raise StoreError(
                f"{self.path(trial)}: the same settings gave another result here, on {known.provenance['host']} "
                f"with torch {known.provenance['torch']}, than on {record.provenance['host']} with torch "
                f"{record.provenance['torch']}; trials of one study must come from one kind of machine and software"
            )
        content = {
            "format": FORMAT,
            "result": record.result,
            "provenance": record.provenance,
            "sha256": {"result": _checksum(record.result), "provenance": _checksum(record.provenance)},
        }
        path = self.path(trial)
        write_atomically(path, json.dumps(content, allow_nan=False).encode())
        if isinstance(trial, Trial):
            self._failure(trial).unlink(missing_ok=True)
        return path

    def read(self, trial: Trial | Swap) -> Record | None:
        """Return a finished trial or swap, or None if there is none.

        Args:
            trial: the settings.

        Raises:
            StoreError: the file is damaged, or of another format.
        """
        try:
            return read_record(self.path(trial))
        except FileNotFoundError:
            return None


def read_record(path: Path) -> Record:
    """Read the file of a finished trial or swap.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it is damaged, or of another format.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreError(f"{path} isn't readable JSON ({error}); delete it to run the trial again") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise StoreError(f"{path}: expected format {FORMAT}, found {found!r}; this version can't read it")
    checksums = content.get("sha256")
    for part in ("result", "provenance"):
        expected = checksums.get(part) if isinstance(checksums, dict) else None
        actual = _checksum(content.get(part))
        if expected != actual:
            raise StoreError(
                f"{path}: the checksum of its {part} is {actual}, expected {expected}: the file is damaged; "
                "delete it to run the trial again"
            )
    return Record(content["result"], content["provenance"])


def _checksum(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
