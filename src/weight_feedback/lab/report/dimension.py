"""How many dimensions a task needs, as a table of text and as a short report in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weight_feedback.lab.report.markdown import code, escape, interval, made_with, number, table
from weight_feedback.lab.statistics.dimension import Measured
from weight_feedback.lab.statistics.estimates import mean_interval
from weight_feedback.lab.store.provenance import mixed_surroundings
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.untrusted import printable


def cells(measured: Measured) -> tuple[list[str], list[list[str]]]:
    """Return the table of dimensions as text.

    Args:
        measured: accuracies, and what follows from them.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = ["dimensions", "seeds", "final accuracy %", "monotone fit %", "seeds, sorted %"]
    body = [
        [
            f"{d:,}",
            str(len(values)),
            interval(mean_interval(values), 2),
            number(fitted, 2),
            ", ".join(number(value, 2) for value in values),
        ]
        for (d, values), fitted in zip(measured.accuracy.items(), measured.fitted, strict=True)
    ]
    return headings, body


def sentence(measured: Measured) -> str:
    """Return the estimate in words.

    Args:
        measured: accuracies, and what follows from them.
    """
    counts = sorted({len(values) for values in measured.accuracy.values()})
    least, most = counts[0], counts[-1]
    seeds = f"{least}" if least == most else f"{least} to {most}"
    seeds += " seed for each number" if most == 1 else " seeds for each number"
    how = f"{100 * measured.confidence:g} % bootstrap interval, {seeds}" if counts[-1] > 1 else seeds
    return f"Least dimensions with {measured.threshold:g} % test accuracy: {measured.estimate} ({how})."


def markdown(
    measured: Measured,
    settings: Measurement,
    provenances: Sequence[Mapping[str, Any]],
    title: str,
    command: str,
    data: str,
    published: tuple[str, int] | None = None,
) -> str:
    """Return a short report in Markdown, which shows the picture ``accuracy.png``.

    Args:
        measured: accuracies, and what follows from them.
        settings: of any of the runs; they share all but seed and dimensions.
        provenances: of the runs.
        title: heading.
        command: that makes these results.
        data: what is known of them.
        published: what others found, and where that is published.
    """
    mixtures = [f"- {escape(printable(one))}" for one in mixed_surroundings(provenances)]
    lines = [
        f"# {escape(title)}",
        "",
        f"- {escape(sentence(measured))}",
        *([f"- Published ({escape(published[0])}): {published[1]:,}."] if published else []),
        "",
        "![accuracy against dimensions](accuracy.png)",
        "",
        *table(*cells(measured)),
        "",
        "Final accuracy: mean over seeds, with a 95 % Student's t interval in brackets. The estimate is where a "
        "monotone fit of the means (isotonic regression), interpolated in the logarithm of the dimensions, meets "
        "the threshold; its interval is that of percentiles of a bootstrap over the seeds of each number of "
        "dimensions, and too narrow with few seeds.",
        "",
        *mixtures,
        f"- Data: {settings.data} ({escape(data)}); {settings.epochs} epochs, batches of {settings.batch_size}, "
        f"Adam with learning rate {settings.lr:g}, projection {settings.subspace.projection}.",
        f"- Made by: {code(command)}",
        f"- With: {escape(made_with(provenances))}.",
        "",
    ]
    return "\n".join(lines)
