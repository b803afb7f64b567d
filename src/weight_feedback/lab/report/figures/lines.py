"""Pictures of what changes over training: the metric that is compared, and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.report.figures.base import (
    Figure,
    Spec,
    arm_scales,
    base_spec,
    begun,
    beyond,
    ends,
    first_shown,
    offered,
    tooltips,
)
from weight_feedback.lab.report.markdown import in_unit, interval, number
from weight_feedback.lab.report.plots import MOST_NAMED
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.outcomes import ArmResult, digits_of, headed, mean_there, with_unit
from weight_feedback.lab.tasks.base import Diagnostic


def curves(analysis: Analysis) -> Iterator[Figure]:
    """Make the learning curves of the metric that is compared.

    Args:
        analysis: of at least one finished trial; of a single epoch there are no curves.
    """
    arms = [result for result in analysis.arms if result.seeds]
    epochs = max(result.epochs for result in arms)
    if epochs < 2:
        return
    study, name = analysis.study, analysis.study.judged
    metric = study.reported[name]
    label, digits = study.label(name), digits_of(metric, [result.curves[name] for result in arms])
    first = study.declared_arms & {result.arm.name for result in arms}
    can_show = offered(arms, first)
    shown = first_shown([result for result in can_show if not first or result.arm.name in first], first)
    ends = _said(
        [f"{result.arm.label} {interval(mean_there(result.curves[name][:, -1])[0], digits)}" for result in arms]
    )
    others = [other for other in study.reported if other != name]
    yield Figure(
        name="curves",
        title=f"{begun(label)} over training",
        caption="Thin lines are seeds, thick ones means, with 95 % intervals of each mean as bands. Early epochs "
        "are cut off at first, where all arms change most"
        + ("; so are arms that no declared contrast compares." if first else ".")
        + " Whether arms differ is a question for paired differences."
        + _choose(arms, first)
        + beyond(len(arms), len(can_show), "arms"),
        alt=f"{with_unit(begun(label), in_unit(metric.unit).strip())} by epoch. After the last: {ends}.",
        spec=_curves_spec(analysis, can_show, shown, digits, epochs),
        headings=["arm", *(f"epoch {epoch}" for epoch in range(1, epochs + 1))],
        rows=[
            [result.arm.label, *(number(float(x), digits) for x in _mean(_wide(result.curves[name], epochs)))]
            for result in arms
        ],
        columns=["arm", "seed", "epoch", name, *others],
        values=[
            [
                result.arm.name,
                seed,
                epoch + 1,
                *(float(result.curves[one][row, epoch]) for one in (name, *others)),
            ]
            for result in arms
            for row, seed in enumerate(result.seeds)
            for epoch in range(result.epochs)
        ],
        arms=[result.arm.label for result in can_show],
        shown=shown,
        first=_first(epochs),
        last=epochs,
    )


def _wide(values: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
    """Return values of some epochs with NaN for those that follow."""
    return np.pad(values, ((0, 0), (0, epochs - values.shape[1])), constant_values=np.nan)


def _curves_spec(
    analysis: Analysis, arms: Sequence[ArmResult], shown: Sequence[str], digits: int, epochs: int
) -> Spec:
    name = analysis.study.judged
    metric = analysis.study.reported[name]
    axis = headed(analysis.study.label(name), metric.unit)
    seeds = [
        {"arm": result.arm.label, "seed": seed, "epoch": epoch + 1, "value": round(float(value), digits + 2)}
        for result in arms
        for row, seed in enumerate(result.seeds)
        for epoch, value in enumerate(result.curves[name][row])
        if not math.isnan(value)
    ]
    means = [
        {"arm": result.arm.label, "epoch": epoch + 1, "n": n, **ends(mean)}
        for result in arms
        for epoch, column in enumerate(result.curves[name].T)
        for mean, n in [mean_there(column)]
        if n
    ]
    keep = {"filter": "indexof(shown, datum.arm) >= 0 && datum.epoch >= first"}
    x = {"field": "epoch", "type": "quantitative", "axis": _epochs(1, epochs)}
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": {"title": axis}}
    colour, dash = arm_scales(analysis, arms)

    def faded(full: float) -> Spec:
        return {"condition": {"param": "chosen", "value": full}, "value": full / 8}

    return {
        **base_spec([], [result.arm.label for result in arms]),
        "height": 340,
        "params": [
            {"name": "shown", "value": list(shown)},
            {"name": "first", "value": _first(epochs)},
        ],
        "encoding": {"x": x, "color": colour},
        "layer": [
            {
                "data": {"values": seeds},
                "transform": [keep],
                "mark": {"type": "line", "strokeWidth": 0.8},
                "encoding": {"y": {**y, "field": "value"}, "detail": {"field": "seed"}, "opacity": faded(0.45)},
            },
            {
                "data": {"values": seeds},
                "transform": [keep],
                "mark": {"type": "point", "filled": True, "size": 40},
                "encoding": {
                    "y": {**y, "field": "value"},
                    "opacity": {"value": 0},
                    "tooltip": [
                        {"field": "arm", "type": "nominal"},
                        {"field": "seed", "type": "nominal"},
                        {"field": "epoch", "type": "quantitative"},
                        {"field": "value", "type": "quantitative", "format": f".{digits}f", "title": axis},
                    ],
                },
            },
            {
                "data": {"values": means},
                "transform": [keep],
                "mark": {"type": "area"},
                "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "opacity": faded(0.12)},
            },
            {
                "params": [{"name": "chosen", "select": {"type": "point", "fields": ["arm"]}, "bind": "legend"}],
                "data": {"values": means},
                "transform": [keep],
                "mark": {"type": "line", "strokeWidth": 2.5, "point": {"filled": True, "size": 30}},
                "encoding": {
                    "y": {**y, "field": "mean"},
                    "strokeDash": dash,
                    "opacity": faded(1),
                    "tooltip": [
                        {"field": "arm", "type": "nominal"},
                        *tooltips(metric.unit, "epoch", f".{digits}f"),
                    ],
                },
            },
        ],
    }


def diagnostics(analysis: Analysis) -> Iterator[Figure]:
    """Make a picture of each diagnostic.

    Args:
        analysis: with diagnostics; otherwise there are none.
    """
    arms = [result for result in analysis.arms if result.diagnostics]
    if not arms:
        return
    epochs = max(result.epochs for result in arms)
    first = analysis.study.declared_arms & {result.arm.name for result in arms}
    can_show = offered(arms, first)
    names, shown = [result.arm.label for result in can_show], first_shown(can_show, first)
    known = analysis.study.kind.diagnostics
    for name in dict.fromkeys(name for result in arms for name in result.diagnostics):
        title, axis, meaning = known.get(name, Diagnostic(name, name, f"What trials say of {name}"))
        values = {result.arm.name: _diagnostic(result, name, epochs) for result in arms}
        means = {result.arm.label: _mean(values[result.arm.name]) for result in arms}
        colour, dash = arm_scales(analysis, can_show)
        data = [
            {"arm": label, "epoch": epoch, "value": float(value)}
            for label in names
            for epoch, value in enumerate(means[label])
            if not math.isnan(value)
        ]
        ends = _said([f"{label} {number(float(line[-1]), 3)}" for label, line in means.items()])
        yield Figure(
            name=name,
            title=title,
            caption=f"{meaning}; means over the seeds that haven't diverged, before training and after each epoch."
            + (_choose(arms, first) if len(shown) < len(names) else "")
            + beyond(len(arms), len(can_show), "arms"),
            alt=f"{axis} by epoch. At the end: {ends}.",
            spec={
                **base_spec(data, names),
                "height": 280,
                "params": [
                    {"name": "shown", "value": shown},
                    {"name": "chosen", "select": {"type": "point", "fields": ["arm"]}, "bind": "legend"},
                ],
                "transform": [{"filter": "indexof(shown, datum.arm) >= 0"}],
                "mark": {"type": "line", "strokeWidth": 2, "point": {"filled": True, "size": 20}},
                "encoding": {
                    "x": {"field": "epoch", "type": "quantitative", "axis": _epochs(0, epochs)},
                    "y": {"field": "value", "type": "quantitative", "axis": {"title": axis}},
                    "color": colour,
                    "strokeDash": dash,
                    "opacity": {"condition": {"param": "chosen", "value": 1}, "value": 0.1},
                    "tooltip": [
                        {"field": "arm", "type": "nominal"},
                        {"field": "epoch", "type": "quantitative"},
                        {"field": "value", "type": "quantitative", "format": ".3f"},
                    ],
                },
            },
            headings=["arm", *(f"epoch {epoch}" for epoch in range(epochs + 1))],
            rows=[[label, *(number(float(x), 3) for x in line)] for label, line in means.items()],
            columns=["arm", "seed", "epoch", name],
            values=[
                [result.arm.name, seed, epoch, float(value)]
                for result in arms
                for row, seed in enumerate(result.seeds)
                for epoch, value in enumerate(values[result.arm.name][row, : result.epochs + 1])
            ],
            arms=names,
            shown=shown,
        )


def _diagnostic(result: ArmResult, name: str, epochs: int) -> NDArray[np.float64]:
    values = result.diagnostics.get(name, np.full((len(result.seeds), result.epochs + 1), np.nan))
    return _wide(values, epochs + 1)


def _said(ends: Sequence[str]) -> str:
    """Return numbers of arms for those who can't see the picture: of as many as it shows at once."""
    more = len(ends) - MOST_NAMED
    return "; ".join([*ends[:MOST_NAMED], *([f"{more:,} more are in the table"] if more > 0 else [])])


def _choose(arms: Sequence[ArmResult], first: Collection[str]) -> str:
    """Return a sentence on arms that aren't shown at first for lack of looks, with a space in front."""
    if len(arms) <= MOST_NAMED:
        return ""
    which = "those of the declared contrasts" if first else "the first of them"
    return f" At first, {MOST_NAMED} arms are shown at most: {which}; others can be chosen in the report's page."


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over the seeds that got so far, shape ``[epochs + 1]``; NaN where all had diverged."""
    alive = ~np.isnan(values)
    counts = alive.sum(axis=0)
    sums = np.where(alive, values, 0.0).sum(axis=0)
    means = np.full(counts.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _first(epochs: int) -> int:
    """Return the epoch that learning curves begin with: early ones take up the whole range of values."""
    return min(1 + epochs // 3, max(epochs - 1, 1))


def _epochs(first: int, last: int) -> Spec:
    """Return an axis with ticks at whole epochs alone."""
    return {"title": "epoch", "values": list(range(first, last + 1)), "format": "d", "labelOverlap": True}
