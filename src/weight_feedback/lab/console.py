"""What the command line shows: progress, tables, and a study's pictures and report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from weight_feedback.files import write_atomically
from weight_feedback.lab import datasets
from weight_feedback.lab.analysis import Analysis, analyse, study_outcome
from weight_feedback.lab.figures import figures, save
from weight_feedback.lab.page import page
from weight_feedback.lab.plan import PlannedArm, Sensitivity
from weight_feedback.lab.plots import plot_accuracy
from weight_feedback.lab.report import arm_cells, failures, markdown, swap_cells
from weight_feedback.lab.runner import OnProgress, cores, missing, run
from weight_feedback.lab.spec import Study
from weight_feedback.lab.store import Store
from weight_feedback.lab.trackers import Tracker


@contextmanager
def progress(console: Console, name: str, epochs: int) -> Iterator[OnProgress]:
    """Show progress: a bar in a terminal, a line for each tenth in a log file.

    Args:
        console: where to.
        name: of what is under way.
        epochs: all that there are to do.

    Yields:
        A function to call with the number of epochs done.
    """
    if not console.is_terminal:
        shown = 0

        def print_tenths(done: int) -> None:
            nonlocal shown
            if (tenths := done * 10 // max(epochs, 1)) > shown:
                shown = tenths
                console.print(f"{name}: {done}/{epochs} epochs", markup=False)

        yield print_tenths
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=epochs)
        yield lambda done: bar.update(task, completed=done)


def run_with_progress(
    console: Console,
    study: Study,
    store: Store,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    tracker: Tracker | None = None,
) -> None:
    """Run what is missing of a study, and show how far it is; say which trials failed.

    Args:
        console: where to.
        study: arms × seeds.
        store: what is finished, and where to keep what is run.
        arms: see `run`, here and below.
        seeds: of each arm.
        jobs: trials side by side.
        data_dir: where data files are.
        device: to train on.
        tracker: told of finished trials.
    """
    total = len(list(study.trials(arms, seeds)))
    todo = missing(study, store, arms, seeds)
    jobs = jobs or cores()
    console.print(
        f"{study.name}: {total} trials, {total - len(todo)} finished, {len(todo)} to run, {jobs} side by side"
    )
    with progress(console, study.name, len(todo) * study.training.epochs) as on_progress:
        run(
            study,
            store,
            arms=arms,
            seeds=seeds,
            jobs=jobs,
            data_dir=data_dir,
            device=device,
            tracker=tracker,
            on_progress=on_progress,
        )
    for _, trial in todo:
        if (reason := store.failure(trial)) is not None:
            console.print(f"failed: {trial.file_name}: {reason.splitlines()[0]}", markup=False, style="bold red")


def draw(console: Console, study: Study, store: Store, command: str, arms: Sequence[str] | None = None) -> Analysis:
    """Draw accuracy per epoch, and print the table of arms.

    Args:
        console: where to print.
        study: arms × seeds.
        store: what is finished, and where the pictures go.
        command: that makes the results.
        arms: names of the arms to draw, in this order; default: all.

    Returns:
        What was found, of all arms.

    Raises:
        ValueError: an arm is unknown, or nothing is finished.
    """
    analysis = analyse(study, store)
    results = {result.arm.name: result for result in analysis.arms if result.seeds}
    known = [arm.name for arm in study.arms]
    for name in arms or ():
        if name not in known:
            raise ValueError(f"--arms: expected names among {', '.join(known)}, got {name!r}")
    shown = [results[name] for name in arms or known if name in results]
    if not shown:
        raise ValueError(f"no finished trials in {store.folder}; expected some: {command} makes them")
    suffix = "" if arms is None else "-" + "-".join(result.arm.name for result in shown)
    pictures = [store.folder / f"accuracy{suffix}.{kind}" for kind in ("png", "svg")]
    plot_accuracy({result.arm.label: result.accuracy for result in shown}, study.title, pictures)
    print_table(console, study.title, *arm_cells(shown))
    console.print("pictures: " + ", ".join(map(str, pictures)), markup=False)
    return analysis


def present(console: Console, study: Study, store: Store, command: str) -> None:
    """Draw a study's pictures, write its report, and print its table and verdicts.

    Args:
        console: where to print.
        study: arms × seeds.
        store: what is finished, and where pictures and report go.
        command: that makes the results of all arms, for the report.

    Raises:
        ValueError: nothing is finished.
    """
    analysis = draw(console, study, store, command)
    if len(analysis.arms) < len(study.arms):
        command += " --arms " + " ".join(result.arm.name for result in analysis.arms)
    if analysis.extended > study.seeds:
        command += f" --seeds {analysis.extended}"
    made = figures(analysis)
    for figure in made:
        save(figure, store.folder / "figures")
    names = {"accuracy": "accuracy.png"} | {figure.name: f"figures/{figure.name}.png" for figure in made}
    report, html = store.folder / "report.md", store.folder / "report.html"
    write_atomically(report, markdown(analysis, command, names).encode())
    write_atomically(html, page(analysis, made, command).encode())
    if analysis.swaps:
        print_table(console, "in evaluation alone", *swap_cells(analysis.swaps))
    for sentence in (*failures(analysis.arms), *analysis.sentences):
        console.print(sentence, markup=False)
    console.print(f"report:   {html}, {report}\ntrials:   {store.trials}", markup=False)


def print_plan(
    console: Console,
    study: Study,
    arms: Sequence[PlannedArm],
    shown: Sensitivity | None,
    sd: float | None,
    jobs: int,
) -> None:
    """Print what a study will take.

    Args:
        console: where to.
        study: arms × seeds.
        arms: of `plan`.
        shown: of `sensitivity`.
        sd: standard deviation of the paired differences, if one is known.
        jobs: trials side by side.
    """
    print_table(
        console,
        study.title,
        ("arm", "parameters", "trials", "time of a trial"),
        [[arm.name, f"{arm.parameters:,}", str(arm.trials), _duration(arm.seconds)] for arm in arms],
    )
    trials, seconds = sum(arm.trials for arm in arms), sum(arm.trials * arm.seconds for arm in arms)
    console.print(f"{trials} trials, about {_duration(seconds / jobs)} with {jobs} side by side")
    declared = study.declared
    if declared is None:
        console.print("Nothing is declared: there will be no contrasts and no verdicts.")
        return
    outcome = study_outcome(study)
    contrasts = ", ".join(f"{a} − {b}" for a, b in declared.primary)
    console.print(
        f"Primary contrasts: {contrasts}; {outcome.title}, equivalent within ±{declared.margin:g} {outcome.unit}, "
        f"confidence {declared.confidence:g}. Declaration: {study.declaration()}.",
        markup=False,
    )
    if shown is None:
        console.print("A single seed gives no verdicts.")
        return
    scale, unit = (1.0, "standard deviations of the paired differences") if sd is None else (sd, outcome.unit)
    console.print(
        f"With {study.seeds} seeds and 80 % power: detects a true difference of {scale * shown.alone:.2g} {unit} "
        f"({scale * shown.family:.2g} at Holm's strictest level); shows equivalence, of arms that don't differ, "
        f"within ±{scale * shown.equivalence:.2g}.",
        markup=False,
    )
    if sd is None:
        most = declared.margin / shown.equivalence
        console.print(
            f"So the margin of ±{declared.margin:g} needs a standard deviation of at most {most:.2g} "
            f"{outcome.unit}; --sd takes the one that you expect."
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_table(console: Console, title: str, headings: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        console: where to.
        title: above the table.
        headings: of the columns.
        body: rows of cells.
    """
    table = Table(*headings, title=escape(title))
    for row in body:
        table.add_row(*map(escape, row))
    console.print(table)


def print_available(console: Console, data_dir: Path | None) -> None:
    """Print which data sets are here.

    Args:
        console: where to.
        data_dir: where to look; see `datasets.load`.
    """
    table = Table("data set", "images", "found")
    for row in datasets.available(data_dir):
        where = row.where if row.found and row.where else "no: weight-feedback data fetch " + row.name
        table.add_row(row.name, f"{row.images:,}", escape(where))
    console.print(table)


def print_verification(console: Console, name: str, data_dir: Path | None) -> None:
    """Check a data set, and print what was seen.

    Args:
        console: where to.
        name: of the data set.
        data_dir: where to look; see `datasets.load`.
    """
    seen = datasets.verify(name, data_dir)
    train, test = (list(images.shape) for images in (seen.dataset.train_images, seen.dataset.test_images))
    console.print(f"{name}: complete, in {seen.where}; training images {train}, test images {test}", markup=False)
    for check in seen.files:
        verdict = {True: "as published", False: "not as published", None: "none is published"}[check.matches]
        console.print(f"  {check.file.name}: MD5 {check.md5}, {verdict}", markup=False)
    for note in seen.notes:
        console.print(f"  note: {note}", markup=False)
