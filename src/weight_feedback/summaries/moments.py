"""Summaries by descriptive statistics of each weight tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from weight_feedback.fields import NUMBER, Field, ListOf
from weight_feedback.summaries.base import Summary


class Moments(Summary):
    """Mean, standard deviation, quantiles and norms of each tensor.

    For each tensor of ``n`` entries, in this order: the mean; the standard deviation (divided by ``n``); the
    quantiles, interpolated linearly; for each ``p`` the norm for one entry, ``(Σ|w|ᵖ / n)^(1/p)``, so that
    tensors of different sizes are on one scale (``p = inf`` gives the largest absolute value).

    Args:
        quantiles: probabilities, from 0 to 1.
        norms: orders ``p`` of the norms, at least 1.

    Raises:
        ValueError: a probability lies outside 0 to 1, or an order is smaller than 1.
    """

    kind = "moments"
    settings: ClassVar[Mapping[str, Field]] = {"quantiles": ListOf(NUMBER), "norms": ListOf(NUMBER)}

    def __init__(
        self,
        quantiles: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        norms: Sequence[float] = (1.0, 2.0, math.inf),
    ) -> None:
        super().__init__()
        self.quantiles = tuple(map(float, quantiles))
        self.norms = tuple(map(float, norms))
        if not all(0 <= q <= 1 for q in self.quantiles):
            raise ValueError(f"Moments: quantiles must lie from 0 to 1, got {list(self.quantiles)}")
        if not all(p >= 1 for p in self.norms):
            raise ValueError(f"Moments: norms must be of order 1 or more, got {list(self.norms)}")

    def _fit(self, weights: Mapping[str, Tensor]) -> None:
        self.out_features = len(weights) * (2 + len(self.quantiles) + len(self.norms))

    def forward(self, *weights: Tensor) -> Tensor:
        """Describe each tensor in turn.

        Args:
            *weights: tensors of the bound shapes.

        Returns:
            ``z``, shape ``[len(weights) * (2 + len(quantiles) + len(norms))]``.
        """
        return torch.cat([self._describe(weight.flatten()) for weight in weights])

    def _describe(self, weight: Tensor) -> Tensor:
        n = weight.numel()
        mean = weight.mean()
        # Through the norm, whose gradient at zero is zero where that of a square root is infinite.
        deviation = torch.linalg.vector_norm(weight - mean) / math.sqrt(n)
        ordered = weight.sort().values  # torch.quantile refuses more than 16 million entries
        parts = [mean, deviation]
        for q in self.quantiles:
            low = math.floor(q * (n - 1))
            parts.append(torch.lerp(ordered[low], ordered[min(low + 1, n - 1)], q * (n - 1) - low))
        # n^(1/p) tends to 1 as p grows, and is taken as 1 for p = inf.
        parts += [torch.linalg.vector_norm(weight, p) / n ** (1 / p) for p in self.norms]
        return torch.stack(parts)
