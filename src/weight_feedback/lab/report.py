"""What a study found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weight_feedback.lab.estimates import Interval, best, final, mean_interval
from weight_feedback.lab.spec import Study
from weight_feedback.lab.store import Record
from weight_feedback.lab.verdicts import Estimate, estimate, verdicts


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
                    mean_interval(final(accuracy)),
                    mean_interval(best(accuracy)),
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


class Compared(NamedTuple):
    """One contrast, arm ``a`` minus arm ``b``, paired by seed.

    Attributes:
        a: name of the arm.
        b: name of the arm that it is compared with.
        primary: whether it was declared before the run; only then it gets a verdict.
        estimate: what the pairs say, in percentage points of final accuracy.
    """

    a: str
    b: str
    primary: bool
    estimate: Estimate


def compare(study: Study, records: Mapping[str, Sequence[Record]]) -> list[Compared]:
    """Estimate the declared contrasts, and each arm against each arm that these compare with.

    Args:
        study: arms × seeds, and what is declared of them.
        records: arm name to its trials.

    Returns:
        The primary contrasts in the order of their declaration, then the others in the order of the arms; none for
        a study that declares nothing. Contrasts without a pair of trials are left out.
    """
    if study.declared is None:
        return []
    pairs = dict.fromkeys(study.declared.primary)
    for reference in dict.fromkeys(b for _, b in study.declared.primary):
        for arm in study.arms:
            # Each pair of arms once, whichever way round.
            if arm.name != reference and (reference, arm.name) not in pairs:
                pairs.setdefault((arm.name, reference))
    found = []
    for a, b in pairs:
        left, right = (_final_by_seed(study, records.get(name, ())) for name in (a, b))
        contrast = estimate(left, right, study.declared.margin, study.declared.confidence)
        if contrast.n:
            found.append(Compared(a, b, (a, b) in study.declared.primary, contrast))
    return found


def decide(study: Study, compared: Sequence[Compared], finished: int) -> list[str]:
    """Return one sentence for each primary contrast: its verdict.

    Args:
        study: arms × seeds, and what is declared of them.
        compared: of `compare`.
        finished: how many of the study's trials are finished.

    Returns:
        The verdicts; before all trials are finished, one sentence that says so, since looking early and stopping
        when one likes the outcome would spoil the error rates.
    """
    if study.declared is None:
        return []
    trials = study.seeds * len(study.arms)
    if finished < trials:
        return [f"No verdicts yet: {finished} of {trials} trials are finished."]
    family = {f"{row.a} - {row.b}": row.estimate for row in compared if row.primary}
    found = verdicts(family, study.declared.margin, study.declared.confidence)
    return [found[f"{row.a} - {row.b}"].sentence(row.a, row.b) for row in compared if row.primary]


def _final_by_seed(study: Study, records: Sequence[Record]) -> NDArray[np.float64]:
    """Return final accuracy in percent, shape ``[seeds]``, NaN where there is no trial."""
    outcome = np.full(study.seeds, np.nan)
    if records:
        outcome[[record.result["trial"]["seed"] for record in records]] = final(accuracies(records))
    return outcome


def contrast_cells(compared: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Return the table of contrasts as text.

    Args:
        compared: of `compare`.

    Returns:
        Headings, and one list of cells a row.
    """
    headings = [
        "contrast",
        "declared",
        "pairs",
        "difference, points",
        "BCa interval",
        "sign-flip p",
        "d_z",
        "P(A > B)",
    ]
    body = [
        [
            f"{row.a} − {row.b}",
            "yes" if row.primary else "no",
            str(row.estimate.n),
            _interval(row.estimate.t, 3),
            *(
                cell.replace("[nan, nan]", "-").replace("nan", "-")
                for cell in (
                    f"[{row.estimate.bca.low:.3f}, {row.estimate.bca.high:.3f}]",
                    f"{row.estimate.flip_p:.4f}",
                    f"{row.estimate.d_z:.2f}",
                    f"{row.estimate.superiority:.2f}",
                )
            ),
        ]
        for row in compared
    ]
    return headings, body


def markdown(
    study: Study, rows: Sequence[Row], compared: Sequence[Compared], sentences: Sequence[str], command: str,
    provenance: Mapping[str, Any], pictures: Sequence[str],
) -> str:  # fmt: skip
    """Return a short report of a study in Markdown.

    Args:
        study: arms × seeds.
        rows: of `summarise`.
        compared: of `compare`.
        sentences: of `decide`.
        command: that makes these results.
        provenance: of one of the trials.
        pictures: file names of the pictures: accuracy per epoch, and the contrasts if there are any.
    """
    lines = [f"# {study.title}", ""]
    if study.declared is not None:
        lines += [*(f"- {_escape(sentence)}" for sentence in sentences), ""]
        lines += [f"![contrasts of final accuracy, paired by seed]({pictures[1]})", ""] if compared else []
        lines += [
            *_table(*contrast_cells(compared)),
            "",
            "Differences of final accuracy in percentage points, paired by seed, with "
            f"{study.declared.confidence:.0%} Student's t intervals in brackets. Only declared contrasts get a "
            "verdict; p-values in the table aren't corrected for their number. Margin of equivalence: "
            f"±{study.declared.margin:g} points. Declaration: `{study.declaration()}`.",
            "",
        ]
    lines += [
        f"![accuracy per epoch]({pictures[0]})",
        "",
        *_table(*cells(rows)),
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


def _table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * len(headings)}",
        *(f"| {' | '.join(_escape(cell) for cell in row)} |" for row in body),
    ]


def _interval(interval: Interval, digits: int) -> str:
    if np.isnan(interval.low):
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
