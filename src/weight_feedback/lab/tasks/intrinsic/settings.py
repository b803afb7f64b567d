"""What a network in a random subspace is trained with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.fields import Count, Frozen, Name
from weight_feedback.lab.tasks.notebook.settings import Subspace


class Settings(Frozen):
    """The settings of a study of dimensions: the subspace is an arm's, the others are shared by all arms."""

    data: Name
    """A data set of images of 28 × 28 pixels, as listed by `weight-feedback data list`."""
    network: Literal["fc", "lenet"]
    """See `build`."""
    subspace: Subspace
    """Its size is what arms differ in."""
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    """Passes over the training set."""
    batch_size: Count = 128
    """Examples a step."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of Adam."""


class Measurement(Settings, Trial):
    """A network trained with Adam in a random subspace, to see how well ``d`` dimensions do; see `train`.

    Networks, starts, subspaces and data orders of two measurements are independent, even if the seeds are the same.
    """

    @property
    def task(self) -> str:
        """See `Trial`."""
        return "intrinsic-dimension"

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return {**self.model_dump(mode="json", exclude={"seed"}), "seed": self.seed}

    @property
    def called(self) -> str:
        """Network and dimensions."""
        return f"{self.network}-{self.subspace.dimensions:05d}"

    @property
    def planned_epochs(self) -> int:
        """Passes over the training set."""
        return self.epochs
