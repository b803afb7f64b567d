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
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

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


def plot_means(
    curves: Mapping[str, ArrayLike], title: str, axis: str, paths: Sequence[Path], first: Collection[str] = ()
) -> str:
    """Draw a metric per epoch: a mean line for each arm, and a band of one standard deviation over seeds.

    The bands are left out where there are too many arms to tell them apart. Of more arms than there are looks,
    a few have one and are named; the others are thin and grey.

    Args:
        curves: label of an arm to values, shape ``[seeds, epochs]``, NaN where there is none; one seed gives a line
            alone.
        title: heading.
        axis: what the vertical axis is called.
        paths: where to write; the suffix chooses the format (``.png``, ``.svg``, ``.pdf``).
        first: names of arms that are named rather than others where not all can be.

    Returns:
        Letters that the font lacks, which are drawn as boxes.

    Raises:
        ValueError: there is nothing to draw, or an array has another number of dimensions.
    """
    if not curves:
        raise ValueError("plot_means: there are no curves to draw")
    named = _named([*curves], first)
    with mpl.rc_context(STYLE), _letters_missing() as missing:
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        counts, bands, rise = set(), len(curves) <= MOST_BANDS, 0.0
        lines: list[Artist] = []
        for label, values in curves.items():
            curve = np.asarray(values, dtype=float)
            if curve.ndim != 2 or curve.size == 0:
                raise ValueError(f"plot_means: {label!r} must have shape [seeds, epochs], got {curve.shape}")
            seeds, epochs = curve.shape
            counts.add(seeds)
            there = ~np.isnan(curve).all(axis=0)
            curve = curve[:, there]
            x = np.arange(1, epochs + 1)[there]
            mean = np.nanmean(curve, axis=0)
            rise += float(mean[-1] - mean[0]) if mean.size else 0.0
            if label not in named:
                others = axes.plot(x, mean, color=OTHERS, linewidth=0.6, zorder=1)
                continue
            index = len(lines)
            colour = COLOURS[index % len(COLOURS)]
            dashes = DASHES[index // len(COLOURS) % len(DASHES)]
            lines += axes.plot(x, mean, color=colour, linestyle=dashes, linewidth=1.8, marker="o", markersize=3.5)
            if seeds > 1 and bands:
                spread = _spread(curve)
                axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epochs", ylabel=axis)
        _set_title(figure, axes, title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, alpha=0.3)
        if hidden := len(curves) - len(lines):
            lines += others
            named.append(f"and {hidden} more, thin and grey: see the report's table")
        # Where curves have yet to go, or have left.
        corner: Literal["lower right", "upper right"] = "lower right" if rise >= 0 else "upper right"
        _add_legend(figure, axes, lines, named, _seeds(counts, bands), corner)
        _save(figure, paths)
    return "".join(missing)


def plot_values(
    values: Mapping[str, ArrayLike], title: str, axis: str, paths: Sequence[Path], first: Collection[str] = ()
) -> str:
    """Draw a metric that trials report once: a row an arm, with a dot a seed and a line at the mean.

    Args:
        values: label of an arm to values, shape ``[seeds]``, NaN where there is none.
        title: heading.
        axis: what the axis is called.
        paths: where to write; see `plot_means`.
        first: names of arms that are drawn rather than others where not all can be.

    Returns:
        See `plot_means`.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not values:
        raise ValueError("plot_values: there are no values to draw")
    named = _named([*values], first)
    with mpl.rc_context(STYLE), _letters_missing() as missing:
        figure = Figure(figsize=(SIZE[0], 1.5 + 0.45 * len(named)), layout="constrained")
        axes = figure.add_subplot()
        for row, label in enumerate(named):
            x = np.asarray(values[label], dtype=float)
            x = x[~np.isnan(x)]
            colour = COLOURS[row % len(COLOURS)]
            # Multiples of the golden ratio spread evenly, whatever the number of seeds.
            height = row + 0.5 * (np.arange(x.size) * 0.618034 % 1 - 0.5)
            axes.scatter(x, height, color=colour, s=18, alpha=0.6, linewidths=0)
            if x.size:
                axes.plot([x.mean()] * 2, [row - 0.35, row + 0.35], color=colour, linewidth=2.5)
        axes.set_yticks(range(len(named)), named)
        axes.set_ylim(len(named) - 0.5, -0.5)
        axes.set(
            xlabel=axis
            if len(named) == len(values)
            else f"{axis}; {len(values) - len(named)} more arms: see the report's table"
        )
        _set_title(figure, axes, title)
        axes.grid(visible=True, axis="x", alpha=0.3)
        _save(figure, paths)
    return "".join(missing)


def _spread(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation at each epoch over the seeds that have a value; 0 for a single one."""
    counts = (~np.isnan(curve)).sum(axis=0)
    squares = np.nansum((curve - np.nanmean(curve, axis=0)) ** 2, axis=0)
    return np.asarray(np.sqrt(squares / np.maximum(counts - 1, 1)))


def _named(names: Sequence[str], first: Collection[str]) -> list[str]:
    """Return the names that lines are told apart by, in their order."""
    if len(names) <= MOST_NAMED:
        return list(names)
    return [label for label in names if label in first][:MOST_NAMED] or list(names[: len(COLOURS)])


def _add_legend(
    figure: Figure,
    axes: Axes,
    lines: Sequence[Artist],
    names: Sequence[str],
    title: str,
    corner: Literal["lower right", "upper right"],
) -> None:
    """Put the legend where it leaves room for the lines; else below, and let the figure grow."""
    # Handed over as pairs: names that a line is given itself are left out if they begin with an underscore.
    options: dict[str, Any] = {"frameon": False, "title": title, "alignment": "left"}
    legend = axes.legend(lines, names, loc=corner, **options)
    width, height = _inches(figure, legend)
    if width <= WIDEST * SIZE[0] and height <= HIGHEST * SIZE[1]:
        return
    legend.remove()
    columns = max(1, int(SIZE[0] // (width + 0.2)))
    below = figure.legend(lines, names, loc="outside lower left", ncols=columns, **options)
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
        figure.set_figheight(figure.get_figheight() + height * len(lines))


def plot_dimension(
    measured: Measured,
    title: str,
    axis: str,
    paths: Sequence[Path],
    published: tuple[str, int] | None = None,
    unit: str = "",
) -> str:
    """Draw a metric against dimensions: a point a seed, the monotone fit, the threshold and where the fit meets it.

    Args:
        measured: values, and what follows from them.
        title: heading.
        axis: what the vertical axis is called.
        paths: where to write; see `plot_means`.
        published: what others found, and where that is published.
        unit: of the threshold.

    Returns:
        See `plot_means`.
    """
    with mpl.rc_context(STYLE), _letters_missing() as missing:
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        x = [d for d, values in measured.values.items() for _ in values]
        points = axes.scatter(x, np.concatenate([*measured.values.values()]), color=COLOURS[0], s=22, alpha=0.6)
        (fit,) = axes.plot([*measured.values], measured.fitted, color=COLOURS[0], linewidth=1.8)
        threshold = axes.axhline(measured.threshold, color=COLOURS[6], linestyle="dashed", linewidth=1)
        shown: dict[str, Artist] = {
            "one seed each": points,
            "monotone fit of the means": fit,
            f"threshold {measured.threshold:g} {unit}".strip(): threshold,
        }
        value, low, high = measured.dimension
        inside = 0 < value < np.inf
        crossing = axes.axvline(value) if inside else axes.plot([], [])[0]
        crossing.set(color=COLOURS[1], linewidth=1.5)
        shown[f"dimensions: {measured.estimate}"] = crossing
        ends = np.clip([low, high], min(measured.values), max(measured.values))
        if low < high:
            band = axes.axvspan(*ends, color=COLOURS[1], alpha=0.15, linewidth=0)
            shown[f"{100 * measured.confidence:g} % bootstrap interval"] = band
        if published:
            source, dimensions = published
            line = axes.axvline(dimensions, color=COLOURS[2], linestyle="dotted", linewidth=1.8)
            shown[f"{source}: {dimensions:,}"] = line
        axes.set_xscale("log")
        ticks = _apart([*measured.values])
        axes.set_xticks(ticks, [f"{d:,}" for d in ticks])
        axes.minorticks_off()
        axes.set(xlabel="dimensions of the subspace", ylabel=axis)
        _set_title(figure, axes, title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend([*shown.values()], [*shown], loc="lower right", framealpha=0.9, edgecolor="none")
        _save(figure, paths)
    return "".join(missing)


def _apart(dimensions: Sequence[int]) -> list[int]:
    """Return those whose numbers don't run into each other on a logarithmic axis, smallest first."""
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
