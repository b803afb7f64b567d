"""What the command line shows: progress, tables, and a study's pictures and report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from weight_feedback.lab import datasets
from weight_feedback.lab.plots import ContrastLine, plot_accuracy, plot_contrasts
from weight_feedback.lab.report import accuracies, cells, compare, decide, markdown, summarise
from weight_feedback.lab.runner import OnProgress, collect
from weight_feedback.lab.spec import Study
from weight_feedback.lab.store import Store, write_atomically


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


def present(console: Console, study: Study, store: Store, command: str, arms: tuple[str, ...] | None) -> None:
    """Draw a study's pictures, write its report, and print its table and verdicts.

    Args:
        console: where to print.
        study: arms × seeds.
        store: what is finished, and where pictures and report go.
        command: that makes the results, for the report.
        arms: names of the arms to draw, in this order; default: all.

    Raises:
        ValueError: an arm is unknown, or nothing is finished.
    """
    records = collect(study, store)
    known = [arm.name for arm in study.arms]
    for name in arms or ():
        if name not in known:
            raise ValueError(f"--arms: expected names among {', '.join(known)}, got {name!r}")
    # Contrasts are those of the whole study, whatever is drawn: a verdict is one of a family.
    compared = compare(study, records)
    sentences = decide(study, compared, sum(map(len, records.values())))
    records = {name: records[name] for name in arms or known if name in records}
    if not records:
        raise ValueError(f"no finished trials in {store.folder}; expected some: {command} makes them")
    labels = {arm.name: arm.label for arm in study.arms}
    suffix = "" if arms is None else "-" + "-".join(records)
    pictures = [store.folder / f"accuracy{suffix}.{kind}" for kind in ("png", "svg")]
    plot_accuracy({labels[name]: accuracies(trials) for name, trials in records.items()}, study.title, pictures)
    rows = summarise(study, records)
    if study.declared and compared:
        forest = [store.folder / f"contrasts{suffix}.{kind}" for kind in ("png", "svg")]
        lines = [ContrastLine(f"{row.a} − {row.b}", *row.estimate.t, row.primary) for row in compared]
        plot_contrasts(lines, study.declared.margin, study.title, forest)
        pictures += forest
    report = store.folder / f"report{suffix}.md"
    provenance = next(iter(records.values()))[0].provenance
    names = [picture.name for picture in pictures if picture.suffix == ".png"]
    write_atomically(report, markdown(study, rows, compared, sentences, command, provenance, names).encode())
    print_table(console, study.title, *cells(rows))
    for sentence in sentences:
        console.print(sentence, markup=False)
    console.print("pictures: " + ", ".join(map(str, pictures)), markup=False)
    console.print(f"report:   {report}\ntrials:   {store.trials}", markup=False)


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
