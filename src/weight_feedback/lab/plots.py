"""Pictures of studies, from plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

# Okabe and Ito's colours: distinct for colour-blind readers, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dashed", "dotted")
# More bands than this hide each other.
MOST_BANDS = 4
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "weight-feedback",  # the same picture gives the same file
    # Names in studies are text, whatever they contain.
    "text.parse_math": False,
    "text.usetex": False,
}


class ContrastLine(NamedTuple):
    """One line of `plot_contrasts`, all in percentage points.

    Attributes:
        label: at the left.
        mean: difference.
        low: lower end of its interval.
        high: upper end.
        primary: whether it was declared before the run.
    """

    label: str
    mean: float
    low: float
    high: float
    primary: bool


def plot_accuracy(curves: Mapping[str, ArrayLike], title: str, paths: Sequence[Path]) -> None:
    """Draw accuracy per epoch: a mean line for each arm, and a band of one standard deviation over seeds.

    The bands are left out where there are too many arms to tell them apart.

    Args:
        curves: label of an arm to accuracies in percent, shape ``[seeds, epochs]``; one seed gives a line alone.
        title: heading.
        paths: where to write; the suffix chooses the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        ValueError: there is nothing to draw, or an array has another number of dimensions.
    """
    if not curves:
        raise ValueError("plot_accuracy: there are no curves to draw")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        counts, bands = set(), len(curves) <= MOST_BANDS
        for index, (label, values) in enumerate(curves.items()):
            accuracy = np.asarray(values, dtype=float)
            if accuracy.ndim != 2 or accuracy.size == 0:
                raise ValueError(f"plot_accuracy: {label!r} must have shape [seeds, epochs], got {accuracy.shape}")
            seeds, epochs = accuracy.shape
            counts.add(seeds)
            x = np.arange(1, epochs + 1)
            mean = accuracy.mean(axis=0)
            colour = COLOURS[index % len(COLOURS)]
            dashes = DASHES[index // len(COLOURS) % len(DASHES)]
            axes.plot(
                x, mean, color=colour, linestyle=dashes, label=label, linewidth=1.8, marker="o", markersize=3.5
            )
            if seeds > 1 and bands:
                spread = accuracy.std(axis=0, ddof=1)
                axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epochs", ylabel="accuracy %")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="lower right", frameon=False, title=_seeds(counts, bands), alignment="left")
        _save(figure, paths)


def plot_contrasts(lines: Sequence[ContrastLine], margin: float, title: str, paths: Sequence[Path]) -> None:
    """Draw a forest plot: each contrast's mean and interval, with the band of equivalence shaded.

    Args:
        lines: from top to bottom; declared contrasts are drawn in colour.
        margin: half the width of the band, in percentage points.
        title: heading.
        paths: where to write; the suffix chooses the format.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not lines:
        raise ValueError("plot_contrasts: there are no contrasts to draw")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.6 + 0.32 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvspan(-margin, margin, color="#009E73", alpha=0.12, linewidth=0)
        axes.axvline(0, color="#555555", linewidth=0.8)
        for height, line in enumerate(reversed(lines)):
            colour = COLOURS[0] if line.primary else "#888888"
            axes.plot([line.low, line.high], [height, height], color=colour, linewidth=2)
            axes.plot([line.mean], [height], color=colour, marker="o", markersize=6)
        axes.set_yticks(range(len(lines)), [line.label for line in reversed(lines)])
        for text, line in zip(axes.get_yticklabels(), reversed(lines), strict=True):
            text.set_fontweight("bold" if line.primary else "normal")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(visible=True, axis="x", alpha=0.3)
        axes.set_xlabel(
            "difference of final accuracy, percentage points\n"
            f"bold: declared before the run; shaded: within the margin of ±{margin:g} points"
        )
        _save(figure, paths)


def _save(figure: Figure, paths: Sequence[Path]) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _seeds(counts: set[int], bands: bool) -> str:
    if counts == {1}:
        return "one seed"
    numbers = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"mean{' ± 1 standard deviation' if bands else ''}, {numbers} seeds"
