"""Pictures of studies, from plain arrays."""

from __future__ import annotations

import math
import re
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from weight_feedback.files import write_atomically
from weight_feedback.lab.statistics.dimension import Measured

# Okabe and Ito's colours: distinct for colour-blind readers, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dashed", "dotted")
# More bands than this hide each other.
MOST_BANDS = 4
# As many arms as there are looks can be told apart.
MOST_NAMED = len(COLOURS) * len(DASHES)
OTHERS = "#b3b3b3"
# Of a figure, in inches; and the shares of it that a legend among the lines may take.
SIZE = (8.0, 5.0)
WIDEST, HIGHEST = 0.75, 0.62
# What it has room for beside the axis, in inches.
TITLE = 7.4
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "weight-feedback",  # the same picture gives the same file
    # Names in studies are text, whatever they contain.
    "text.parse_math": False,
    "text.usetex": False,
}


def plot_accuracy(
    curves: Mapping[str, ArrayLike], title: str, paths: Sequence[Path], first: Collection[str] = ()
) -> str:
    """Draw accuracy per epoch: a mean line for each arm, and a band of one standard deviation over seeds.

    The bands are left out where there are too many arms to tell them apart. Of more arms than there are looks,
    a few have one and are named; the others are thin and grey.

    Args:
        curves: label of an arm to accuracies in percent, shape ``[seeds, epochs]``; one seed gives a line alone.
        title: heading.
        paths: where to write; the suffix chooses the format (``.png``, ``.svg``, ``.pdf``).
        first: labels of arms that are named rather than others where not all can be.

    Returns:
        Letters that the font lacks, which are drawn as boxes.

    Raises:
        ValueError: there is nothing to draw, or an array has another number of dimensions.
    """
    if not curves:
        raise ValueError("plot_accuracy: there are no curves to draw")
    named = _named([*curves], first)
    with mpl.rc_context(STYLE), _letters_missing() as missing:
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        counts, bands = set(), len(curves) <= MOST_BANDS
        lines: list[Artist] = []
        for label, values in curves.items():
            accuracy = np.asarray(values, dtype=float)
            if accuracy.ndim != 2 or accuracy.size == 0:
                raise ValueError(f"plot_accuracy: {label!r} must have shape [seeds, epochs], got {accuracy.shape}")
            seeds, epochs = accuracy.shape
            counts.add(seeds)
            x = np.arange(1, epochs + 1)
            mean = accuracy.mean(axis=0)
            if label not in named:
                others = axes.plot(x, mean, color=OTHERS, linewidth=0.6, zorder=1)
                continue
            index = len(lines)
            colour = COLOURS[index % len(COLOURS)]
            dashes = DASHES[index // len(COLOURS) % len(DASHES)]
            lines += axes.plot(x, mean, color=colour, linestyle=dashes, linewidth=1.8, marker="o", markersize=3.5)
            if seeds > 1 and bands:
                spread = accuracy.std(axis=0, ddof=1)
                axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epochs", ylabel="accuracy %")
        _set_title(figure, axes, title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, alpha=0.3)
        if hidden := len(curves) - len(lines):
            lines += others
            named.append(f"and {hidden} more, thin and grey: see the report's table")
        _add_legend(figure, axes, lines, named, _seeds(counts, bands))
        _save(figure, paths)
    return "".join(missing)


def _named(labels: Sequence[str], first: Collection[str]) -> list[str]:
    """Return the labels that lines are told apart by, in their order."""
    if len(labels) <= MOST_NAMED:
        return list(labels)
    return [label for label in labels if label in first][:MOST_NAMED] or list(labels[: len(COLOURS)])


def _add_legend(figure: Figure, axes: Axes, lines: Sequence[Artist], labels: Sequence[str], title: str) -> None:
    """Put the legend where it leaves room for the lines; else below, and let the figure grow."""
    # Handed over as pairs: labels that a line is given itself are left out if they begin with an underscore.
    options: dict[str, Any] = {"frameon": False, "title": title, "alignment": "left"}
    legend = axes.legend(lines, labels, loc="lower right", **options)
    width, height = _inches(figure, legend)
    if width <= WIDEST * SIZE[0] and height <= HIGHEST * SIZE[1]:
        return
    legend.remove()
    columns = max(1, int(SIZE[0] // (width + 0.2)))
    below = figure.legend(lines, labels, loc="outside lower left", ncols=columns, **options)
    width, height = _inches(figure, below)
    figure.set_size_inches(max(SIZE[0], width + 0.2), figure.get_figheight() + height)


def _inches(figure: Figure, part: Artist) -> tuple[float, float]:
    box = part.get_window_extent(FigureCanvasAgg(figure).get_renderer())  # type: ignore[no-untyped-call]
    return box.width / figure.dpi, box.height / figure.dpi


def _set_title(figure: Figure, axes: Axes, title: str) -> None:
    """Set a title, in as many lines as it needs; for more than one, the figure grows."""
    text = axes.set_title(title, loc="left", fontweight="bold")
    width, height = _inches(figure, text)
    if width > TITLE:
        lines = textwrap.wrap(title, int(len(title) * TITLE / width))
        text.set_text("\n".join(lines))
        figure.set_figheight(SIZE[1] + height * len(lines))


def plot_dimension(
    measured: Measured, title: str, paths: Sequence[Path], published: tuple[str, int] | None = None
) -> str:
    """Draw accuracy against dimensions: a point a seed, the monotone fit, the threshold and where the fit meets it.

    Args:
        measured: accuracies, and what follows from them.
        title: heading.
        paths: where to write; see `plot_accuracy`.
        published: what others found, and where that is published.

    Returns:
        See `plot_accuracy`.
    """
    with mpl.rc_context(STYLE), _letters_missing() as missing:
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
        ticks = _apart([*measured.accuracy])
        axes.set_xticks(ticks, [f"{d:,}" for d in ticks])
        axes.minorticks_off()
        axes.set(xlabel="dimensions of the subspace", ylabel="accuracy %")
        _set_title(figure, axes, title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend([*shown.values()], [*shown], loc="lower right", framealpha=0.9, edgecolor="none")
        _save(figure, paths)
    return "".join(missing)


def _apart(dimensions: Sequence[int]) -> list[int]:
    """Return those whose labels don't run into each other on a logarithmic axis, smallest first."""
    span, kept = math.log(dimensions[-1] / dimensions[0]), [dimensions[0]]
    for d in dimensions[1:]:
        # A digit takes less than a 70th of the axis.
        if math.log(d / kept[-1]) >= span * (len(f"{d:,}") + 1) / 70:
            kept.append(d)
    return kept


def _save(figure: Figure, paths: Sequence[Path]) -> None:
    for path in paths:
        drawn = BytesIO()
        kind, metadata = path.suffix.removeprefix("."), {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(drawn, format=kind, dpi=160, metadata=metadata)
        write_atomically(path, drawn.getvalue())


@contextmanager
def _letters_missing() -> Iterator[list[str]]:
    """Yield a list that is filled with the letters that the font lacks, in place of a warning of each."""
    missing: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield missing
    for one in caught:
        if not (glyph := re.match(r"Glyph (\d+) ", str(one.message))):
            warnings.warn(one.message, stacklevel=3)
        elif (letter := chr(int(glyph[1]))) not in missing:
            missing.append(letter)


def _seeds(counts: set[int], bands: bool) -> str:
    if counts == {1}:
        return "one seed"
    numbers = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"mean{' ± 1 standard deviation' if bands else ''}, {numbers} seeds"
