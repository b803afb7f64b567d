"""What results are kept of: trials and swaps, and the keys that tell each from others."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weight_feedback.lab.tasks.base import Frozen, digest
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.lab.tasks.notebook.settings import Settings


class Trial(Settings):
    """One arm with one seed: everything that its result depends on, and nothing else."""

    folder: ClassVar[str] = "trials"

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values.

        What doesn't apply to the trial is left out.
        """
        settings = self.model_dump(mode="json", exclude_none=True, exclude={"training"})
        settings["training"] = self.training.settings()
        if self.conditioning == "concat":
            del settings["conditioning"]
        if self.salt == 0:
            del settings["salt"]
        return settings

    def key(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of all settings."""
        return digest(self.settings())

    def cohort(self) -> list[Trial]:
        """Return the trials that are trained together with this one, and itself: always the same seeds."""
        size = self.training.cohort
        first = self.seed // size * size
        return [self.model_copy(update={"seed": seed}) for seed in range(first, first + size)]

    @property
    def file_name(self) -> str:
        """What files of this trial are called, without an ending."""
        parts = (
            self.model,
            self.signal,
            "film" if self.conditioning == "film" else None,
            f"salt-{self.salt}" if self.salt else None,
        )
        arm = "-".join(filter(None, parts))
        return f"{arm}-seed-{self.seed:05d}-{self.key()}"


class Swap(Frozen):
    """A trained network that hears something else in evaluation than what it heard in training."""

    folder: ClassVar[str] = "swaps"

    trial: Trial
    """Which network: its weights are those after the last step."""
    heard: Literal["zeros", "initial", "other"]
    """Nothing; what it heard before its first step; or what another seed's network heard at last."""
    other: Annotated[int, Field(ge=0)] | None = None
    """The other seed; for `other` alone."""

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
Kept = Trial | Swap | Measurement
