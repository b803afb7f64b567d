"""What the networks that this began with are trained with, and what they hear."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.fields import Count, Frozen, Name

#: Numbers that a stored projection may have: 4 GiB of them.
MOST_STORED = 2**30


class Subspace(Frozen):
    """A random subspace in which all parameters of a network move together: ``θ = θ₀ + Pᵀ v``.

    Its ``d`` coordinates ``v`` are trained, beginning at 0, and are what networks hear; see `Confined`.
    """

    dimensions: Count
    """``d``."""
    projection: Literal["count", "kronecker", "dense"] = "count"
    """``P``: `CountSketch`, `KroneckerProjection` or a Gaussian `DenseProjection`."""

    def check_fit(self, parameters: int, field: str = "training.subspace.dimensions") -> None:
        """Check what depends on the network, before anything is made.

        Args:
            parameters: of the network.
            field: what people know the dimensions by.

        Raises:
            ValueError: the subspace would have more dimensions than they, or its matrix be too large.
        """
        if self.dimensions > parameters:
            raise ValueError(
                f"{field}: must be at most the network's {parameters} parameters, got {self.dimensions}"
            )
        if self.projection == "dense" and self.dimensions * parameters > MOST_STORED:
            raise ValueError(
                f"{field}: must be at most {MOST_STORED // parameters}, for a matrix of "
                f"{MOST_STORED} numbers over {parameters} parameters, got {self.dimensions}; the projections count "
                "and kronecker store no matrix"
            )


class Training(Frozen):
    """Training settings; the defaults are the original notebook's protocol.

    SGD with momentum on the negative log-likelihood, batches reshuffled each epoch, the last short batch kept,
    evaluation on the whole test set after each epoch.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 6
    """Passes over the training set."""
    batch_size: Count = 64
    """Examples a step."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of SGD."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Momentum of SGD."""
    test_batch_size: Count = 1000
    """Examples a batch in evaluation."""
    log_interval: Count = 40
    """Steps between two log lines."""
    cohort: Annotated[int, Field(ge=1, le=1024)] = 1
    """Seeds that are trained as one vectorised network; 1: each on its own.

    What comes out agrees to rounding, not bit for bit, so trials of another cohort size are other trials."""

    subspace: Subspace | None = None
    """Where the parameters may go; default: anywhere."""

    def settings(self) -> dict[str, Any]:
        """Return what results depend on as plain values: all but ``log_interval``, and no cohort of 1."""
        settings = self.model_dump(mode="json", exclude={"log_interval"}, exclude_none=True)
        if self.cohort == 1:
            del settings["cohort"]
        return settings

    def epoch_steps(self, images: int) -> int:
        """Return the optimiser steps in an epoch, the last, short batch included.

        Args:
            images: in the training set.
        """
        return -(-images // self.batch_size)


SignalName = Literal[
    "none", "zeros", "constant", "noise", "clock", "stale", "permuted", "yoked", "own", "own-gradient"
]

#: What can be heard in a subspace, where coordinates begin at 0.
SubspaceSignal = Literal["none", "zeros", "yoked", "own"]


class _Summary(Frozen):
    k: Count
    """How many numbers fc1 hears."""

    def check_fit(self, weights: int) -> None:
        """Check what depends on the network, before anything is made.

        Args:
            weights: how many numbers the summary reads.

        Raises:
            ValueError: it would give more numbers than it reads, or be too large to be stored.
        """
        if self.k > weights:
            raise ValueError(f"summary.k: must be at most the {weights} weights that are read, got {self.k}")


class Projected(_Summary):
    """The summary of a controlled study: a dense random projection of the weights of fc1 and fc2."""

    distribution: Literal["uniform", "gaussian", "rademacher"] = "gaussian"
    """Of the entries of the projection."""
    scale: Literal["isometry", "xavier", "adjoint-isometry", "calibrated"] = "calibrated"
    """Of the projection; calibrated gives the initial z a root mean square of 1."""

    def check_fit(self, weights: int) -> None:
        """See `_Summary`; the matrix is stored, too.

        Args:
            weights: how many numbers the summary reads.

        Raises:
            ValueError: see `_Summary`.
        """
        super().check_fit(weights)
        if self.k * weights > MOST_STORED:
            raise ValueError(
                f"summary.k: must be at most {MOST_STORED // weights}, for a matrix of {MOST_STORED} numbers over "
                f"{weights} weights, got {self.k}; give summary.sketch, which stores no matrix"
            )


class Sketched(_Summary):
    """A random projection without a stored matrix, for what a dense one is too slow or too large for."""

    sketch: Literal["count", "kronecker"]
    """The map: `CountSketch` or `KroneckerProjection`."""
    scale: Literal["isometry", "xavier", "adjoint-isometry", "calibrated"] = "calibrated"
    """As for `Projected`."""


Kernel = Annotated[tuple[Count, Count], Field(strict=False)]


class Pooled(_Summary):
    """The other summary of a controlled study: the weights of fc1 and fc2, max-pooled as in the notebook.

    Ones fill up what pooling leaves of ``k``.
    """

    kernels: Annotated[tuple[Kernel, Kernel], Field(strict=False)]
    """Height and width of the kernels of fc1 and fc2, as `weight-feedback match-dimensions` finds them."""


def _kind(summary: object) -> str:
    if isinstance(summary, dict):
        if "kernels" in summary:
            return "pooled"
        return "sketched" if "sketch" in summary else "projected"
    return type(summary).__name__.lower()


Summarised = Annotated[
    Annotated[Projected, Tag("projected")]
    | Annotated[Sketched, Tag("sketched")]
    | Annotated[Pooled, Tag("pooled")],
    Discriminator(_kind),
]


class Settings(Frozen):
    """The settings of a study of these networks: all arms share the first three, the others are an arm's."""

    data: Name
    """A data set, as listed by `weight-feedback data list`."""
    training: Training = Training()
    """How networks are trained."""
    summary: Summarised | None = None
    """What networks with a signal hear of weights."""
    model: Name
    """A network, as listed by `weight-feedback train --help`."""
    signal: SignalName | None = None
    """What fc1 of a plain network hears; left out for the notebook's networks, which have feedback built in."""
    conditioning: Literal["concat", "film"] = "concat"
    """How fc1 hears it: as a moving bias, or as scale and shift."""
    salt: Annotated[int, Field(ge=0, le=1000)] = 0
    """Gives the seeds of this arm another projection and another initial V; nothing else changes."""

    @property
    def silent(self) -> bool:
        """Whether trials hear nothing beyond what a network has built in."""
        return self.signal in (None, "none")

    def trial(self, seed: int) -> NetworkTrial:
        """Return one trial.

        Args:
            seed: of the trial.
        """
        # "none" hears nothing, whatever the summary and its salt: its trial is the plain network's.
        return NetworkTrial(
            data=self.data,
            training=self.training,
            model=self.model,
            signal=None if self.silent else self.signal,
            summary=None if self.silent else self.summary,
            conditioning=self.conditioning,
            salt=0 if self.silent else self.salt,
            seed=seed,
        )


class NetworkTrial(Trial):
    """Everything that the result of one network depends on, besides data and code."""

    data: Name
    training: Training
    model: Name
    signal: SignalName | None = None
    summary: Summarised | None = None
    conditioning: Literal["concat", "film"] = "concat"
    salt: Annotated[int, Field(ge=0, le=1000)] = 0
    # Donors' seeds begin where those of trials end.

    @property
    def task(self) -> str:
        """See `Trial`."""
        return "notebook"

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values; what doesn't apply to the trial is left out."""
        settings = self.model_dump(mode="json", exclude_none=True, exclude={"training", "seed"})
        settings |= {"seed": self.seed, "training": self.training.settings()}
        if self.conditioning == "concat":
            del settings["conditioning"]
        if self.salt == 0:
            del settings["salt"]
        return settings

    def cohort(self) -> list[NetworkTrial]:
        """Return the trials that are trained together with this one, and itself: always the same seeds."""
        size = self.training.cohort
        first = self.seed // size * size
        return [self.model_copy(update={"seed": seed}) for seed in range(first, first + size)]

    @property
    def called(self) -> str:
        """Model and signal, and what else there is of it."""
        parts = (
            self.model,
            self.signal,
            "film" if self.conditioning == "film" else None,
            f"salt-{self.salt}" if self.salt else None,
        )
        return "-".join(filter(None, parts))

    @property
    def planned_epochs(self) -> int:
        """Passes over the training set."""
        return self.training.epochs

    @property
    def keeps_weights(self) -> bool:
        """Whether the final weights are kept, for swaps: only of what hears its own weights."""
        return self.signal == "own" and self.training.subspace is None
