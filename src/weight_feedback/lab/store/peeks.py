"""Looks at the estimates of a study before it was finished, as its folder keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from weight_feedback.files import write_atomically
from weight_feedback.lab.store.store import Damaged, Store, StoreError
from weight_feedback.lab.tasks.fields import Frozen

#: The file of a study's folder that says who looked at what before the study was finished.
PEEKS = "peeks.json"


class Peek(Frozen):
    """A look at the estimates of a study that wasn't finished."""

    time: AwareDatetime
    """When it was."""
    finished: Annotated[int, Field(ge=0)]
    """Trials of the declared contrasts that were finished."""
    of: Annotated[int, Field(ge=1)]
    """How many there are."""

    def __str__(self) -> str:
        return f"{self.time.isoformat(timespec='seconds')}, with {self.finished} of {self.of} trials"


def record_peek(store: Store, finished: int, of: int) -> None:
    """Keep that someone looks at estimates before a study is finished.

    Args:
        store: of the study.
        finished: trials of the declared contrasts.
        of: how many there are.

    Raises:
        StoreError: it can't be kept, or what is kept is damaged.
    """
    peek = Peek(time=datetime.now(UTC).replace(microsecond=0), finished=finished, of=of)
    try:
        write_peeks(store.folder / PEEKS, [*read_peeks(store.folder), peek])
    except OSError as error:
        raise StoreError(
            f"{error}\nNothing is shown: a look before a study is finished must be kept with its results, so that "
            "later reports can say so"
        ) from error


def read_peeks(folder: Path) -> tuple[Peek, ...]:
    """Return the looks that a study's folder keeps, in order.

    Args:
        folder: of the study.

    Raises:
        Damaged: the file isn't as it was written.
    """
    path = folder / PEEKS
    try:
        return _Peeks.model_validate_json(path.read_bytes()).peeks
    except FileNotFoundError:
        return ()
    except ValidationError:
        raise Damaged(
            f"{path}: expected a list of looks, each with time, finished and of; the file is damaged: put back a "
            "copy of it"
        ) from None


def write_peeks(path: Path, peeks: Iterable[Peek]) -> None:
    """Write looks, each once, in order.

    Args:
        path: the file.
        peeks: the looks.

    Raises:
        OSError: it can't be written.
    """
    ordered = sorted(set(peeks), key=lambda peek: (peek.time, peek.finished))
    write_atomically(path, _Peeks(peeks=tuple(ordered)).model_dump_json().encode())


class _Peeks(Frozen):
    peeks: tuple[Peek, ...]
