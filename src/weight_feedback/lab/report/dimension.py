"""How many dimensions a task needs, as a table of text and as a short report in Markdown."""

from __future__ import annotations

from weight_feedback.lab.report.markdown import (
    code,
    data_line,
    escape,
    failures,
    interval,
    made_with,
    mixtures,
    number,
    table,
)
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.dimension import Measured
from weight_feedback.lab.statistics.estimates import mean_interval
from weight_feedback.lab.statistics.outcomes import digits_of, with_unit
from weight_feedback.lab.tasks.base import Metric


def cells(measured: Measured, metric: Metric, label: str) -> tuple[list[str], list[list[str]]]:
    """Return the table of dimensions as text.

    Args:
        measured: values, and what follows from them.
        metric: that was measured.
        label: of it.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = [
        "dimensions",
        "seeds",
        *(with_unit(x, metric.unit) for x in (f"final {label}", "monotone fit", "seeds, sorted")),
    ]
    digits = digits_of(metric, [*measured.values.values()])
    body = [
        [
            f"{d:,}",
            str(len(values)),
            interval(mean_interval(values), digits),
            number(fitted, digits),
            ", ".join(number(value, digits) for value in values),
        ]
        for (d, values), fitted in zip(measured.values.items(), measured.fitted, strict=True)
    ]
    return headings, body


def sentence(measured: Measured, metric: Metric, label: str) -> str:
    """Return the estimate in words.

    Args:
        measured: values, and what follows from them.
        metric: that was measured.
        label: of it.
    """
    counts = sorted({len(values) for values in measured.values.values()})
    least, most = counts[0], counts[-1]
    seeds = f"{least}" if least == most else f"{least} to {most}"
    seeds += " seed for each number" if most == 1 else " seeds for each number"
    how = f"{100 * measured.confidence:g} % bootstrap interval, {seeds}" if counts[-1] > 1 else seeds
    reached = with_unit(f"{measured.threshold:g}", metric.unit)
    return f"Least dimensions with {reached} {label}: {measured.estimate} ({how})."


def markdown(
    measured: Measured,
    analysis: Analysis,
    command: str,
    published: tuple[str, int] | None = None,
) -> str:
    """Return a short report in Markdown, which shows the picture that is called like the metric.

    Args:
        measured: values, and what follows from them.
        analysis: of the study whose arms are dimensions.
        command: that makes these results.
        published: what others found, and where that is published.
    """
    study = analysis.study
    metric = study.reported[study.judged]
    label = study.label(study.judged)
    lines = [
        f"# {escape(study.title)}",
        "",
        f"- {escape(sentence(measured, metric, f'test {label}'))}",
        *([f"- Published ({escape(published[0])}): {published[1]:,}."] if published else []),
        "",
        f"![{escape(label)} against dimensions]({study.judged}.png)",
        "",
        *table(*cells(measured, metric, label)),
        "",
        f"Final {escape(label)}: mean over seeds, with a 95 % Student's t interval in brackets. The estimate is "
        "where a monotone fit of the means (isotonic regression), interpolated in the logarithm of the dimensions, "
        "meets the threshold; its interval is that of percentiles of a bootstrap over the seeds of each number of "
        "dimensions, and too narrow with few seeds.",
        "",
        *(f"- {escape(line)}" for line in (*failures(analysis), *mixtures(analysis), data_line(analysis))),
        f"- Made by: {code(command)}",
        f"- With: {escape(made_with(analysis.provenance))}.",
        "",
    ]
    return "\n".join(lines)
