"""What results are kept of: trials, and evaluations of trained models under something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.fields import Frozen, Name, digest


class Swap(Frozen):
    """A trained model that is evaluated under something else than what it was trained with."""

    folder: ClassVar[str] = "swaps"

    trial: Trial
    """Which model: its weights are those after the last step."""
    heard: Name
    """Under what, one of its task's ``interventions``."""
    other: Annotated[int, Field(ge=0)] | None = None
    """Another seed, whose model is needed for it."""

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return {"trial": self.trial.settings(), **self.model_dump(exclude={"trial"}, exclude_none=True)}

    def key(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of all settings, with the trial's key in place of its own."""
        return digest(self.settings() | {"trial": self.trial.key()})

    @property
    def file_name(self) -> str:
        """What files of this swap are called, without an ending."""
        return f"{self.trial.file_name}-hears-{self.heard}-{self.key()}"


#: What results are kept of.
Kept = Trial | Swap


def ending_of(result: Any) -> str | None:
    """Return how the name of a result's file ends, from the plain values in it; None if that can't be told.

    What it begins with is for people; its task alone knows that.

    Args:
        result: of a trial or a swap.
    """
    try:
        for name in ("trial", "measurement"):
            if name in result:
                return f"-seed-{result[name]['seed']:05d}-{digest(result[name])}"
        swap = result["swap"]
        return f"-hears-{swap['heard']}-{digest(swap | {'trial': digest(swap['trial'])})}"
    except (KeyError, TypeError, ValueError):
        return None


def data_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of the data, and of code, that a result comes from, by their names.

    Args:
        result: of a trial or a swap.
    """
    found = result["data"]
    if isinstance(found, dict):
        return found
    # Of one data set, which settings name.
    settings = next(result[kind] for kind in ("trial", "measurement", "swap") if kind in result)
    return {str(settings.get("trial", settings)["data"]): str(found)}
