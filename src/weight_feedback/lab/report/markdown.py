"""What a study found, as tables of text and as a short report in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.data.published import described
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.contrasts import Compared
from weight_feedback.lab.statistics.estimates import Interval, best, final
from weight_feedback.lab.statistics.outcomes import (
    OPTIMISTIC,
    ArmResult,
    digits_of,
    diverged_counts,
    headed,
    mean_there,
    with_unit,
)
from weight_feedback.lab.statistics.verdicts import level
from weight_feedback.lab.store.provenance import mixed_surroundings
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.base import CODE
from weight_feedback.untrusted import printable


def arm_cells(study: Study, arms: Sequence[ArmResult], means: bool = True) -> tuple[list[str], list[list[str]]]:
    """Return the table of arms as text.

    Args:
        study: whose arms they are.
        arms: those to show.
        means: whether to show what came out of them; dashes otherwise.

    Returns:
        Headings, and one list of cells a row.
    """
    there = [result for result in arms if result.seeds]
    facts = list(dict.fromkeys(name for result in there for name in result.facts))
    columns: dict[str, list[str]] = {}
    for name, metric in study.reported.items():
        label, digits = study.label(name), digits_of(metric, [result.curves[name] for result in there])
        finals = [final(result.curves[name]) for result in there]
        columns[headed(f"final {label}", metric.unit)] = [_mean(values, digits) for values in finals]
        if name == study.judged and any(result.epochs > 1 for result in there):
            bests = [best(result.curves[name], metric.better == "higher") for result in there]
            columns[headed(f"best {label} ({OPTIMISTIC})", metric.unit)] = [_mean(x, digits) for x in bests]
    body = [
        [
            result.arm.label,
            *(_fact(result.facts.get(name)) for name in facts),
            str(len(result.seeds)),
            *(column[row] if means else "–" for column in columns.values()),
        ]
        for row, result in enumerate(there)
    ]
    return ["arm", *facts, "seeds", *columns], body


def _fact(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _mean(values: NDArray[np.float64], digits: int) -> str:
    """Return a mean with its interval and, where some trials have no value, how many have one."""
    mean, n = mean_there(values)
    return interval(mean, digits) + (f" ({n} of {values.size})" if n < values.size else "")


def contrast_cells(contrasts: Sequence[Compared], unit: str = "") -> tuple[list[str], list[list[str]]]:
    """Return the table of contrasts as text.

    Args:
        contrasts: of an analysis.
        unit: of the differences.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = [
        "contrast",
        "declared",
        "pairs",
        headed("difference", unit),
        "sign-flip p",
        "adjusted p, difference",
        "adjusted p, equivalence",
        "d_z",
        "P(A > B)",
        "detectable",
    ]
    body = [
        [
            f"{row.a} − {row.b}",
            "yes" if row.primary else "no",
            str(row.estimate.n),
            interval(row.estimate.t, difference_digits(row.estimate.margin)),
            number(row.estimate.flip_p, 4),
            number(row.judged.flip_p if row.judged else np.nan, 4),
            number(row.judged.tost_p if row.judged else np.nan, 4),
            number(row.estimate.d_z, 2),
            number(row.estimate.superiority, 2),
            number(row.estimate.detectable, difference_digits(row.estimate.margin)),
        ]
        for row in contrasts
    ]
    return headings, body


def difference_digits(margin: float) -> int:
    """Return how many digits after the point tell differences of a hundredth of the margin apart.

    Args:
        margin: of equivalence.
    """
    return max(3, 2 - math.floor(math.log10(margin)))


def swap_cells(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Return the table of swaps as text.

    Args:
        analysis: with swaps.

    Returns:
        Headings, and one list of cells a row.
    """
    name = analysis.study.judged
    metric = analysis.study.reported[name]
    digits = digits_of(metric, [np.array([swap.value.mean for swap in analysis.swaps])])
    headings = [
        "arm",
        "evaluated under",
        "seeds",
        headed(analysis.study.label(name), metric.unit),
        headed("change", metric.differences),
    ]
    body = [
        [
            swap.arm,
            swap.under,
            str(len(swap.changes)),
            interval(swap.value, digits),
            interval(swap.change, digits + 1),
        ]
        for swap in analysis.swaps
    ]
    return headings, body


#: After the point; numbers that need more are written with a power of ten.
MOST_DIGITS = 9


def number(value: float, digits: int) -> str:
    """Return a number as text, with a real minus sign; a dash for NaN.

    Args:
        value: the number.
        digits: after the point.
    """
    if digits > MOST_DIGITS and not np.isnan(value):
        return f"{value:.4g}".replace("-", "−")
    # Adding 0 makes −0, which small negative numbers are rounded to, 0.
    return "–" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(value: Interval, digits: int) -> str:
    """Return a mean and its interval as text; the mean alone where there is no interval.

    Args:
        value: both.
        digits: after the point.
    """
    if np.isnan(value.low):
        return number(value.mean, digits)
    return f"{number(value.mean, digits)} [{number(value.low, digits)}, {number(value.high, digits)}]"


def failures(analysis: Analysis) -> list[str]:
    """Return one sentence for each trial that diverged or failed.

    Args:
        analysis: of a study.
    """
    sentences = []
    for result in analysis.arms:
        for seed, when in result.diverged.items():
            counts = diverged_counts(analysis.study, [result])
            sentences.append(f"{result.arm.name}, seed {seed}: diverged at {printable(when)}; counts {counts}.")
        for seed, reason in result.failed.items():
            first = printable(reason.partition("\n")[0])
            sentences.append(f"{result.arm.name}, seed {seed}: failed ({first}); missing from all estimates.")
    return sentences


def speaks_of(study: Study) -> str:
    """Return what intervals cover, and what they don't.

    Args:
        study: of which they are.
    """
    return (
        "Seeds are all that was drawn anew: intervals and verdicts speak of what holds "
        f"{study.kind.scope}, and not of what others would give."
    )


def in_unit(unit: str) -> str:
    """Return words on the unit of differences, with a space in front; nothing without one.

    Args:
        unit: of them.
    """
    return f" in {unit}" if unit else ""


def error_rates(analysis: Analysis) -> str:
    """Say how often the verdicts of a study may be wrong, and how its outcome counts divergence.

    Args:
        analysis: of a study that declares something.
    """
    declared = analysis.study.declared
    assert declared is not None
    rate = 100 * level(declared.confidence)
    chance = (
        f"at most {rate:g} % for any false claim of a difference, likewise of equivalence; at most {2 * rate:g} % "
        "for both together"
        if declared.error == "each"
        else f"at most {rate:g} % for any false claim, of a difference or of equivalence; adjusted p-values are "
        f"compared with {rate / 200:g}"
    )
    return (
        f"Error rates, where differences are about as likely on either side of their mean: {chance}. The tests "
        "decide; an interval, which is Student's, can be a little wider or narrower than what they say. A trial "
        f"that diverges counts {diverged_counts(analysis.study, analysis.arms)}."
        + (f" {analysis.outcome.note}" if analysis.outcome.note else "")
    )


def mixtures(analysis: Analysis) -> list[str]:
    """Return one sentence for each thing that bits depend on and that differs between trials.

    Args:
        analysis: of at least one finished trial.
    """
    return [printable(sentence) for sentence in mixed_surroundings(analysis.provenance)]


def markdown(analysis: Analysis, command: str, pictures: Mapping[str, str]) -> str:
    """Return a short report of a study in Markdown.

    Args:
        analysis: what was found.
        command: that makes these results.
        pictures: file names of the pictures ``means`` and, where there are contrasts, ``forest``; those that are
            left out aren't shown.
    """
    study = analysis.study
    label = study.label(study.judged)
    lines = [f"# {escape(study.title)}", ""]
    if analysis.choice:
        lines += [escape(analysis.choice), ""]
    lines += _contrasts(analysis, pictures)
    if "means" in pictures:
        lines += [f"![{escape(label)} per epoch]({pictures['means']})", ""]
    lines += [
        *table(*arm_cells(study, analysis.arms, means=not analysis.mixed)),
        "",
        "Means over seeds with 95 % Student's t intervals in brackets; a single seed has none. "
        "These intervals are of each arm by itself: whether arms differ is a question for differences "
        "paired by seed.",
        "",
        *_swaps(analysis),
        *(f"- {escape(sentence)}" for sentence in (*failures(analysis), *mixtures(analysis))),
        *(f"- {escape(line)}" for line in (data_line(analysis),) if line),
        f"- Made by: {code(command)}",
        f"- With: {escape(made_with(analysis.provenance))}.",
        "",
    ]
    return "\n".join(lines)


def trained_on(analysis: Analysis) -> str:
    """Say which data trials come from, of which fingerprint, and whether they are the published ones.

    Args:
        analysis: of at least one finished trial.
    """
    return "; ".join(
        f"{printable(name)} ({'; '.join(described(name, one) for one in sorted(found))})"
        for name, found in analysis.data.items()
        if name != CODE
    )


def code_of(analysis: Analysis) -> str:
    """Return the first digits of the digest of the code that trials were run with; empty where none is known.

    Args:
        analysis: of at least one finished trial.
    """
    return "; ".join(printable(digest)[:16] for digest in sorted(analysis.data.get(CODE, {})))


def data_line(analysis: Analysis) -> str:
    """Return what trials were trained on and with, in a sentence; empty if nothing is known.

    Args:
        analysis: of at least one finished trial.
    """
    data, shared = trained_on(analysis), analysis.study.kind.summary(analysis.study.shared_values())
    said = [f"Data: {data}"] if data else []
    said += [shared if data else f"Settings: {shared}"] if shared else []
    if digest := code_of(analysis):
        said.append(f"{'code' if said else 'Code'}: digest {digest}")
    return f"{'; '.join(said)}." if said else ""


def made_with(provenances: Sequence[Mapping[str, Any]]) -> str:
    """Return versions, devices and threads, each value that occurs in any trial.

    Args:
        provenances: of finished trials, at least one.
    """

    def values(name: str) -> str:
        return printable(" and ".join(sorted({str(one[name]) for one in provenances})))

    return (
        f"weight-feedback {values('weight_feedback')}, torch {values('torch')}, Python {values('python')}, "
        f"device {values('device')}, threads a trial: {values('threads')}"
    )


def _contrasts(analysis: Analysis, pictures: Mapping[str, str]) -> list[str]:
    study, outcome = analysis.study, analysis.outcome
    if study.declared is None:
        return []
    lines = [*(f"- {escape(sentence)}" for sentence in (*analysis.sentences, *analysis.notes)), ""]
    if not analysis.contrasts:
        return [*lines, *_declaration(analysis)]
    if "forest" in pictures:
        lines += [f"![differences of {outcome.title}, paired by seed]({pictures['forest']})", ""]
    lines += [
        *table(*contrast_cells(analysis.contrasts, outcome.differences)),
        "",
        f"Differences of {outcome.title}{in_unit(outcome.differences)}, paired by seed, with "
        f"{100 * study.declared.confidence:g} % Student's t intervals in brackets, each by itself; a verdict's has "
        "the level at which Holm's correction tests it. Only declared contrasts get a verdict, and "
        "adjusted p-values. Detectable is the true difference that this many seeds find with 80 % power at the "
        "strictest of these levels, at the spread seen; a dash means that they are too few. "
        f"{error_rates(analysis)}",
        "",
        speaks_of(study),
        "",
        *_declaration(analysis),
    ]
    if analysis.exploratory:
        lines += [
            f"Exploratory, with {analysis.extended} seeds, of which {study.seeds} were declared: estimates without "
            "verdicts.",
            "",
            *table(*contrast_cells(analysis.exploratory, outcome.differences)),
            "",
        ]
    return lines


def _declaration(analysis: Analysis) -> list[str]:
    study, declared = analysis.study, analysis.study.declared
    assert declared is not None
    why = f" ({escape(declared.why)})" if declared.why else ""
    return [
        f"Margin of equivalence: ±{with_unit(f'{declared.margin:g}', analysis.outcome.differences)}{why}; "
        f"{escape(analysis.passed.seeds)}. Declaration: `{study.declaration()}`.",
        "",
    ]


def _swaps(analysis: Analysis) -> list[str]:
    if not analysis.swaps:
        return []
    return [
        *table(*swap_cells(analysis)),
        "",
        "What the trained models are worth when they are evaluated under something else; changes of the final "
        "value, paired by seed.",
        "",
    ]


def table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown.

    Args:
        headings: of the columns.
        body: rows of cells.
    """
    return [
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * len(headings)}",
        *(f"| {' | '.join(escape(cell) for cell in row)} |" for row in body),
    ]


def escape(text: str) -> str:
    """Return text that is one line of Markdown and no markup: no cells, tags, code, emphasis, formulas or links.

    Args:
        text: whatever it contains.
    """
    return " ".join(text.split()).translate(_ESCAPES).replace("](", "]\\(")


# Backslashes, but for what begins a tag or an entity.
_ESCAPES = str.maketrans({**{c: f"\\{c}" for c in "\\|`*_~$"}, "&": "&amp;", "<": "&lt;"})


def code(text: str) -> str:
    """Return text as code in a line of Markdown, between more backticks than it has in a row.

    Args:
        text: whatever it contains.
    """
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
