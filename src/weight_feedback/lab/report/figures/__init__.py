"""The pictures of a report, as Vega-Lite specifications with the data inside; each has a table and a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from weight_feedback.lab.report.figures.base import VEGA_LITE, Figure, save
from weight_feedback.lab.report.figures.lines import curves, diagnostics
from weight_feedback.lab.report.figures.rows import differences, forest, swaps, values
from weight_feedback.lab.statistics.analysis import Analysis

__all__ = ["VEGA_LITE", "Figure", "figures", "save"]


def figures(analysis: Analysis) -> list[Figure]:
    """Make the pictures of a study, in the order of the report; those without data are left out.

    Args:
        analysis: of at least one finished trial. Results of different data have no pictures.
    """
    if analysis.mixed:
        return []
    makers: Sequence[Callable[[Analysis], Iterator[Figure]]] = (
        forest,
        curves,
        values,
        differences,
        swaps,
        diagnostics,
    )
    return [figure for make in makers for figure in make(analysis)]
