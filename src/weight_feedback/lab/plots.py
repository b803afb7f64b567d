"""Pictures of studies, from plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from weight_feedback.files import write_atomically
from weight_feedback.lab.dimension import Measured

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
        counts, bands, lines = set(), len(curves) <= MOST_BANDS, []
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
            lines += axes.plot(x, mean, color=colour, linestyle=dashes, linewidth=1.8, marker="o", markersize=3.5)
            if seeds > 1 and bands:
                spread = accuracy.std(axis=0, ddof=1)
                axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epochs", ylabel="accuracy %")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, alpha=0.3)
        # Handed over as pairs: labels that a line is given itself are left out if they begin with an underscore.
        axes.legend(
            lines, [*curves], loc="lower right", frameon=False, title=_seeds(counts, bands), alignment="left"
        )
        _save(figure, paths)


def plot_dimension(
    measured: Measured, title: str, paths: Sequence[Path], published: tuple[str, int] | None = None
) -> None:
    """Draw accuracy against dimensions: a point a seed, the monotone fit, the threshold and where the fit meets it.

    Args:
        measured: accuracies, and what follows from them.
        title: heading.
        paths: where to write; see `plot_accuracy`.
        published: what others found, and where that is published.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        x = [d for d, values in measured.accuracy.items() for _ in values]
        points = axes.scatter(x, np.concatenate([*measured.accuracy.values()]), color=COLOURS[0], s=22, alpha=0.6)
        (fit,) = axes.plot([*measured.accuracy], measured.fitted, color=COLOURS[0], linewidth=1.8)
        threshold = axes.axhline(measured.threshold, color=COLOURS[6], linestyle="dashed", linewidth=1)
        shown: dict[str, Artist] = {
            "one seed each": points,
            "monotone fit of the means": fit,
            f"threshold {measured.threshold:g} %": threshold,
        }
        value, low, high = measured.dimension
        inside = 0 < value < np.inf
        crossing = axes.axvline(value) if inside else axes.plot([], [])[0]
        crossing.set(color=COLOURS[1], linewidth=1.5)
        shown[f"dimensions: {measured.estimate}"] = crossing
        ends = np.clip([low, high], min(measured.accuracy), max(measured.accuracy))
        if low < high:
            band = axes.axvspan(*ends, color=COLOURS[1], alpha=0.15, linewidth=0)
            shown[f"{100 * measured.confidence:g} % bootstrap interval"] = band
        if published:
            source, dimensions = published
            line = axes.axvline(dimensions, color=COLOURS[2], linestyle="dotted", linewidth=1.8)
            shown[f"{source}: {dimensions:,}"] = line
        axes.set_xscale("log")
        axes.set_xticks([*measured.accuracy], [f"{d:,}" for d in measured.accuracy])
        axes.minorticks_off()
        axes.set(xlabel="dimensions of the subspace", ylabel="accuracy %")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(visible=True, alpha=0.3)
        axes.legend([*shown.values()], [*shown], loc="lower right", framealpha=0.9, edgecolor="none")
        _save(figure, paths)


def _save(figure: Figure, paths: Sequence[Path]) -> None:
    for path in paths:
        drawn = BytesIO()
        kind, metadata = path.suffix.removeprefix("."), {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(drawn, format=kind, dpi=160, metadata=metadata)
        write_atomically(path, drawn.getvalue())


def _seeds(counts: set[int], bands: bool) -> str:
    if counts == {1}:
        return "one seed"
    numbers = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"mean{' ± 1 standard deviation' if bands else ''}, {numbers} seeds"
