"""Pooled summaries, and the search for kernels that make their sizes match.

The weight matrices are pooled each with its own kernel, the pooled matrices are joined along columns,
flattened, and padded with a constant up to the size wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weight_feedback.fields import FLAG, NUMBER, PAIR, SIZE, Field, ListOf
from weight_feedback.restoring import is_near
from weight_feedback.summaries.base import Summary, check_size

Kernel = tuple[int, int]


class _Pool(Summary):
    """What `MaxPool` and `AvgPool` share; they differ in `_pool` alone."""

    settings: ClassVar[Mapping[str, Field]] = {
        "kernels": ListOf(PAIR),
        "out_features": SIZE,
        "fill": NUMBER,
        "transpose": ListOf(FLAG),
    }
    fill: Tensor

    def __init__(
        self,
        kernels: Sequence[Kernel],
        out_features: int | None = None,
        *,
        fill: float = 1.0,
        transpose: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.kernels = tuple((int(rows), int(columns)) for rows, columns in kernels)
        if any(min(kernel) < 1 for kernel in self.kernels):
            raise ValueError(f"{kind}: kernel sizes must be at least 1, got {list(self.kernels)}")
        self.out_features = None if out_features is None else check_size(kind, out_features)
        self.fill_value = float(fill)
        self.transpose = (False,) * len(self.kernels) if transpose is None else tuple(map(bool, transpose))
        if len(self.transpose) != len(self.kernels):
            raise ValueError(
                f"{kind}: transpose needs one flag a kernel, got {len(self.transpose)} flags "
                f"for {len(self.kernels)} kernels"
            )

    def _fit(self, weights: Mapping[str, Tensor]) -> None:
        kind = type(self).__name__
        if len(weights) != len(self.kernels):
            raise ValueError(f"{kind} has {len(self.kernels)} kernels, but reads {len(weights)} tensors")
        sizes = []
        for (name, weight), kernel, flip in zip(weights.items(), self.kernels, self.transpose, strict=True):
            rows, columns = _matrix(weight).shape
            pooled = (rows // kernel[0], columns // kernel[1])
            if 0 in pooled:
                raise ValueError(f"{kind}: kernel {kernel} is larger than {name}, a {rows}x{columns} matrix")
            sizes.append(pooled[::-1] if flip else pooled)
        if len({rows for rows, _ in sizes}) > 1:
            raise ValueError(
                f"{kind}: pooled matrices must have equal row counts to be joined along columns, got "
                f"{' and '.join(f'{rows}x{columns}' for rows, columns in sizes)}; "
                "change the kernels (see match_dimensions) or the transpose flags"
            )
        pooled_size = sum(rows * columns for rows, columns in sizes)
        self.out_features = self.out_features or pooled_size
        self.padding = self.out_features - pooled_size
        if self.padding < 0:
            raise ValueError(
                f"{kind}: pooling gives {pooled_size} numbers, more than out_features={self.out_features}; "
                "use larger kernels or a larger out_features"
            )
        like = next(iter(weights.values()))
        self.register_buffer("fill", like.new_empty(self.padding), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the fill value again."""
        self.fill.fill_(self.fill_value)

    def faults(self) -> Iterator[str]:
        """Compare the fill with its value."""
        if not is_near(self.fill, torch.tensor(self.fill_value)):
            yield f"its fill was overwritten; call reset_parameters() of the {type(self).__name__}"

    def forward(self, *weights: Tensor) -> Tensor:
        """Pool each matrix, join along columns, flatten row by row and pad.

        Args:
            *weights: tensors of the bound shapes; one of more than two dimensions is read as the matrix
                ``[shape[0], rest]``.

        Returns:
            ``z``, shape ``[out_features]``; its last ``padding`` entries are the fill value.
        """
        pooled = [
            self._pool(_matrix(weight)[None], kernel)[0]
            for weight, kernel in zip(weights, self.kernels, strict=True)
        ]
        joined = torch.cat([p.T if flip else p for p, flip in zip(pooled, self.transpose, strict=True)], dim=1)
        return torch.cat([joined.flatten(), self.fill])

    def _pool(self, matrix: Tensor, kernel: Kernel) -> Tensor:
        raise NotImplementedError


class MaxPool(_Pool):
    """Max-pool each weight matrix, as the original notebook did.

    Rows and columns left over by a kernel that doesn't divide the matrix stay unread, as in
    `torch.nn.MaxPool2d`.

    Args:
        kernels: one ``(rows, columns)`` pair for each tensor read; windows don't overlap.
        out_features: ``k``; default: as many numbers as pooling gives.
        fill: the constant that pads ``z`` up to ``out_features``.
        transpose: for each tensor, whether its pooled matrix is transposed before joining along columns;
            default: none is.

    Raises:
        ValueError: a kernel is smaller than 1, or the number of flags isn't that of the kernels.
    """

    kind = "max"

    def _pool(self, matrix: Tensor, kernel: Kernel) -> Tensor:
        return F.max_pool2d(matrix, kernel)


class AvgPool(_Pool):
    """Average-pool each weight matrix; everything else is as in `MaxPool`.

    Args:
        kernels: one ``(rows, columns)`` pair for each tensor read; windows don't overlap.
        out_features: ``k``; default: as many numbers as pooling gives.
        fill: the constant that pads ``z`` up to ``out_features``.
        transpose: for each tensor, whether its pooled matrix is transposed before joining along columns;
            default: none is.

    Raises:
        ValueError: a kernel is smaller than 1, or the number of flags isn't that of the kernels.
    """

    kind = "average"

    def _pool(self, matrix: Tensor, kernel: Kernel) -> Tensor:
        return F.avg_pool2d(matrix, kernel)


def _matrix(weight: Tensor) -> Tensor:
    """View a tensor of any number of dimensions as the matrix ``[shape[0], rest]``."""
    return weight.reshape(weight.shape[0], -1) if weight.dim() > 1 else weight.reshape(1, -1)


class Match(NamedTuple):
    """One solution of `match_dimensions`.

    Attributes:
        dw: how many numbers pooling gives.
        dx: how many columns ``fc1`` gains, the size of ``z``.
        padding: ``dx - dw``, how many numbers of fill.
        m: kernel columns for ``fc1``.
        n: kernel rows for ``fc1``, kernel columns for ``fc2``.
    """

    dw: int
    dx: int
    padding: int
    m: int
    n: int


def match_dimensions(
    a: int,
    b: int,
    c: int,
    *,
    dx: tuple[int, int] = (10, 39),
    n: tuple[int, int] | None = None,
    m: tuple[int, int] | None = None,
) -> list[Match]:
    """List the pooling kernels for which the pooled weights fit into the input they are to extend.

    ``fc1`` is a matrix ``[b, a + dx]``, ``fc2`` is ``[c, b]``. Pooling ``fc1`` by ``(n, m)`` and ``fc2`` by
    ``(2, n)`` and joining both gives ``dw = ((a + dx) // m + c // 2) * (b // n)`` numbers. A solution has whole
    ``(a + dx) / m`` and ``b / n``, and leaves at least one number of padding: ``dx > dw``.

    Args:
        a: inputs of fc1 without feedback.
        b: outputs of fc1, inputs of fc2.
        c: outputs of fc2; pooled in pairs, so an odd one out stays unread.
        dx: smallest and largest size of ``z`` to try, both included.
        n: smallest and largest ``n``; default 10 to b - 1.
        m: smallest and largest ``m``; default 10 to a - 1.

    Returns:
        All solutions, ordered by dx, then n, then m.

    Raises:
        ValueError: a size or the lower end of a range is smaller than 1.
    """
    n, m = n or (10, b - 1), m or (10, a - 1)
    smallest = {"a": a, "b": b, "c": c, "dx": dx[0], "n": n[0], "m": m[0]}
    for name, value in smallest.items():
        if value < 1:
            raise ValueError(f"match_dimensions: {name} must be at least 1, got {value}")
    ns = np.arange(n[0], n[1] + 1)
    ns = ns[b % ns == 0]  # the one condition on n alone: it keeps the grid small
    dxs, ns, ms = np.meshgrid(np.arange(dx[0], dx[1] + 1), ns, np.arange(m[0], m[1] + 1), indexing="ij")
    dws = ((a + dxs) // ms + c // 2) * (b // ns)
    found = ((a + dxs) % ms == 0) & (dxs > dws)
    columns = (dws[found], dxs[found], (dxs - dws)[found], ms[found], ns[found])
    return [Match(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
