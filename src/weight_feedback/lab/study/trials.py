"""What a trial is: everything that its result depends on, and the key that tells it from others."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

# Names become parts of file names and URLs.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]


# Without an upper bound, a slip of the finger keeps a machine busy for ever, or takes all of its memory.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
#: Numbers that a stored projection may have: 4 GiB of them.
MOST_STORED = 2**30


def _one_line(text: str) -> str:
    """Refuse what can't be shown without harm: line ends, escape sequences, marks that turn writing around."""
    turns = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    for place, character in enumerate(text, start=1):
        control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        # U+FFFE and U+FFFF are no characters: XML, and so SVG, has no room for them.
        if control or unicodedata.bidirectional(character) in turns or ord(character) & 0xFFFE == 0xFFFE:
            raise ValueError(
                "expected one line of text, without control characters and marks that turn the direction of "
                f"writing; got {character!a} as character {place}"
            )
    return text


# Of titles and labels, which are text to people and to no program.
ONE_LINE = AfterValidator(_one_line)


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys, silent conversions, and numbers that aren't finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
        return "pooled" if "kernels" in summary else "sketched" if "sketch" in summary else "projected"
    return type(summary).__name__.lower()


Summarised = Annotated[
    Annotated[Projected, Tag("projected")]
    | Annotated[Sketched, Tag("sketched")]
    | Annotated[Pooled, Tag("pooled")],
    Discriminator(_kind),
]


class Trial(Frozen):
    """One arm with one seed: everything that its result depends on, and nothing else."""

    folder: ClassVar[str] = "trials"

    data: Name
    training: Training
    model: Name
    signal: SignalName | None = None
    summary: Summarised | None = None
    conditioning: Literal["concat", "film"] = "concat"
    salt: Annotated[int, Field(ge=0, le=1000)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Donors' seeds begin where these end."""

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
    def keeps_weights(self) -> bool:
        """Whether the final weights are kept, for swaps: only of what hears its own weights."""
        return self.signal == "own" and self.training.subspace is None

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


class Measurement(Frozen):
    """A network trained with Adam in a random subspace, to see how well ``d`` dimensions do; see `intrinsic`.

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


#: What results are kept of.
Kept = Trial | Swap | Measurement


def digest(settings: Any) -> str:
    """Return 16 hex digits of the SHA-256 digest of plain values.

    Args:
        settings: what JSON can hold; the order of keys doesn't matter.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
