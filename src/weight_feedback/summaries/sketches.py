"""Sparse random projections, whose non-zeros are random signs in fixed places."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from weight_feedback.fields import SIZE, Field
from weight_feedback.streams import stream
from weight_feedback.summaries.projections import Projection, Scale, as_matrix

# Weights handled at a time: 2 MB in float32. Smaller blocks cost more calls, larger ones push out other data.
_BLOCK = 2**19


class CountSketch(Projection):
    """A sparse Johnson-Lindenstrauss map: each weight is added to one of ``k`` buckets, with a random sign.

    One byte of state a weight, and about the time of reading weights and signs once. The signs are random, the
    buckets fixed (Charikar et al. 2002 hash both): the weight at place ``i``, of all weights laid end to end, goes
    into bucket ``(i mod pitch) mod k``, where the pitch is the least number from ``k`` on that has no common factor
    with the size of a row of any tensor. So the weights of one row, or of one column, spread over all buckets.
    Exactly,

        ``E‖Pw‖² = ‖w‖²``, ``Var‖Pw‖² = 2 (Σⱼ eⱼ² − q) ‖w‖⁴``,

    where ``eⱼ`` is the share of ``‖w‖²`` in bucket ``j`` and ``q = ‖w‖₄⁴/‖w‖₂⁴``; for an even spread that is
    ``(2/k)(1 − q k)``, below the ``(2/k)(1 − q)`` of hashed buckets.

    With ``s`` non-zeros a column (Kane and Nelson 2014, block construction) there are ``s`` such sketches of
    ``k/s`` buckets each, with pitches and signs of their own; the variance is the mean of theirs, divided by ``s``.
    That costs ``s`` times as long, and makes an energy that falls unevenly into the buckets of one pitch matter
    less.

    Buckets hold different numbers of weights, since the pitch is no multiple of their number. So with
    ``scale="adjoint-isometry"``

        ``E‖Pᵀv‖² = Σⱼ (k cⱼ/(s D)) vⱼ²``,

    where ``cⱼ`` counts the weights in bucket ``j``, for ``s = 1`` not only on average: that is ``‖v‖²`` as a mean
    over all directions of ``v``, while a coordinate alone can count nearly twice.

    Args:
        out_features: ``k``.
        nonzeros: ``s``, from 1 to 8; ``k`` must be a multiple of it.
        seed: seeds the signs, together with the canonical names of the tensors read.
        scale: see `Projection`.

    Raises:
        ValueError: ``out_features`` is smaller than 1 or no multiple of ``nonzeros``, or ``nonzeros`` or the scale
            is none of those named.
    """

    kind = "count"
    settings: ClassVar[Mapping[str, Field]] = {**Projection.settings, "nonzeros": SIZE}
    signs: Tensor
    pitches: tuple[int, ...]

    def __init__(self, out_features: int, *, nonzeros: int = 1, seed: int = 0, scale: Scale = "isometry") -> None:
        super().__init__(out_features, seed=seed, scale=scale)
        # The signs of a weight are the bits of one byte.
        if nonzeros not in range(1, 9) or self.out_features % nonzeros:
            raise ValueError(
                "CountSketch: nonzeros must be from 1 to 8 and divide "
                f"out_features={self.out_features}, got {nonzeros}"
            )
        self.nonzeros = nonzeros

    def _allocate(self, like: Tensor) -> None:
        rows = [as_matrix(shape)[1] for shape in self.shapes]
        suitable = (n for n in itertools.count(self._width) if all(math.gcd(n, row) == 1 for row in rows))
        self.pitches = tuple(itertools.islice(suitable, self.nonzeros))
        signs = torch.empty(self.in_features, dtype=torch.int8, device=like.device)
        self.register_buffer("signs", signs, persistent=False)

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = stream(self.seed, "count sketch", *self.names)
        for part in self.signs.split(_BLOCK):
            drawn = torch.empty(len(part), dtype=torch.uint8, device="cpu")
            drawn = drawn.random_(0, 2**self.nonzeros, generator=generator).view(torch.int8)
            yield part, drawn.mul_(2).sub_(1) if self.nonzeros == 1 else drawn  # ready for use

    @property
    def _width(self) -> int:
        """How many buckets each non-zero has."""
        return self.out_features // self.nonzeros

    @property
    def _entry_variance(self) -> float:
        return self.nonzeros / self.out_features

    def buckets(self, start: int, stop: int) -> Tensor:
        """Return the buckets of places ``start`` to ``stop - 1`` of the weights laid end to end.

        Args:
            start: first place.
            stop: after the last one.

        Returns:
            Integers from 0 to ``k - 1``, shape ``[nonzeros, stop - start]``.
        """
        places = torch.arange(start, stop, device=self.signs.device)
        return torch.stack([places % pitch % self._width + j * self._width for j, pitch in enumerate(self.pitches)])

    def _bit(self, signs: Tensor, j: int) -> Tensor:
        """Return the signs of the ``j``-th non-zeros, 1 and -1."""
        return signs if self.nonzeros == 1 else (signs >> j & 1) * 2 - 1

    def _project(self, *weights: Tensor) -> Tensor:
        flat = [weight.flatten() for weight in weights]
        sketches = [self._sketch(flat, self.signs, j, pitch) for j, pitch in enumerate(self.pitches)]
        return sketches[0] if self.nonzeros == 1 else torch.cat(sketches)

    def _project_rows(self, index: int, rows: Tensor, start: int) -> Tensor:
        first, end = self._places(index, rows, start)
        flat, signs = rows.flatten(), self.signs[first:end]
        sketches = []
        for j, pitch in enumerate(self.pitches):
            # The first row of the pitch gets zeros in front; the rest is read where it lies.
            head, gap = -first % pitch, (first % pitch, 0)
            parts = [(F.pad(flat[:head], gap), F.pad(signs[:head], gap))] if head else []
            parts += [(flat[head:], signs[head:])] if head < len(flat) else []
            sketches.append(torch.stack([self._sketch([part], sign, j, pitch) for part, sign in parts]).sum(0))
        return torch.cat(sketches)

    def _sketch(self, flat: list[Tensor], signs: Tensor, j: int, pitch: int) -> Tensor:
        """Sum the signed weights by bucket; the first one is at the beginning of a row of the pitch."""
        size, width = max(_BLOCK // pitch, 1) * pitch, self._width
        if len(signs) <= size:
            sums = _by_place((flat[0] if len(flat) == 1 else torch.cat(flat)) * self._bit(signs, j), pitch)
        else:
            pairs = zip(_blocks(flat, size), signs.split(size), strict=True)
            sums = [part for block, some in pairs for part in _by_place(block * self._bit(some, j), pitch)]
        # The last places of a pitch go round to the first buckets.
        rounds = [F.pad(part, (0, -part.shape[0] % width)) for part in sums]
        return (rounds[0] if len(rounds) == 1 else torch.cat(rounds)).view(-1, width).sum(0)

    def _back_project(self, z: Tensor) -> tuple[Tensor, ...]:
        rows = [-(-self.in_features // pitch) for pitch in self.pitches]
        parts = [
            part.repeat(-(-pitch // self._width))[:pitch].expand(count, pitch).flatten()[: self.in_features]
            * self._bit(self.signs, j)
            for j, (part, pitch, count) in enumerate(zip(z.split(self._width), self.pitches, rows, strict=True))
        ]
        return self._split(sum(parts[1:], parts[0]))

    def extra_repr(self) -> str:
        """Add the number of non-zeros, if there are several."""
        return super().extra_repr() + (f", nonzeros={self.nonzeros}" if self.nonzeros > 1 else "")


def _by_place(signed: Tensor, pitch: int) -> list[Tensor]:
    """Sum a block over the rows of the pitch; of a large one, what is left of the last row comes apart."""
    left = signed.shape[0] % pitch
    if not left:
        return [signed.view(-1, pitch).sum(0)]
    # Each call costs microseconds, each copied weight about one nanosecond.
    if signed.shape[0] < max(pitch, 2**14):
        return [F.pad(signed, (0, pitch - left)).view(-1, pitch).sum(0)]
    return [signed[:-left].view(-1, pitch).sum(0), signed[-left:]]


def _blocks(flat: list[Tensor], size: int) -> Iterator[Tensor]:
    """Cut tensors, laid end to end, into blocks; only what lies across the border of two of them is copied."""
    block: list[Tensor] = []
    room = size
    for rest in flat:
        while rest.shape[0]:
            block.append(rest[:room])
            rest, room = rest[room:], room - block[-1].shape[0]
            if not room:
                yield block[0] if len(block) == 1 else torch.cat(block)
                block, room = [], size
    if block:
        yield block[0] if len(block) == 1 else torch.cat(block)
