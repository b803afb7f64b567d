"""What a preflight found of a study's training, as the study's folder keeps it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from weight_feedback.files import write_atomically
from weight_feedback.lab.store.store import Damaged
from weight_feedback.lab.tasks.fields import Frozen

#: The file of a study's folder that says what was found.
CHECKS = "preflight.json"

#: Names of checks to what is so where they fail.
_FAILING = {
    "repeatable": "not repeatable",
    "seeds differ": "seeds don't differ",
    "arms differ": "arms don't differ",
    "resumes": "doesn't go on to the same numbers",
    "evaluating changes nothing": "evaluating changes something",
    "the metric moves": "the metric doesn't move",
}

Verdict = Literal["passed", "failed", "noted", "not tried"]


class Check(Frozen):
    """One thing that a preflight looked at."""

    name: Annotated[str, Field(max_length=100)]
    """What should be, in a few words."""
    verdict: Verdict
    said: Annotated[str, Field(max_length=4000)]
    """What was found, what follows, and what to do."""

    @property
    def warning(self) -> str:
        """What a report says of one that failed."""
        words = _FAILING.get(self.name, f"{self.name}: failed")
        return f"{words[:1].upper()}{words[1:]}, by a preflight: {self.said}."


class Checked(Frozen):
    """What a preflight found."""

    time: AwareDatetime
    """When it was."""
    code: Annotated[str, Field(max_length=100)]
    """Digest of the task's code."""
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """Those that failed."""
        return [check for check in self.checks if check.verdict == "failed"]


def write_checks(folder: Path, code: str, checks: tuple[Check, ...]) -> None:
    """Keep what a preflight found.

    Args:
        folder: of the study.
        code: digest of the task's code.
        checks: all of them.

    Raises:
        OSError: it can't be written.
    """
    found = Checked(time=datetime.now(UTC).replace(microsecond=0), code=code, checks=checks)
    write_atomically(folder / CHECKS, found.model_dump_json(indent=1).encode())


def read_checks(folder: Path) -> Checked | None:
    """Return what the last preflight found; None if there was none.

    Args:
        folder: of the study.

    Raises:
        Damaged: the file isn't as it was written.
    """
    path = folder / CHECKS
    try:
        return Checked.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise Damaged(
            f"{path}: expected what a preflight found; the file is damaged: remove it, and `weight-feedback "
            "preflight` makes it again"
        ) from None
