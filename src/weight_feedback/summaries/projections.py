"""Random linear projections of the flattened weights, ``z = P w``, and their adjoints, ``Pᵀ z``."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from weight_feedback.fields import INTEGER, PAIR, SIZE, Field, choice
from weight_feedback.restoring import is_finite, lose
from weight_feedback.sharding import here, whole
from weight_feedback.streams import stream
from weight_feedback.summaries.base import Seeded, Summary, check_size

Scale = Literal["isometry", "xavier", "adjoint-isometry", "calibrated"]
Distribution = Literal["uniform", "gaussian", "rademacher"]


class Projection(Summary, Seeded):
    """A linear map ``P`` of shape ``[k, D]``, seeded, applied to the ``D`` weights laid end to end.

    Subclasses draw a map whose entries have mean 0 and a known variance (`_draw`), and apply it and its transpose
    (`_project`, `_back_project`); the scale is applied here. What is drawn stays out of the ``state_dict``, which
    holds the seed instead; loading a ``state_dict`` takes its seed and draws again.

    Args:
        out_features: ``k``.
        seed: seeds the draw, together with the canonical names of the tensors read.
        scale: the size of ``P``'s entries, by what it preserves:

            - ``"isometry"``, variance ``1/k``: ``E‖Pw‖² = ‖w‖²``;
            - ``"xavier"``, variance ``2/(D+k)``, that of Glorot and Bengio (2010), the notebook's;
            - ``"adjoint-isometry"``, variance ``1/D``: ``E‖Pᵀv‖² = ‖v‖²``; of a `CountSketch` that holds on average
              over the directions of ``v``, and not for each;
            - ``"calibrated"``: one factor ``√k/‖Pw₀‖``, from the weights ``w₀`` at the time of binding and then
              frozen, so that ``z`` starts with root mean square 1.

    Raises:
        ValueError: ``out_features`` is smaller than 1, or the scale is unknown.
    """

    settings: ClassVar[Mapping[str, Field]] = {"out_features": SIZE, "seed": INTEGER, "scale": choice(Scale)}
    out_features: int
    gain: Tensor

    def __init__(self, out_features: int, *, seed: int = 0, scale: Scale = "isometry") -> None:
        super().__init__()
        kind = type(self).__name__
        self.out_features = check_size(kind, out_features)
        self.seed = int(seed)
        _check_choice(kind, "scale", scale, Scale)
        self.scale = scale

    def _fit(self, weights: Mapping[str, Tensor]) -> None:
        ends = list(itertools.accumulate(weight.numel() for weight in weights.values()))
        self.in_features = ends[-1]
        if self.out_features > self.in_features:
            raise ValueError(
                f"{type(self).__name__}: out_features={self.out_features} is more than the "
                f"{self.in_features} weights that are read ({', '.join(weights)})"
            )
        widest = functools.reduce(torch.promote_types, [weight.dtype for weight in weights.values()])
        like = here(next(iter(weights.values())).detach()).new_empty((), dtype=widest)
        self.names, self.shapes = tuple(weights), tuple(weight.shape for weight in weights.values())
        self._starts = [0, *ends]
        self._allocate(like)
        self.register_buffer("gain", like.new_ones(()), persistent=self.scale == "calibrated")
        self.reset_parameters()
        if self.scale == "calibrated":
            self._calibrate({name: whole(weight.detach()) for name, weight in weights.items()})

    def _calibrate(self, weights: Mapping[str, Tensor]) -> None:
        norm = torch.linalg.vector_norm(self._project(*weights.values()))
        # Meta tensors hold no numbers to calibrate by.
        if norm.is_meta or not 0 < float(norm) < math.inf:
            self.names = ()
            raise ValueError(
                f"{type(self).__name__}: scale='calibrated' needs initial weights with a finite projection that "
                f"isn't zero; of {_listed(weights)} it has norm "
                f"{'unknown (they are on the meta device)' if norm.is_meta else float(norm)}; initialise them "
                "first, read other weights too, or take another scale"
            )
        self.gain.copy_(math.sqrt(self.out_features) / norm)

    def reset_parameters(self) -> None:
        """Draw the map again from its seed; a calibrated factor is kept."""
        if self.gain.is_meta:
            return
        for part, drawn in self._draws():
            part.copy_(drawn)
        if self.scale != "calibrated":
            variance = {
                "isometry": 1 / self.out_features,
                "xavier": 2 / (self.in_features + self.out_features),
                "adjoint-isometry": 1 / self.in_features,
            }[self.scale]
            self.gain.fill_(math.sqrt(variance / self._entry_variance))

    def _restore(self, lost: frozenset[str]) -> None:
        self.reset_parameters()
        if self.scale == "calibrated" and "gain" in lost:
            lose(self.gain)

    def faults(self) -> Iterator[str]:
        """Add a calibrated factor that was lost."""
        yield from super().faults()
        if not is_finite(self.gain):
            yield "its calibrated factor was lost, and no checkpoint had it; remove the feedback, and attach again"

    def forward(self, *weights: Tensor) -> Tensor:
        """Project the weights.

        Args:
            *weights: tensors of the bound shapes, flattened and laid end to end in the bound order.

        Returns:
            ``z = P w``, shape ``[out_features]``, in the precision of the weights, under autocast too.
        """
        device = self.gain.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self.gain * self._project(*weights)
        with torch.autocast(device, enabled=False):
            return self.gain * self._project(*weights)

    def partial(self, index: int, rows: Tensor, start: int) -> Tensor:
        """Project some rows of one tensor: by linearity, the shares of all rows of all tensors add up to ``z``.

        Args:
            index: of the tensor, in the bound order.
            rows: consecutive rows of it, shape ``[n, *shape[1:]]``; of a scalar, ``[1]``.
            start: the index of the first of them.

        Returns:
            Their share of ``z``, shape ``[out_features]``.

        Raises:
            ValueError: the rows aren't such rows.
        """
        shape = self.shapes[index] or torch.Size([1])
        if rows.shape[1:] != shape[1:] or not 0 <= start <= start + len(rows) <= shape[0]:
            raise ValueError(
                f"{type(self).__name__}.partial: {self.names[index]} has shape {list(shape)}, got rows of shape "
                f"{list(rows.shape)} from row {start} on"
            )
        if not rows.numel():
            return rows.new_zeros(self.out_features)
        return self.gain * self._project_rows(index, rows, start)

    def adjoint(self, z: Tensor) -> tuple[Tensor, ...]:
        """Apply the transpose: ``⟨P w, z⟩ = ⟨w, Pᵀ z⟩``.

        Args:
            z: shape ``[out_features]``.

        Returns:
            ``Pᵀ z``, one tensor of the bound shape for each that is read.

        Raises:
            ValueError: ``z`` has another shape.
        """
        if z.shape != (self.out_features,):
            raise ValueError(
                f"{type(self).__name__}.adjoint: z must have shape [{self.out_features}], got {list(z.shape)}"
            )
        return self._back_project(self.gain * z)

    def _seed_loaded(self) -> None:
        if self.names:
            self.reset_parameters()

    def _allocate(self, like: Tensor) -> None:
        """Register non-persistent buffers for the map, with the device and dtype of ``like``."""
        raise NotImplementedError

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each part of the buffers, and what ``self.seed`` and ``self.names`` alone give for it."""
        raise NotImplementedError

    @property
    def _entry_variance(self) -> float:
        """Mean variance of an entry of the map as it is drawn."""
        return 1.0

    def _project(self, *weights: Tensor) -> Tensor:
        """Apply the map as it is drawn."""
        raise NotImplementedError

    def _project_rows(self, index: int, rows: Tensor, start: int) -> Tensor:
        """Apply the map as it is drawn to rows of one tensor alone."""
        raise NotImplementedError

    def _back_project(self, z: Tensor) -> tuple[Tensor, ...]:
        """Apply the transpose of the map as it is drawn."""
        raise NotImplementedError

    def _places(self, index: int, rows: Tensor, start: int) -> tuple[int, int]:
        """Return the first and the last place but one of rows, among the weights laid end to end."""
        first = self._starts[index] + start * math.prod(rows.shape[1:])
        return first, first + rows.numel()

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Cut weights that are laid end to end into tensors of the bound shapes."""
        parts = flat.split([shape.numel() for shape in self.shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))

    def extra_repr(self) -> str:
        """Add scale and seed to the sizes."""
        return f"{super().extra_repr()}, scale={self.scale!r}, seed={self.seed}"


class DenseProjection(Projection):
    """A dense random matrix, stored: ``k × D`` numbers, read whole at every call.

    With ``distribution="uniform"`` and ``scale="xavier"`` it is the notebook's: the trick by which Li et al.
    (2018, arXiv:1804.08838) measured the intrinsic dimension of objective landscapes. Gaussian and Rademacher
    entries with ``scale="isometry"`` are the maps of Johnson and Lindenstrauss (1984) and Achlioptas (2003).

    Args:
        out_features: ``k``.
        distribution: of the entries, independent and of equal variance.
        seed: seeds the draw, together with the canonical names of the tensors read.
        scale: see `Projection`.

    Raises:
        ValueError: ``out_features`` is smaller than 1, or the distribution or scale is unknown.
    """

    kind = "dense"
    settings: ClassVar[Mapping[str, Field]] = {**Projection.settings, "distribution": choice(Distribution)}
    matrix: Tensor

    def __init__(
        self,
        out_features: int,
        *,
        distribution: Distribution = "uniform",
        seed: int = 0,
        scale: Scale = "xavier",
    ) -> None:
        super().__init__(out_features, seed=seed, scale=scale)
        _check_choice(type(self).__name__, "distribution", distribution, Distribution)
        self.distribution = distribution

    def _allocate(self, like: Tensor) -> None:
        # [k, D] rather than [D, k]: a product of contiguous rows, about half the time of the other order.
        self.register_buffer("matrix", like.new_empty(self.out_features, self.in_features), persistent=False)

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = stream(self.seed, "dense projection", self.distribution, *self.names)
        for row in self.matrix:  # row by row, so that drawing needs no second copy of a large matrix
            drawn = torch.empty(self.in_features, dtype=torch.float32, device="cpu")
            if self.distribution == "uniform":
                drawn.uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)
            elif self.distribution == "gaussian":
                drawn.normal_(generator=generator)
            else:
                drawn.bernoulli_(generator=generator).mul_(2).sub_(1)
            yield row, drawn

    def _project(self, *weights: Tensor) -> Tensor:
        return self.matrix @ torch.cat([weight.flatten() for weight in weights]).to(self.matrix.dtype)

    def _project_rows(self, index: int, rows: Tensor, start: int) -> Tensor:
        return self.matrix[:, slice(*self._places(index, rows, start))] @ rows.flatten().to(self.matrix.dtype)

    def _back_project(self, z: Tensor) -> tuple[Tensor, ...]:
        return self._split(z @ self.matrix)


class KroneckerProjection(Projection):
    """A two-sided map of each matrix, ``A W Bᵀ``, with small Gaussian factors; what comes of all matrices is added.

    ``k₁ × k₂ = k`` numbers a matrix, from ``k₁ m + k₂ n`` stored ones for an ``m × n`` matrix, by two small matrix
    products. It is a Kronecker product of ``A`` and ``B`` applied to the flattened matrix, so its entries aren't
    independent, and matrices of low rank are less well preserved: for one matrix

        ``E‖Pw‖² = ‖w‖²``, ``Var‖Pw‖² = (2/k + 2ρ (1/k₁ + 1/k₂ + 1/k)) ‖w‖⁴``, ``ρ = ‖WᵀW‖²_F / ‖W‖⁴_F``,

    with ``ρ`` from 1/rank to 1.

    Args:
        out_features: ``k``.
        factors: ``(k₁, k₂)``; default: the two factors of ``k`` that are nearest to each other.
        seed: seeds the factors, together with the canonical names of the tensors read.
        scale: see `Projection`.

    Raises:
        ValueError: ``out_features`` is smaller than 1 or isn't the product of the factors, or the scale is unknown.
    """

    kind = "kronecker"
    settings: ClassVar[Mapping[str, Field]] = {**Projection.settings, "factors": PAIR}

    def __init__(
        self, out_features: int, *, factors: tuple[int, int] | None = None, seed: int = 0, scale: Scale = "isometry"
    ) -> None:
        super().__init__(out_features, seed=seed, scale=scale)
        root = next(n for n in range(math.isqrt(self.out_features), 0, -1) if self.out_features % n == 0)
        self.factors = factors or (root, self.out_features // root)
        if min(self.factors) < 1 or math.prod(self.factors) != self.out_features:
            raise ValueError(
                f"KroneckerProjection: the product of factors must be out_features={self.out_features}, "
                f"got {self.factors}"
            )

    def _allocate(self, like: Tensor) -> None:
        for index, shape in enumerate(self.shapes):
            for side, rows, size in zip("ab", self.factors, as_matrix(shape), strict=True):
                self.register_buffer(f"{side}{index}", like.new_empty(rows, size), persistent=False)

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, name in enumerate(self.names):
            for side in "ab":
                factor = self.get_buffer(f"{side}{index}")
                drawn = torch.empty(factor.shape, dtype=torch.float32, device="cpu")
                yield factor, drawn.normal_(generator=stream(self.seed, "kronecker projection", side, name))

    def _sides(self, index: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"a{index}"), self.get_buffer(f"b{index}")

    def _project(self, *weights: Tensor) -> Tensor:
        parts = [
            (a @ weight.reshape(as_matrix(weight.shape)).to(a.dtype) @ b.T).flatten()
            for weight, (a, b) in zip(weights, map(self._sides, range(len(weights))), strict=True)
        ]
        return torch.stack(parts).sum(0)

    def _project_rows(self, index: int, rows: Tensor, start: int) -> Tensor:
        a, b = self._sides(index)
        return (a[:, start : start + len(rows)] @ rows.reshape(as_matrix(rows.shape)).to(a.dtype) @ b.T).flatten()

    def _back_project(self, z: Tensor) -> tuple[Tensor, ...]:
        sides = map(self._sides, range(len(self.shapes)))
        return tuple(
            (a.T @ z.view(self.factors) @ b).view(shape) for shape, (a, b) in zip(self.shapes, sides, strict=True)
        )


def as_matrix(shape: torch.Size) -> tuple[int, int]:
    """Return rows and columns of a tensor seen as a matrix; a vector is one column.

    Args:
        shape: of the tensor.
    """
    return (shape[0] if shape else 1), math.prod(shape[1:])


def _listed(names: Mapping[str, object]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(itertools.islice(names, 3))}{more}"


def _check_choice(kind: str, field: str, value: str, options: Any) -> None:
    if value not in get_args(options):
        raise ValueError(f"{kind}: {field} must be one of {', '.join(get_args(options))}, got {value!r}")
