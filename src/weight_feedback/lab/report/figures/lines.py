"""Pictures of what changes over training: accuracy, and what is heard."""

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
    beyond,
    ends,
    first_shown,
    offered,
    tooltips,
)
from weight_feedback.lab.report.markdown import interval, number
from weight_feedback.lab.report.plots import MOST_NAMED
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.estimates import mean_interval
from weight_feedback.lab.statistics.outcomes import ArmResult


def curves(analysis: Analysis) -> Iterator[Figure]:
    """Make the learning curves.

    Args:
        analysis: of at least one finished trial.
    """
    arms = [result for result in analysis.arms if result.seeds]
    epochs = analysis.study.training.epochs
    first = analysis.study.declared_arms & {result.arm.name for result in arms}
    can_show = offered(arms, first)
    shown = first_shown([result for result in can_show if not first or result.arm.name in first], first)
    ends = _said([f"{result.arm.label} {interval(result.final, 2)}" for result in arms])
    yield Figure(
        name="curves",
        title="Accuracy over training",
        caption="Thin lines are seeds, thick ones means, with 95 % intervals of each mean as bands. Early epochs "
        "are cut off at first, where all arms rise steeply"
        + ("; so are arms that no declared contrast compares." if first else ".")
        + " Whether arms differ is a question for paired differences."
        + _choose(arms, first)
        + beyond(len(arms), len(can_show), "arms"),
        alt=f"Test accuracy in percent by epoch. After the last: {ends}.",
        spec=_curves_spec(can_show, shown, epochs, arm_scales(analysis, can_show)),
        headings=["arm", *(f"epoch {epoch}" for epoch in range(1, epochs + 1))],
        rows=[[result.arm.label, *(number(float(x), 2) for x in result.accuracy.mean(axis=0))] for result in arms],
        columns=["arm", "seed", "epoch", "accuracy", "loss"],
        values=[
            [result.arm.name, seed, epoch + 1, float(result.accuracy[row, epoch]), float(result.loss[row, epoch])]
            for result in arms
            for row, seed in enumerate(result.seeds)
            for epoch in range(epochs)
        ],
        arms=[result.arm.label for result in can_show],
        shown=shown,
        first=_first(epochs),
    )


def _curves_spec(arms: Sequence[ArmResult], shown: Sequence[str], epochs: int, scales: tuple[Spec, Spec]) -> Spec:
    seeds = [
        {"arm": result.arm.label, "seed": seed, "epoch": epoch + 1, "accuracy": round(float(value), 4)}
        for result in arms
        for row, seed in enumerate(result.seeds)
        for epoch, value in enumerate(result.accuracy[row])
    ]
    means = [
        {"arm": result.arm.label, "epoch": epoch + 1, "n": len(result.seeds), **ends(mean_interval(column))}
        for result in arms
        for epoch, column in enumerate(result.accuracy.T)
    ]
    keep = {"filter": "indexof(shown, datum.arm) >= 0 && datum.epoch >= first"}
    x = {"field": "epoch", "type": "quantitative", "axis": _epochs(1, epochs)}
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": {"title": "test accuracy, %"}}
    colour, dash = scales

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
                "encoding": {"y": {**y, "field": "accuracy"}, "detail": {"field": "seed"}, "opacity": faded(0.45)},
            },
            {
                "data": {"values": seeds},
                "transform": [keep],
                "mark": {"type": "point", "filled": True, "size": 40},
                "encoding": {
                    "y": {**y, "field": "accuracy"},
                    "opacity": {"value": 0},
                    "tooltip": [
                        {"field": "arm", "type": "nominal"},
                        {"field": "seed", "type": "nominal"},
                        {"field": "epoch", "type": "quantitative"},
                        {"field": "accuracy", "type": "quantitative", "format": ".2f"},
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
                    "tooltip": [{"field": "arm", "type": "nominal"}, *tooltips("%", "epoch", ".2f")],
                },
            },
        ],
    }


_SIGNAL = {
    "norm": ("Size of the signal", "norm of z", "The Euclidean norm of what fc1 hears"),
    "drift": (
        "Drift of the signal",
        "‖z − z₀‖ / ‖z₀‖",
        "How far what fc1 hears has moved from what it heard before the first step, relative to the latter",
    ),
    "share": (
        "Loudness of the signal",
        "share of pre-activation",
        "What the signal adds to fc1's pre-activation, as a share of all of it: its root mean square, divided by "
        "its sum with that of the rest",
    ),
}


def signal(analysis: Analysis) -> Iterator[Figure]:
    """Make three pictures of what fc1 hears: how large, how far from its start, and how loud.

    Args:
        analysis: with an arm that hears something; otherwise there are none.
    """
    arms = [result for result in analysis.arms if result.hearings]
    if not arms:
        return
    epochs = analysis.study.training.epochs
    first = analysis.study.declared_arms & {result.arm.name for result in arms}
    can_show = offered(arms, first)
    labels, shown = [result.arm.label for result in can_show], first_shown(can_show, first)
    for name, (title, axis, meaning) in _SIGNAL.items():
        means = {result.arm.label: _mean(result.hearings[name]) for result in arms}
        colour, dash = arm_scales(analysis, can_show)
        data = [
            {"arm": label, "epoch": epoch, "value": float(value)}
            for label in labels
            for epoch, value in enumerate(means[label])
            if not math.isnan(value)
        ]
        ends = _said([f"{label} {number(float(values[-1]), 3)}" for label, values in means.items()])
        yield Figure(
            name=name,
            title=title,
            caption=f"{meaning}; means over the seeds that haven't diverged, before training and after each epoch."
            + (_choose(arms, first) if len(shown) < len(labels) else "")
            + beyond(len(arms), len(can_show), "arms"),
            alt=f"{axis} by epoch. At the end: {ends}.",
            spec={
                **base_spec(data, labels),
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
            rows=[[label, *(number(float(x), 3) for x in values)] for label, values in means.items()],
            columns=["arm", "seed", "epoch", name],
            values=[
                [result.arm.name, seed, epoch, float(value)]
                for result in arms
                for row, seed in enumerate(result.seeds)
                for epoch, value in enumerate(result.hearings[name][row])
            ],
            arms=labels,
            shown=shown,
        )


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
    """Return the epoch that learning curves begin with: early ones take up the whole range of accuracies."""
    return min(1 + epochs // 3, max(epochs - 1, 1))


def _epochs(first: int, last: int) -> Spec:
    """Return an axis with ticks at whole epochs alone."""
    return {"title": "epoch", "values": list(range(first, last + 1)), "format": "d", "labelOverlap": True}
