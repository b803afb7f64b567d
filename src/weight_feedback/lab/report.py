"""What a study found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.estimates import Interval, mean_interval
from weight_feedback.lab.spec import Study
from weight_feedback.lab.store import Record


class Row(NamedTuple):
    """One arm's line in the table of results.

    Attributes:
        label: of the arm.
        parameters: trainable numbers.
        seeds: finished trials.
        final: accuracy after the last epoch, percent.
        best: accuracy after the best epoch of each trial, percent.
        loss: test loss after the last epoch, nats.
    """

    label: str
    parameters: int
    seeds: int
    final: Interval
    best: Interval
    loss: Interval


def accuracies(records: Sequence[Record]) -> NDArray[np.float64]:
    """Return test accuracy in percent, shape ``[seeds, epochs]``.

    Args:
        records: of one arm.
    """
    return np.array([[epoch["accuracy"] for epoch in record.result["epochs"]] for record in records])


def summarise(study: Study, records: Mapping[str, Sequence[Record]]) -> list[Row]:
    """Summarise each arm.

    Args:
        study: arms × seeds.
        records: arm name to its trials; arms without any are left out.

    Returns:
        One row an arm, in the study's order.
    """
    rows = []
    for arm in study.arms:
        if trials := records.get(arm.name):
            accuracy = accuracies(trials)
            losses = [record.result["epochs"][-1]["loss"] for record in trials]
            rows.append(
                Row(
                    arm.label,
                    trials[0].result["parameters"],
                    len(trials),
                    mean_interval(accuracy[:, -1]),
                    mean_interval(accuracy.max(axis=1)),
                    mean_interval(losses),
                )
            )
    return rows


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the table as text, for a terminal or a page.

    Args:
        rows: of `summarise`.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = ["arm", "parameters", "seeds", "final accuracy %", "best epoch %", "final test loss"]
    body = [
        [
            row.label,
            f"{row.parameters:,}",
            str(row.seeds),
            _interval(row.final, 2),
            _interval(row.best, 2),
            _interval(row.loss, 4),
        ]
        for row in rows
    ]
    return headings, body


def markdown(study: Study, rows: Sequence[Row], command: str, provenance: Mapping[str, Any], picture: str) -> str:
    """Return a short report of a study in Markdown.

    Args:
        study: arms × seeds.
        rows: of `summarise`.
        command: that makes these results.
        provenance: of one of the trials.
        picture: file name of the picture.
    """
    headings, body = cells(rows)
    lines = [
        f"# {study.title}",
        "",
        f"![accuracy per epoch]({picture})",
        "",
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * len(headings)}",
        *(f"| {' | '.join(_escape(cell) for cell in row)} |" for row in body),
        "",
        "Means over seeds with 95 % Student's t intervals in brackets; a single seed has none. "
        "These intervals are of each arm by itself: whether arms differ is a question for differences "
        "paired by seed.",
        "",
        f"- Data: {study.data}; {study.training.epochs} epochs, batches of {study.training.batch_size}, "
        f"SGD with learning rate {study.training.lr:g} and momentum {study.training.momentum:g}.",
        f"- Made by: `{command}`",
        f"- With: weight-feedback {provenance['weight_feedback']}, torch {provenance['torch']}, "
        f"Python {provenance['python']}, device {provenance['device']}, threads a trial: {provenance['threads']}.",
        "",
    ]
    return "\n".join(lines)


def _interval(interval: Interval, digits: int) -> str:
    if np.isnan(interval.low):
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
