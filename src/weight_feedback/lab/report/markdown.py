"""What a study found, as tables of text and as a short report in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weight_feedback.lab.data.published import described
from weight_feedback.lab.statistics.analysis import HEARD, Analysis, Swapped
from weight_feedback.lab.statistics.contrasts import Compared
from weight_feedback.lab.statistics.estimates import Interval
from weight_feedback.lab.statistics.outcomes import ArmResult
from weight_feedback.lab.statistics.verdicts import level
from weight_feedback.lab.store.provenance import mixed_surroundings
from weight_feedback.untrusted import printable


def arm_cells(arms: Sequence[ArmResult], means: bool = True) -> tuple[list[str], list[list[str]]]:
    """Return the table of arms as text.

    Args:
        arms: those to show.
        means: whether to show what came out of them; dashes otherwise.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = ["arm", "parameters", "seeds", "final accuracy %", "best epoch %", "final test loss"]
    body = [
        [
            result.arm.label,
            f"{result.parameters:,}",
            str(len(result.seeds)),
            *(
                [interval(result.final, 2), interval(result.best, 2), interval(result.final_loss, 4)]
                if means
                else ["–"] * 3
            ),
        ]
        for result in arms
        if result.seeds
    ]
    return headings, body


def contrast_cells(contrasts: Sequence[Compared], unit: str = "points") -> tuple[list[str], list[list[str]]]:
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
        f"difference, {unit}",
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
            interval(row.estimate.t, 3),
            number(row.estimate.flip_p, 4),
            number(row.judged.flip_p if row.judged else np.nan, 4),
            number(row.judged.tost_p if row.judged else np.nan, 4),
            number(row.estimate.d_z, 2),
            number(row.estimate.superiority, 2),
            number(row.estimate.detectable, 3),
        ]
        for row in contrasts
    ]
    return headings, body


def swap_cells(swaps: Sequence[Swapped]) -> tuple[list[str], list[list[str]]]:
    """Return the table of swaps as text.

    Args:
        swaps: of an analysis.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = ["arm", "hears in evaluation", "seeds", "accuracy %", "change, points"]
    body = [
        [
            swap.arm,
            HEARD[swap.heard],
            str(len(swap.changes)),
            interval(swap.accuracy, 2),
            interval(swap.change, 3),
        ]
        for swap in swaps
    ]
    return headings, body


def number(value: float, digits: int) -> str:
    """Return a number as text, with a real minus sign; a dash for NaN.

    Args:
        value: the number.
        digits: after the point.
    """
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


def failures(arms: Sequence[ArmResult]) -> list[str]:
    """Return one sentence for each trial that diverged or failed.

    Args:
        arms: of an analysis.
    """
    sentences = []
    for result in arms:
        for seed, step in result.diverged.items():
            sentences.append(f"{result.arm.name}, seed {seed}: diverged at step {step}; counted as chance.")
        for seed, reason in result.failed.items():
            first = printable(reason.partition("\n")[0])
            sentences.append(f"{result.arm.name}, seed {seed}: failed ({first}); missing from all estimates.")
    return sentences


SPEAKS_OF = (
    "Seeds are all that was drawn anew: intervals and verdicts speak of this test set, with this training set, and "
    "not of what others would give."
)
"""What intervals cover, and what they don't."""


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
        f"that diverges counts {analysis.outcome.diverged}."
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
        pictures: file names of the pictures ``accuracy`` and, where there are contrasts, ``forest``; those that
            are left out aren't shown.
    """
    study = analysis.study
    lines = [f"# {escape(study.title)}", ""]
    if analysis.choice:
        lines += [escape(analysis.choice), ""]
    lines += _contrasts(analysis, pictures)
    if "accuracy" in pictures:
        lines += [f"![accuracy per epoch]({pictures['accuracy']})", ""]
    lines += [
        *table(*arm_cells(analysis.arms, means=not analysis.mixed)),
        "",
        "Means over seeds with 95 % Student's t intervals in brackets; a single seed has none. "
        "These intervals are of each arm by itself: whether arms differ is a question for differences "
        "paired by seed.",
        "",
        *_swaps(analysis),
        *(f"- {escape(sentence)}" for sentence in (*failures(analysis.arms), *mixtures(analysis))),
        f"- Data: {study.data} ({escape(trained_on(analysis))}); {study.training.epochs} epochs, "
        f"batches of {study.training.batch_size}, SGD with learning rate {study.training.lr:g} and "
        f"momentum {study.training.momentum:g}.",
        f"- Made by: {code(command)}",
        f"- With: {escape(made_with(analysis.provenance))}.",
        "",
    ]
    return "\n".join(lines)


def trained_on(analysis: Analysis) -> str:
    """Say of which fingerprint the data are, and whether they are the published ones.

    Args:
        analysis: of at least one finished trial.
    """
    return "; ".join(described(analysis.study.data, one) for one in sorted(analysis.data))


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
    lines = [*(f"- {escape(sentence)}" for sentence in analysis.sentences), ""]
    if not analysis.contrasts:
        return [*lines, *_declaration(analysis)]
    if "forest" in pictures:
        lines += [f"![differences of {outcome.title}, paired by seed]({pictures['forest']})", ""]
    lines += [
        *table(*contrast_cells(analysis.contrasts, outcome.unit)),
        "",
        f"Differences of {outcome.title} in {outcome.unit}, paired by seed, with "
        f"{100 * study.declared.confidence:g} % Student's t intervals in brackets, each by itself; a verdict's has "
        "the level at which Holm's correction tests it. Only declared contrasts get a verdict, and "
        "adjusted p-values. Detectable is the true difference that this many seeds find with 80 % power at the "
        "strictest of these levels, at the spread seen; a dash means that they are too few. "
        f"{error_rates(analysis)}",
        "",
        SPEAKS_OF,
        "",
        *_declaration(analysis),
    ]
    if analysis.exploratory:
        lines += [
            f"Exploratory, with {analysis.extended} seeds, of which {study.seeds} were declared: estimates without "
            "verdicts.",
            "",
            *table(*contrast_cells(analysis.exploratory, outcome.unit)),
            "",
        ]
    return lines


def _declaration(analysis: Analysis) -> list[str]:
    study, declared = analysis.study, analysis.study.declared
    assert declared is not None
    why = f" ({escape(declared.why)})" if declared.why else ""
    return [
        f"Margin of equivalence: ±{declared.margin:g} {analysis.outcome.unit}{why}; "
        f"{escape(analysis.passed.seeds)}. Declaration: `{study.declaration()}`.",
        "",
    ]


def _swaps(analysis: Analysis) -> list[str]:
    if not analysis.swaps:
        return []
    return [
        *table(*swap_cells(analysis.swaps)),
        "",
        "What the trained networks are worth when, in evaluation alone, they hear something else; changes of final "
        "accuracy, paired by seed.",
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
