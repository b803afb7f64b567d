"""What all pictures share: what one consists of, its files, and how it looks."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert

from weight_feedback.files import write_atomically
from weight_feedback.lab.report.csvs import to_csv
from weight_feedback.lab.report.plots import COLOURS, DASHES, MOST_NAMED
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.estimates import Interval
from weight_feedback.lab.statistics.outcomes import ArmResult, headed

VEGA_LITE = "6.4"
"""The version that the specifications are written for, and that pages and pictures are made with."""
# Black is invisible on a dark page.
COLOURS_BY_ARM = [colour.replace("#000000", "#888888") for colour in COLOURS]
#: Arms that a picture of lines has data of, and rows of a picture of rows; more are in its table alone.
MOST_ARMS, MOST_ROWS = 100, 100
#: Characters of a line of a name; longer names go over several.
LINE = 32
_DASHES = {"solid": [1, 0], "dashed": [6, 3], "dotted": [2, 2]}

Spec = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One picture of a report.

    Attributes:
        name: of its files.
        title: heading.
        caption: what is seen, in a sentence or two.
        alt: the same for those who can't see it, with the main numbers.
        spec: in Vega-Lite, with its data; its texts have the colour of the page's.
        headings: of the table beside it.
        rows: cells of that table.
        columns: names of the numbers behind it.
        values: these numbers, row by row.
        arms: names that the picture can show or hide by its parameter ``shown``; empty without it.
        shown: those that it shows at first.
        first: the epoch that it begins with at first, by its parameter ``first``; None without it.
        last: the last epoch.
    """

    name: str
    title: str
    caption: str
    alt: str
    spec: Spec
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    columns: Sequence[str]
    values: Sequence[Sequence[Any]]
    arms: Sequence[str] = ()
    shown: Sequence[str] = ()
    first: int | None = None
    last: int = 0


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write a picture as PNG and SVG, and the numbers behind it as CSV.

    Args:
        figure: the picture.
        folder: where to.

    Returns:
        The files.
    """
    fixed = {**figure.spec, "description": figure.alt, "width": WIDTH, "background": "white"}
    contents = {
        "png": vl_convert.vegalite_to_png(fixed, vl_version=VEGA_LITE, scale=2),
        "svg": vl_convert.vegalite_to_svg(fixed, vl_version=VEGA_LITE).encode(),
        "csv": to_csv(figure.columns, figure.values),
    }
    paths = [folder / f"{figure.name}.{kind}" for kind in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomically(path, content)
    return paths


#: What names take, in pixels: the width that pictures are saved with, and a wide letter.
WIDTH, LETTER = 640, 6.8


def lines(name: str) -> list[str]:
    """Return a name in lines that pictures have room for.

    Args:
        name: of an arm, or two of them with a minus sign between.
    """
    if len(name) <= LINE:
        return [name]
    first, minus, second = name.partition(" − ")
    return [*textwrap.wrap(first + minus.rstrip(), LINE), *textwrap.wrap(second, LINE)]


def _legend(names: Sequence[str]) -> Spec:
    """Return the legend of arms, whose names go over several lines where they are long.

    Args:
        names: of all arms that it may show.
    """
    wrapped = {label: lines(label) for label in names if len(label) > LINE}
    return {
        "title": None,
        # Those alone that the picture shows: choosing another by its legend would leave nothing to see.
        "values": {"expr": "shown"},
        "orient": "bottom",
        "symbolType": "stroke",
        "symbolStrokeWidth": 3,
        # Far more than a line takes; without one, Vega sets a limit of its own.
        "labelLimit": 480,
        "symbolOpacity": 1,
        **({"labelExpr": f"{json.dumps(wrapped)}[datum.label] || datum.label", "rowPadding": 6} if wrapped else {}),
    }


def first_shown(arms: Sequence[ArmResult], first: Collection[str]) -> list[str]:
    """Return the names of the arms that a picture shows at first: as many as can be told apart.

    Args:
        arms: those that it can show.
        first: names of those that are shown rather than others where not all can be.
    """
    if len(arms) > MOST_NAMED:
        arms = [result for result in arms if result.arm.name in first] or arms
    return [result.arm.label for result in arms[:MOST_NAMED]]


def offered(arms: Sequence[ArmResult], first: Collection[str]) -> list[ArmResult]:
    """Return the arms that a picture has data of, in their order.

    Args:
        arms: all that there are.
        first: names of those that are taken rather than others where not all can be.
    """
    best = sorted(range(len(arms)), key=lambda i: arms[i].arm.name not in first)[:MOST_ARMS]
    return [arms[i] for i in sorted(best)]


def beyond(count: int, most: int, what: str) -> str:
    """Return a sentence on what is left out of a picture, with a space in front; nothing if all is in it.

    Args:
        count: how many there are.
        most: how many are in it.
        what: they are.
    """
    return f" {count - most:,} more {what} are in the table alone." if count > most else ""


def base_spec(data: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> Spec:
    """Return what all specifications begin with.

    Args:
        data: rows; fields have fixed names, whatever the study is called.
        names: those that a legend may show, in as many columns as there is room for.
    """
    longest = max((len(line) for label in names for line in lines(label)), default=0)
    plain = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "background": None,
        "padding": {"left": 4, "top": 6, "right": 16, "bottom": 4},
        # A legend below adds to the height of the picture, rather than taking it from the curves.
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": list(data)},
        "config": {
            "font": "system-ui, sans-serif",
            "view": {"stroke": None},
            "axis": {
                **plain,
                "titleFontWeight": "normal",
                "domainColor": "currentColor",
                "tickColor": "currentColor",
                "gridColor": "currentColor",
                "gridOpacity": 0.12,
            },
            # Flush texts at the ends of an axis run into their neighbours; these need the room on the right.
            "axisX": {"labelFlush": False, "tickCount": 8},
            "axisY": {"labelLimit": 400},
            "legend": {**plain, "columns": max(1, min(4, int(WIDTH / (40 + LETTER * longest))))},
        },
    }


def x_channel(field: str) -> Spec:
    """Return the horizontal channel of a field of numbers.

    Args:
        field: its name.
    """
    return {"field": field, "type": "quantitative"}


def begun(label: str) -> str:
    """Return a label as a title begins; one that looks like a name in a program stays as it is.

    Args:
        label: of a metric.
    """
    return label if "_" in label else label[:1].upper() + label[1:]


def tooltips(unit: str, name: str = "contrast", form: str = "+.3f") -> list[Spec]:
    """Return what is shown on hovering over a mean.

    Args:
        unit: of the numbers.
        name: the field that says what it is the mean of.
        form: d3's format of the numbers.
    """
    return [
        {"field": name, "type": "nominal"},
        *(
            {"field": x, "type": "quantitative", "format": form, "title": headed(x, unit)}
            for x in ("mean", "low", "high")
        ),
        {"field": "n", "type": "quantitative", "title": "seeds"},
    ]


def arm_scales(analysis: Analysis, shown: Sequence[ArmResult]) -> tuple[Spec, Spec]:
    """Return colour and dashes by arm; an arm has the same in every picture.

    Args:
        analysis: whose arms they are; those of the declared contrasts get colours of their own.
        shown: those that the picture can show.
    """
    names = [result.arm.label for result in analysis.arms if result.seeds]
    first = {result.arm.label: result.arm.name not in analysis.study.declared_arms for result in analysis.arms}
    looks = {
        label: (COLOURS_BY_ARM[i % len(COLOURS_BY_ARM)], _DASHES[DASHES[i // len(COLOURS_BY_ARM) % len(DASHES)]])
        for i, label in enumerate(sorted(names, key=lambda label: first[label]))
    }
    channel = {"field": "arm", "type": "nominal", "legend": _legend([result.arm.label for result in shown])}
    colours, dashes = ([looks[label][k] for label in names] for k in (0, 1))
    return (
        {**channel, "scale": {"domain": names, "range": colours}},
        {**channel, "scale": {"domain": names, "range": dashes}},
    )


def ends(value: Interval) -> dict[str, float | None]:
    """Return a mean and its interval as fields.

    Args:
        value: both; NaN ends become null.
    """
    # JSON has no NaN; Vega leaves out what is null.
    return {name: None if math.isnan(x) else float(x) for name, x in value._asdict().items()}
