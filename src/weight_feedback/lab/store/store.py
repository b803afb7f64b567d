"""The store: one directory a study, one immutable file a finished trial."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from weight_feedback import failpoints
from weight_feedback.files import prepare, remove, tell, write_atomically
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import KEPT
from weight_feedback.lab.study.trials import Kept, ending_of
from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.fields import flat
from weight_feedback.lab.tasks.loading import BUILT_IN

FORMAT = 1
_AGAIN = "the next run sets it aside and runs the trial again"
#: The file of a study's folder that says what was declared.
DECLARATION = "declaration.json"
#: Changed fields that a message lists.
MOST_CHANGES = 4
#: Where a study's files are, in its folder.
FOLDERS = ("trials", "swaps", "weights", "checkpoints", "failures", "figures", "damaged")


class StoreError(ValueError):
    """A file of the store that can't be used; the message names it and says what to do."""


class Damaged(StoreError):  # noqa: N818 - what is raised says what the file is
    """A file of the store whose bytes aren't those that were written."""


@dataclass(frozen=True)
class Record:
    """What is kept of a finished trial.

    Attributes:
        result: what the trial's settings determine; the same, bit for bit, each time it is run.
        provenance: when, where and with what it was run.
    """

    result: dict[str, Any]
    provenance: dict[str, Any]


class Declaration(NamedTuple):
    """What a study's folder keeps of its declaration.

    Attributes:
        declaration: digest of everything that determines the verdicts.
        time: when it was declared, in ISO format; empty where an older version did it.
        study: as it was then, as plain values.
    """

    declaration: str
    time: str
    study: Any


class Store:
    """The trials of one study, on disk.

    Args:
        folder: of the study; made when the first trial is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.trials = self.folder / "trials"

    @classmethod
    def of(cls, study: Study) -> Store:
        """Return where a study's results go if nothing else is said: in ``results``, under its name.

        Args:
            study: arms × seeds.
        """
        return cls(Path("results") / study.name)

    def probe(self, needed: int = 0) -> None:
        """See that results can be written; make the folder if need be, and clear what killed writers left there.

        Args:
            needed: bytes that are going to be written.

        Raises:
            StoreError: the folder is read-only, full, or not a folder, or there is no permission.
        """
        try:
            prepare(self.folder)
            for folder in (self.folder / name for name in FOLDERS):
                if folder.exists():
                    prepare(folder)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StoreError(f"{self.folder}: results can't be kept here: {tell(error)} (--out)") from None
        if free < needed:
            raise StoreError(
                f"{self.folder}: expected {needed / 1e6:,.1f} MB of free space for what is to be written, found "
                f"{free / 1e6:,.1f} MB; free some, or choose another folder (--out)"
            )

    def declare(self, study: Study) -> None:
        """Fix what a study is to decide, before its first trial; or check that it hasn't changed since.

        Args:
            study: arms × seeds, and what is declared of them; nothing is fixed where nothing is.

        Raises:
            StoreError: the folder's study was declared otherwise, or its declaration is damaged.
        """
        if self.declaration(study) is None and study.declared is not None:
            content = {
                "declaration": study.declaration(),
                "declared": datetime.now(UTC).isoformat(timespec="seconds"),
                "study": study.fill_in().model_dump(mode="json"),
            }
            write_atomically(self.folder / DECLARATION, json.dumps(content, indent=1).encode())

    def describe(self, study: Study) -> None:
        """Keep the study with all settings filled in beside its results, which are read without its task then.

        Args:
            study: arms × seeds, whose trials are about to be run.
        """
        path = self.folder / KEPT
        content = json.dumps(study.fill_in().model_dump(mode="json"), indent=1).encode()
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)

    def declaration(self, study: Study) -> Declaration | None:
        """Return what was declared in this folder, which must be this study; None if nothing was.

        Args:
            study: arms × seeds, and what is declared of them.

        Raises:
            StoreError: the folder's study was declared otherwise, or its declaration is damaged.
        """
        path = self.folder / DECLARATION
        advice = "a declaration stays as it is: put back a copy of the file, or run the study in another folder"
        try:
            known = read_declaration(path)
        except FileNotFoundError:
            return None
        except Damaged as error:
            raise Damaged(f"{error}; {advice}") from None
        if known.declaration == study.declaration():
            return known
        changes = ""
        # What is in a file mustn't decide which code is imported.
        if isinstance(known.study, dict) and (
            known.study.get("task", "notebook") in BUILT_IN or known.study.get("resolved") is True
        ):
            with suppress(ValidationError):  # of a version that knows other fields
                before = Study.model_validate(known.study)
                if before.declaration() != known.declaration:
                    raise Damaged(
                        f"{path}: expected {before.declaration()} of the study in it, found {known.declaration}: "
                        f"damaged; {advice}"
                    )
                changes = f". Changed since: {_changes(before, study)}"
        raise StoreError(
            f"{path}: this study was declared otherwise before it was first run (expected {study.declaration()}, "
            f"found {known.declaration}); put the study file back as it was, or give the changed study a new name"
            f"{changes}"
        )

    def path(self, trial: Kept) -> Path:
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

    def checkpoint(self, trial: Trial) -> Path:
        """Return where training keeps how far it is, until it is finished.

        Args:
            trial: the settings; of a cohort, those of its first trial.
        """
        return self.folder / "checkpoints" / f"{trial.file_name}.safetensors"

    def finished(self, trial: Trial) -> bool:
        """Say whether everything is there that is kept of a trial, and undamaged.

        Args:
            trial: the settings.

        Raises:
            StoreError: its file is of another format.
        """
        try:
            if self.read(trial) is None:
                return False
        except Damaged:
            return False
        return not trial.keeps_weights or self.weights(trial).is_file()

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
            return str(read_fields(self._failure(trial), "reason")["reason"])
        except FileNotFoundError:
            return None
        except Damaged as error:  # that it failed is known all the same, and it is going to be run again
            return f"unknown: {error}"

    def _failure(self, trial: Trial) -> Path:
        return self.folder / "failures" / f"{trial.file_name}.json"

    def write(self, trial: Kept, record: Record) -> Path:
        """Keep a finished trial or swap.

        After this returns, it survives a crash; before, nothing of it is visible. What is there already stays as it
        is, unless it is damaged: then it is set aside.

        Args:
            trial: the settings.
            record: what came out.

        Returns:
            The file.

        Raises:
            StoreError: something else is known to have come out of the same settings.
        """
        path = self.path(trial)
        try:
            known = self.read(trial)
        except Damaged as error:
            self.set_aside(path, str(error))
            known = None
        if known is not None and known.result != record.result:
            raise StoreError(
                f"{path}: the same settings gave another result here, on {known.provenance.get('host')} "
                f"with torch {known.provenance.get('torch')}, than on {record.provenance.get('host')} with torch "
                f"{record.provenance.get('torch')}; trials of one study must come from one kind of machine and "
                "software"
            )
        if isinstance(trial, Trial):
            remove(self._failure(trial))
        if known is None:
            write_atomically(path, _serialise(record))
        return path

    def read(self, trial: Kept) -> Record | None:
        """Return a finished trial or swap, or None if there is none.

        Args:
            trial: the settings.

        Raises:
            Damaged: the file isn't as it was written, or is that of another trial.
            StoreError: the file is of another format.
        """
        try:
            return read_record(self.path(trial))
        except FileNotFoundError:
            return None

    def set_aside(self, path: Path, reason: str) -> Path:
        """Move a damaged file out of the way, into a folder of such files, and note why beside it.

        Args:
            path: of the file, in the store.
            reason: for people.

        Returns:
            Where the file is now; the folder alone, if another process has moved it at the same time.
        """
        damaged = self.folder / "damaged"
        damaged.mkdir(exist_ok=True)
        failpoints.reach("aside-begin")
        for number in itertools.count(1):
            goal, note = (damaged / f"{path.stem}.{number}{ending}" for ending in (path.suffix, ".txt"))
            try:
                # The process that makes the note has the number to itself.
                with note.open("x", encoding="utf-8") as file:
                    file.write(f"{path}\n{reason}\n")
            except FileExistsError:
                continue
            failpoints.reach("aside-noted")
            if not goal.exists():
                break
        try:
            path.rename(goal)
        except FileNotFoundError:
            note.unlink()
            return damaged
        failpoints.reach("aside-moved")
        return goal


def read_record(path: Path) -> Record:
    """Read the file of a finished trial or swap.

    Args:
        path: the file; its name says what it should hold.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it isn't as it was written, or holds another trial.
        StoreError: it is of another format.
    """
    written = path.read_bytes()
    content = _parse(written)
    record = Record(content.get("result", {}), content.get("provenance", {}))
    # Byte for byte: what parses to the same values, but isn't what was written, is damaged too.
    if written != _serialise(record) or not isinstance(record.provenance, dict):
        found = content.get("format")
        # If all but the number is as in this format, it is the number that is damaged.
        if type(found) is int and found > FORMAT and written != _serialise(record, found):
            raise StoreError(f"{path}: expected format {FORMAT}, found {found}; this version can't read it")
        raise Damaged(f"{path}: its bytes don't fit its checksums: the file is damaged; {_AGAIN}")
    ending = ending_of(record.result)
    if ending is None or not path.stem.endswith(ending):
        holds = f"a result with the key {ending[-16:]}" if ending else "settings that this version doesn't know"
        raise Damaged(f"{path}: expected the result that its name says, found {holds}; {_AGAIN}")
    return record


def read_declaration(path: Path) -> Declaration:
    """Read what was declared of a study.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it isn't JSON, a field is missing, or the time isn't one.
    """
    content = read_fields(path, "declaration", "study")
    time = content.get("declared", "")  # which older versions didn't keep
    try:
        known = time == "" or datetime.fromisoformat(time).tzinfo is not None
    except (TypeError, ValueError):
        known = False
    if not known:
        raise Damaged(f"{path}: declared: expected a time with its zone, found {time!r}; the file is damaged")
    return Declaration(content["declaration"], time, content["study"])


def _changes(before: Study, after: Study) -> str:
    """Return which deciding fields of a study differ, and how; the first few of them."""
    arms = {arm.name for arm in before.arms} & {arm.name for arm in after.arms}
    old, new = (
        {name: json.dumps(value) for name, value in flat(_by_name(study.deciding(), arms))}
        for study in (before, after)
    )
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [f"{n} was {old.get(n, 'left out')}, is {new.get(n, 'left out')}" for n in changed[:MOST_CHANGES]]
    more = [f"and {len(changed) - MOST_CHANGES} more"] if len(changed) > MOST_CHANGES else []
    return "; ".join([*shown, *more])


def _by_name(settings: dict[str, Any], arms: Set[str]) -> dict[str, Any]:
    """Return what decides in a study with a list of its arms' names, and the fields of some arms by their names."""
    given = {arm["name"]: arm for arm in settings.pop("arms")}
    return {**settings, "arms": {"": [*given], **{name: arm for name, arm in given.items() if name in arms}}}


def read_fields(path: Path, *names: str) -> dict[str, Any]:
    """Read a file of JSON that has no checksum.

    Args:
        path: the file.
        names: of the fields that it must have.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it isn't JSON, or a field is missing.
    """
    content = _parse(path.read_bytes())
    if not content.keys() >= set(names):
        raise Damaged(f"{path}: expected JSON with {' and '.join(map(repr, names))} in it; the file is damaged")
    return content


def _parse(written: bytes) -> dict[str, Any]:
    """Return an object of JSON; an empty one if that isn't what it is, or a number in it isn't finite."""
    try:
        content = json.loads(written.decode())
        json.dumps(content, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _serialise(record: Record, number: int = FORMAT) -> bytes:
    content = {
        "format": number,
        "result": record.result,
        "provenance": record.provenance,
        "sha256": {"result": _checksum(record.result), "provenance": _checksum(record.provenance)},
    }
    return json.dumps(content, allow_nan=False).encode()


def _checksum(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
