"""What a network in a random subspace is trained with."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weight_feedback.lab.tasks.base import Count, Frozen, Name, digest
from weight_feedback.lab.tasks.notebook.settings import Subspace


class Measurement(Frozen):
    """A network trained with Adam in a random subspace, to see how well ``d`` dimensions do; see `measure`.

    Networks, starts, subspaces and data orders of two measurements are independent, even if the seeds are the same.
    """

    folder: ClassVar[str] = "trials"

    data: Name
    network: Literal["fc", "lenet"]
    subspace: Subspace
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Count = 128
    """Examples a step."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of Adam."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return self.model_dump(mode="json")

    def key(self) -> str:
        """Return 16 hex digits of the SHA-256 digest of all settings."""
        return digest(self.settings())

    @property
    def file_name(self) -> str:
        """What its file is called, without an ending."""
        return f"{self.network}-{self.subspace.dimensions:05d}-seed-{self.seed:05d}-{self.key()}"
