"""What commands show: a study's plan, tables, pictures and report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from weight_feedback.files import tell, write_atomically
from weight_feedback.lab.commands.options import suffix
from weight_feedback.lab.commands.terminal import RunDisplay, duration, print_table, print_text
from weight_feedback.lab.report.figures import figures, save
from weight_feedback.lab.report.markdown import arm_cells, failures, markdown, mixtures, swap_cells, trained_on
from weight_feedback.lab.report.page import page
from weight_feedback.lab.report.plots import plot_means, plot_values
from weight_feedback.lab.statistics.analysis import Analysis, analyse
from weight_feedback.lab.statistics.gate import ranges
from weight_feedback.lab.statistics.outcomes import ArmResult, headed, study_outcome, with_unit
from weight_feedback.lab.statistics.sensitivity import Sensitivity
from weight_feedback.lab.store.readable import Readable
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.scripts import is_script
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.loading import BUILT_IN

if TYPE_CHECKING:  # as training imports torch, and reports don't
    from weight_feedback.lab.execution.planning import PlannedArm


#: Failures that are told of where nothing else came out.
MOST_FAILED = 3


def draw(
    console: Console,
    study: Study,
    store: Store,
    command: str,
    arms: Sequence[str] | None = None,
    folder: Path | None = None,
) -> None:
    """Print the table of arms, and draw the compared metric per epoch.

    Args:
        console: where to print.
        study: arms × seeds.
        store: what is finished.
        command: that makes the results.
        arms: names of the arms to draw, in this order; default: all.
        folder: where the pictures go; default: the study's.

    Raises:
        ValueError: nothing is finished, results come from different data, or the pictures can't
            be written there.
    """
    analysis = analyse(study, store, command=command)
    if analysis.mixed:
        raise ValueError(f"{store.folder}: {analysis.mixed}, and can't be drawn together")
    results = {result.arm.name: result for result in _finished(analysis, store, command)}
    shown = [results[name] for name in arms or results if name in results]
    if not shown:
        raise ValueError(_nothing(store, command))
    print_table(console, study.title, *arm_cells(study, shown))
    with _written_to(folder or store.folder) as goal:
        _draw(console, study, shown, goal / f"{study.judged}{suffix(arms)}")


def _draw(console: Console, study: Study, shown: Sequence[ArmResult], stem: Path) -> None:
    pictures = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    declared = [result.arm.label for result in shown if result.arm.name in study.declared_arms]
    metric = study.reported[study.judged]
    axis = headed(study.label(study.judged), metric.unit)
    curves = {result.arm.label: result.curves[study.judged] for result in shown}
    if max(result.epochs for result in shown) > 1:
        lacking = plot_means(curves, study.title, axis, pictures, declared)
    else:
        values = {label: curve[:, -1] for label, curve in curves.items()}
        lacking = plot_values(values, study.title, axis, pictures, declared)
    print_text(console, "pictures: " + ", ".join(map(str, pictures)))
    if lacking:
        print_text(console, f"note: the font of these pictures lacks {lacking}: boxes are in their place")


def _finished(analysis: Analysis, store: Store, command: str) -> list[ArmResult]:
    finished = [result for result in analysis.arms if result.seeds]
    if not finished:
        failed = failures(analysis)
        if not failed:
            raise ValueError(_nothing(store, command))
        told = [
            *failed[:MOST_FAILED],
            f"Their tracebacks are in {store.folder / 'failures'}; {command} tries again.",
        ]
        raise ValueError("\n".join([f"all {len(failed)} trials that were run failed:", *told]))
    return finished


def _nothing(store: Store, command: str) -> str:
    return f"no finished trials in {store.folder}; expected some: {command} makes them"


@contextmanager
def _written_to(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    except OSError as error:
        raise ValueError(
            f"{tell(error)}\nThe results themselves are as they were; `weight-feedback report` and `plot` write to "
            "another folder with --to DIR"
        ) from error


def present(
    console: Console,
    study: Study,
    store: Store,
    command: str,
    folder: Path | None = None,
    peek: bool = False,
    arms: Sequence[str] | None = None,
) -> Analysis:
    """Print a study's tables and verdicts, draw its pictures, and write its report.

    Args:
        console: where to print.
        study: arms × seeds.
        store: what is finished.
        command: that makes the results of all arms, for the report.
        folder: where pictures and report go; default: the study's.
        peek: see `analyse`.
        arms: names of those to show; default: all. With some, files have their names in theirs, so that they stand
            beside the report of all.

    Returns:
        All of it, as numbers.

    Raises:
        ValueError: nothing is finished, or pictures and report can't be written there.
    """
    analysis = analyse(study, store, command=command, peek=peek, arms=arms)
    shown = _finished(analysis, store, command)
    # A verdict on some arms is of a family: it takes the others' trials, too.
    if len(analysis.arms) < len(study.arms) and not (arms and study.declared):
        command += " --arms " + " ".join(result.arm.name for result in analysis.arms)
    if analysis.extended > study.seeds:
        command += f" --seeds {analysis.extended}"
    print_table(console, study.title, *arm_cells(study, shown, means=not analysis.mixed))
    if analysis.swaps:
        print_table(console, "in evaluation alone", *swap_cells(analysis))
    for sentence in (
        *filter(None, [analysis.choice]),
        *failures(analysis),
        *mixtures(analysis),
        *analysis.sentences,
        *analysis.notes,
        *([] if study.declared else ["Nothing is declared, so there are no contrasts and no verdicts."]),
    ):
        print_text(console, sentence)
    with _written_to(folder or store.folder) as goal:
        names, end = {}, suffix(arms)
        if not analysis.mixed:
            _draw(console, study, shown, goal / f"{study.judged}{end}")
            names["means"] = f"{study.judged}{end}.png"
        made = figures(analysis)
        for figure in made:
            save(figure, goal / f"figures{end}")
        names |= {figure.name: f"figures{end}/{figure.name}.png" for figure in made}
        report, html = goal / f"report{end}.md", goal / f"report{end}.html"
        write_atomically(report, markdown(analysis, command, names).encode())
        write_atomically(html, page(analysis, made, command).encode())
    print_text(
        console,
        "\n".join(
            [
                *([f"data:     {data}"] if (data := trained_on(analysis)) else []),
                *([f"failed:   {store.folder / 'failures'}"] if any(one.failed for one in analysis.arms) else []),
                f"report:   {html}, {report}",
                f"trials:   {store.trials}",
            ]
        ),
    )
    return analysis


def running(given: str, study: Study, trust: bool = False) -> str:
    """Return what runs a study: a command, or Python where no command can.

    Args:
        given: as people name the study.
        study: arms × seeds.
        trust: whether it is run although it is a file that names code.
    """
    named = given.endswith(".toml") and study.task not in BUILT_IN
    if study.task in BUILT_IN or is_script(given) or named:
        return shlex.join(["weight-feedback", "run", given, *(["--trust"] if named or trust else [])])
    return f"lab.run in Python, with the task {study.task}"


def run(study: Study, store: Store | None = None, **options: Any) -> int:
    """Run what is missing of a study; a terminal or a notebook shows how far it is.

    Args:
        study: arms × seeds.
        store: what is finished, and where to keep what is run; default: the folder of the study's name in
            ``results``.
        options: ``jobs``, ``seeds``, ``arms``, ``device``, ``data_dir``, ``retries`` and others; see ``run`` of
            ``weight_feedback.lab.execution.runner``.

    Returns:
        How many trials were run, those that failed among them.

    Raises:
        ValueError: it can't be run so; see there.
    """
    from weight_feedback.lab.execution import runner

    console = Console(soft_wrap=True)
    if "watcher" in options or not (console.is_terminal or console.is_jupyter):
        return runner.run(study, store, **options)
    with RunDisplay(console, study.name) as shown:
        return runner.run(study, store, watcher=shown, **options)


def report(study: Study, store: Store | None = None, *, peek: bool = False) -> Analysis:
    """Print what a study found, and write its report, pictures and text, beside its results.

    Args:
        study: arms × seeds.
        store: what is finished; default: the folder of the study's name in ``results``.
        peek: show differences before all trials of a declared study are there; that is kept with the results.

    Returns:
        All of it, as numbers.

    Raises:
        ValueError: nothing is finished, or the report can't be written there.
    """
    console, known = Console(soft_wrap=True), store or Store.of(study)
    shown = Readable(known.folder, lambda line: print_text(console, line, "bold red"))
    return present(console, study, shown, running(study.name, study), peek=peek)


def print_plan(
    console: Console,
    study: Study,
    arms: Sequence[PlannedArm],
    shown: Sensitivity | None,
    sd: float | None,
    jobs: int,
    seeds: int | None = None,
) -> None:
    """Print what a study will take.

    Args:
        console: where to.
        study: arms × seeds.
        arms: of `plan`.
        shown: of `sensitivity`.
        sd: standard deviation of the paired differences, if one is known.
        jobs: trials side by side.
        seeds: another number of them than the study's.
    """
    print_table(
        console,
        study.title,
        ("arm", "parameters", "trials", "time of a trial"),
        [
            [
                arm.name,
                "–" if arm.parameters is None else f"{arm.parameters:,}",
                str(arm.trials),
                "–" if arm.seconds is None else duration(arm.seconds),
            ]
            for arm in arms
        ],
    )
    trials, known = sum(arm.trials for arm in arms), [arm.trials * arm.seconds for arm in arms if arm.seconds]
    takes = f"about {duration(sum(known) / jobs)} of training" if len(known) == len(arms) else "an unknown time"
    console.print(f"{trials} trials, {takes} with {jobs} side by side")
    declared = study.declared
    if declared is None:
        console.print("Nothing is declared: there will be no contrasts and no verdicts.")
        return
    outcome = study_outcome(study)
    contrasts = ", ".join(f"{a} − {b}" for a, b in declared.primary)
    console.print(
        f"Primary contrasts: {contrasts}; {outcome.title}, equivalent within "
        f"±{with_unit(f'{declared.margin:g}', outcome.differences)}, "
        f"confidence {declared.confidence:g}, seeds {ranges(study.seed_numbers())}. "
        f"Declaration: {study.declaration()}.",
        markup=False,
    )
    if declared.why:
        print_text(console, f"That margin because: {declared.why}")
    if left_out := sorted(study.declared_arms - {arm.name for arm in arms}):
        console.print(f"Verdicts need the other arms of the declared contrasts, too: {', '.join(left_out)}.")
        return
    if seeds not in (None, study.seeds):
        console.print(
            f"Declared are {study.seeds} seeds: without all of them there are no verdicts; more are exploratory."
        )
    if shown is None:
        console.print("A single seed gives no verdicts.")
        return
    scale, unit = (
        (1.0, "standard deviations of the paired differences") if sd is None else (sd, outcome.differences)
    )
    detects = _can(
        f"detects a true difference of {scale * shown.family:.2g} {unit} at Holm's strictest level, of "
        f"{scale * shown.alone:.2g} at its mildest",
        shown.family,
        "a difference",
        shown.least,
    )
    shows = _can(
        f"shows equivalence, of arms that don't differ, within ±{scale * shown.equivalence:.2g}",
        shown.equivalence,
        "equivalence",
        shown.least_equivalence,
    )
    console.print(f"With {seeds or study.seeds} seeds and 80 % power: {detects}; {shows}.", markup=False)
    if sd is None and not math.isnan(shown.equivalence):
        most = declared.margin / shown.equivalence
        console.print(
            f"So the margin of ±{declared.margin:g} needs a standard deviation of at most "
            f"{with_unit(f'{most:.2g}', outcome.differences)}; --sd takes the one that you expect."
        )


def _can(words: str, size: float, claim: str, least: int | None) -> str:
    """Return what can be shown, or how many seeds it would take to show anything of the kind."""
    if not math.isnan(size):
        return words
    return f"can't show {claim} at all, which takes {'more than any number of' if least is None else least} seeds"
