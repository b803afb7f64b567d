"""Pictures with one row a name: contrasts as intervals and as dots, and swaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weight_feedback.lab.report.figures.base import (
    MOST_ROWS,
    Figure,
    Spec,
    base_spec,
    begun,
    beyond,
    ends,
    lines,
    tooltips,
    x_channel,
)
from weight_feedback.lab.report.markdown import (
    contrast_cells,
    difference_digits,
    in_unit,
    interval,
    number,
    swap_cells,
)
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.contrasts import Compared
from weight_feedback.lab.statistics.outcomes import digits_of, headed, mean_there, with_unit

QUARTILES = (0, 25, 50, 75, 100)
_GREEN, _BLUE, _ORANGE, _GREY = "#009E73", "#0072B2", "#D55E00", "#888888"


def forest(analysis: Analysis) -> Iterator[Figure]:
    """Make the forest plot of all contrasts.

    Args:
        analysis: of a study that declares something; otherwise there is none.
    """
    if not analysis.contrasts:
        return
    outcome, declared = analysis.outcome, analysis.study.declared
    assert declared is not None
    digits = difference_digits(declared.margin)
    data = [
        {"contrast": _line(_name(row)), "declared": row.primary, "n": row.estimate.n, **ends(row.estimate.t)}
        for row in analysis.contrasts[:MOST_ROWS]
    ]
    count = len(analysis.contrasts)
    primary = "; ".join(
        f"{_name(row)} {interval(row.estimate.t, digits)}" for row in analysis.contrasts if row.primary
    )
    headings, rows = contrast_cells(analysis.contrasts, outcome.differences)
    yield Figure(
        name="forest",
        title=f"Differences of {outcome.title}",
        caption=f"Mean differences, paired by seed, with {100 * declared.confidence:g} % Student's t intervals, "
        "each by itself. Those declared before the run are blue diamonds. Shaded: differences within the margin of "
        f"equivalence, ±{with_unit(f'{declared.margin:g}', outcome.differences)}."
        + beyond(count, len(data), "contrasts"),
        alt=f"Forest plot of {count} contrasts of {outcome.title}{in_unit(outcome.differences)}. "
        f"Declared: {primary}.",
        spec=_spec(
            data,
            count,
            [
                *_margin(declared.margin),
                {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": _interval_channels(_declared_colour())},
                {
                    "mark": {"type": "point", "filled": True, "opacity": 1},
                    "encoding": {
                        "x": x_channel("mean"),
                        "color": _declared_colour(),
                        "shape": {"condition": {"test": "datum.declared", "value": "diamond"}, "value": "circle"},
                        "size": {"condition": {"test": "datum.declared", "value": 150}, "value": 70},
                        "tooltip": tooltips(outcome.differences, form=f"+.{digits}f"),
                    },
                },
            ],
            "contrast",
            headed(f"difference of {outcome.title}", outcome.differences),
        ),
        headings=headings,
        rows=rows,
        columns=[
            "a", "b", "declared", "n", "missing", "mean", "low", "high",
            "flip_p", "d_z", "superiority", "tost_p", "detectable",
            "verdict", "adjusted_flip_p", "adjusted_tost_p",
        ],
        values=[
            [
                row.a, row.b, row.primary, e.n, e.missing, e.mean, e.t.low, e.t.high,
                e.flip_p, e.d_z, e.superiority, e.tost_p, e.detectable,
                row.kind, *((row.judged.flip_p, row.judged.tost_p) if row.judged else (None, None)),
            ]
            for row in analysis.contrasts
            for e in [row.estimate]
        ],
    )  # fmt: skip


def differences(analysis: Analysis) -> Iterator[Figure]:
    """Make the picture of paired differences, a dot a seed.

    Args:
        analysis: of a study that declares something; otherwise there is none.
    """
    if not analysis.contrasts:
        return
    outcome, declared = analysis.outcome, analysis.study.declared
    assert declared is not None
    digits = difference_digits(declared.margin)
    unit = f",{in_unit(outcome.differences)}" if outcome.differences else ""
    dots = {_name(row): row.differences for row in analysis.contrasts}
    if not any(dots.values()):
        return
    spread = [
        [name, str(len(of)), *(number(float(q), digits) for q in np.percentile(list(of.values()), QUARTILES))]
        for name, of in dots.items()
        if of
    ]
    yield Figure(
        name="differences",
        title="Paired differences, a dot a seed",
        caption=f"Each dot is one seed's difference of {outcome.title}; the bar is their mean. Shaded: within "
        f"±{with_unit(f'{declared.margin:g}', outcome.differences)}. Dots are spread in height to be told apart."
        + beyond(len(dots), MOST_ROWS, "contrasts"),
        alt=f"Dots of the paired differences in {len(dots)} contrasts{unit}; the table has their quartiles.",
        spec=_dots(
            dots,
            headed(f"difference of {outcome.title}", outcome.differences),
            _margin(declared.margin),
            f"+.{digits}f",
        ),
        headings=["contrast", "pairs", "least", "first quartile", "median", "third quartile", "most"],
        rows=spread,
        columns=["a", "b", "seed", "difference"],
        values=[
            [row.a, row.b, seed, value] for row in analysis.contrasts for seed, value in row.differences.items()
        ],
    )


def swaps(analysis: Analysis) -> Iterator[Figure]:
    """Make the picture of swaps, a dot a seed.

    Args:
        analysis: with swaps; otherwise there is none.
    """
    if not analysis.swaps:
        return
    dots = {f"{swap.arm}: {swap.under}": swap.changes for swap in analysis.swaps}
    headings, rows = swap_cells(analysis)
    name = analysis.study.judged
    metric = analysis.study.reported[name]
    label = analysis.study.label(name)
    more = f"; {len(rows) - MOST_ROWS:,} more are in the table" if len(rows) > MOST_ROWS else ""
    said = "; ".join(f"{row[0]} under {row[1]}: {row[4]}" for row in rows[:MOST_ROWS]) + more
    yield Figure(
        name="swaps",
        title="Trained models under something else",
        caption="Each dot is a trained model, of which something is replaced in evaluation alone; the bar is the "
        f"mean change of final {label}. A change says that the model relies on what was replaced, not that having "
        "it helped." + beyond(len(dots), MOST_ROWS, "rows"),
        alt=f"Changes of {label}{in_unit(metric.differences)}: {said}.",
        spec=_dots(dots, headed(f"change of final {label}", metric.differences), [_zero()]),
        headings=headings,
        rows=rows,
        columns=["arm", "under", "seed", "change"],
        values=[[s.arm, s.under, seed, change] for s in analysis.swaps for seed, change in s.changes.items()],
    )


def values(analysis: Analysis) -> Iterator[Figure]:
    """Make the picture of a metric that trials report once, a dot a seed.

    Args:
        analysis: of at least one finished trial; of several epochs there are curves instead.
    """
    arms = [result for result in analysis.arms if result.seeds]
    if max(result.epochs for result in arms) > 1:
        return
    name = analysis.study.judged
    metric = analysis.study.reported[name]
    label, digits = analysis.study.label(name), digits_of(metric, [result.curves[name] for result in arms])
    dots = {
        result.arm.label: {
            seed: float(value)
            for seed, value in zip(result.seeds, result.curves[name][:, -1], strict=True)
            if not np.isnan(value)
        }
        for result in arms
    }
    said = {arm: mean_there(np.array([*of.values()]))[0] for arm, of in dots.items()}
    rows = [[arm, str(len(dots[arm])), interval(mean, digits)] for arm, mean in said.items()]
    if not any(dots.values()):
        return
    yield Figure(
        name="values",
        title=f"{begun(label)}, a dot a seed",
        caption=f"Each dot is one trial's {label}; the bar is their mean. Whether arms differ is a question for "
        "paired differences." + beyond(len(dots), MOST_ROWS, "arms"),
        alt=f"Dots of {label}{in_unit(metric.unit)} by arm: "
        + "; ".join(f"{row[0]} {row[2]}" for row in rows[:MOST_ROWS])
        + ".",
        spec=_dots(dots, headed(label, metric.unit), [], f".{digits}f"),
        headings=["arm", "trials", headed(f"mean {label}", metric.unit)],
        rows=rows,
        columns=["arm", "seed", name],
        values=[
            [result.arm.name, seed, float(value)]
            for result in arms
            for seed, value in zip(result.seeds, result.curves[name][:, -1], strict=True)
        ],
    )


def _dots(dots: Mapping[str, Mapping[int, float]], axis: str, behind: Sequence[Spec], form: str = "+.3f") -> Spec:
    """Return a picture of one dot a seed, in one row a name, with a bar at the mean."""
    data = [
        {"name": _line(name), "seed": seed, "value": value, "jitter": _jitter(seed)}
        for name, values in [*dots.items()][:MOST_ROWS]
        for seed, value in values.items()
    ]
    offset = {"field": "jitter", "type": "quantitative", "scale": {"domain": [0, 1]}}
    tips = [
        {"field": "name", "type": "nominal"},
        {"field": "seed", "type": "nominal"},
        {"field": "value", "type": "quantitative", "format": form},
    ]
    layers: list[Spec] = [
        {
            "mark": {"type": "point", "filled": True, "size": 24, "opacity": 0.55, "color": _BLUE},
            "encoding": {
                "x": {**x_channel("value"), "scale": {"zero": bool(behind)}},
                "yOffset": offset,
                "tooltip": tips,
            },
        },
        {
            "mark": {"type": "tick", "thickness": 3, "size": 18, "color": _ORANGE},
            "encoding": {"x": {"aggregate": "mean", "field": "value", "type": "quantitative"}},
        },
    ]
    return _spec(data, len(dots), [*behind, *layers], "name", axis, step=28)


def _spec(
    data: Sequence[Mapping[str, Any]], rows: int, layers: Sequence[Spec], row: str, axis: str, step: int = 24
) -> Spec:
    """Return a picture with one row a name; of names in several lines, with room for these."""
    names: Spec = {"title": None, "ticks": False}
    title: str | list[str] = axis
    if (most := max(one[row].count("\n") for one in data)) > 0:
        parts = r"split(datum.label, '\n')"
        # Vega has the first line, not the middle of all, at the middle of the row.
        names |= {"labelExpr": parts, "labelOffset": {"expr": f"-7 * (length({parts}) - 1)"}}
    if rows > MOST_ROWS:
        title = [axis, f"{rows - MOST_ROWS:,} more rows are in the report's table"]
    y = {"field": row, "type": "nominal", "sort": None, "axis": names}
    return {
        **base_spec(data),
        "height": (step + 14 * most) * min(rows, MOST_ROWS),
        "layer": [
            layer if "data" in layer else {**layer, "encoding": {"y": y, **layer["encoding"]}} for layer in layers
        ],
        "encoding": {"x": {"axis": {"title": title}}},
    }


def _margin(margin: float) -> list[Spec]:
    return [
        {
            "data": {"values": [{"low": -margin, "high": margin}]},
            "mark": {"type": "rect", "color": _GREEN, "opacity": 0.14},
            "encoding": {"x": x_channel("low"), "x2": {"field": "high"}},
        },
        _zero(),
    ]


def _zero() -> Spec:
    return {
        "data": {"values": [{"x": 0}]},
        "mark": {"type": "rule", "color": _GREY},
        "encoding": {"x": x_channel("x")},
    }


def _interval_channels(colour: Spec) -> Spec:
    return {"x": x_channel("low"), "x2": {"field": "high"}, "color": colour}


def _declared_colour() -> Spec:
    return {"condition": {"test": "datum.declared", "value": _BLUE}, "value": _GREY}


def _line(name: str) -> str:
    """Return what a row is called, with the ends of its lines in it."""
    return "\n".join(lines(name))


def _name(row: Compared) -> str:
    return f"{row.a} − {row.b}"


def _jitter(seed: int) -> float:
    # Multiples of the golden ratio spread evenly, whatever the number of seeds.
    return 0.1 + 0.8 * (seed * 0.618034 % 1)
