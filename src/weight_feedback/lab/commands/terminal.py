"""What any command shows: text, tables, progress and durations, on streams whose reader may go away."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from weight_feedback.untrusted import printable

if TYPE_CHECKING:
    from weight_feedback.lab.execution.progress import Progress as RunProgress
    from weight_feedback.lab.store.store import Store


def prepare_streams() -> None:
    """Let output work where standard streams are closed, can't show every character, or lose their reader."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else a data file would get the number, and be written to by whatever thinks of it as a stream
    os.close(number)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout, sys.stderr = _without_broken_pipes(sys.stdout), _without_broken_pipes(sys.stderr)


class _StreamFile(io.FileIO):
    """A standard stream whose reader may go away, as `head` does: the work goes on, and what is written is lost.

    Args:
        stream: that was there; it is kept, as it closes the file when nothing refers to it any more.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.fileno(), "wb", closefd=False)
        self._stream = stream

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except ConnectionError:  # a broken pipe, or a socket's
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def _without_broken_pipes(stream: TextIO) -> TextIO:
    """Return a stream that raises nothing once its reader has gone; the same if it isn't the process's."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without a buffer of bytes where Python is asked for that
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO or raw.fileno() not in (1, 2):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_StreamFile(stream)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


def print_text(console: Console, text: str, style: str = "") -> None:
    """Print text as it is, but for characters that would do something to a terminal.

    Args:
        console: where to.
        text: of one line or several.
        style: see rich.
    """
    console.print(Text("\n".join(map(printable, text.splitlines())), style))


def readable(console: Console, folder: Path) -> Store:
    """Return a study's store, for reading: what is damaged in it is left out, with a note.

    Args:
        console: where to.
        folder: of the study.
    """
    from weight_feedback.lab.store.readable import Readable

    return Readable(folder, lambda line: print_text(console, line, "bold red"))


def print_table(console: Console, title: str, headings: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        console: where to.
        title: above the table.
        headings: of the columns.
        body: rows of cells.
    """
    # As texts, in which rich looks neither for markup nor for names of emoji.
    table = Table(*headings, title=Text(title, style="table.title"))
    for row in body:
        table.add_row(*map(Text, row))
    console.print(table)


def duration(seconds: float) -> str:
    """Return a time as text, in seconds, minutes or hours.

    Args:
        seconds: the time.
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(console: Console, name: str, epochs: int) -> Iterator[Callable[[int, str], None]]:
    """Show progress: a bar in a terminal, a line for each tenth in a log file; both with the time that is left.

    Args:
        console: where to.
        name: of what is under way.
        epochs: all that there are to do.

    Yields:
        A function to call with the number of epochs done, and what else to say.
    """
    if not console.is_terminal:
        shown, start = 0, time.monotonic()

        def print_tenths(done: int, more: str) -> None:
            nonlocal shown
            if (tenths := done * 10 // max(epochs, 1)) > shown:
                shown = tenths
                left = (time.monotonic() - start) / done * (epochs - done)
                console.print(f"{name}: {done}/{epochs} epochs; {more}; {duration(left)} left", markup=False)

        yield print_tenths
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} epochs; {task.fields[more]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=epochs, more="")
        yield lambda done, more: bar.update(task, completed=done, more=more)


class RunDisplay:
    """Shows a run: what there is to do, progress, and notes; see `runner.Watcher`. A context, which ends the bar.

    Args:
        console: where to.
        name: of the study.
    """

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name
        self._ends = ExitStack()

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def begin(self, trials: int, todo: int, epochs: int, jobs: int) -> None:
        """Say what there is to do, and show progress from now on.

        Args:
            trials: all that were asked for.
            todo: those that are going to be run.
            epochs: of these.
            jobs: how many run side by side.
        """
        together = f", {jobs} side by side" if todo else ""
        self._console.print(f"{self._name}: {trials} trials, {trials - todo} finished, {todo} to run{together}")
        self._show = self._ends.enter_context(progress(self._console, self._name, epochs))

    def progress(self, now: RunProgress) -> None:
        """Show how far the run is.

        Args:
            now: epochs, and trials that are running, done and failed.
        """
        self._show(now.epochs, f"trials: {now.running} running, {now.done} done, {now.failed} failed")

    def note(self, line: str) -> None:
        """Print a note.

        Args:
            line: what people should know.
        """
        print_text(self._console, line, "bold red" if line.startswith("failed: ") else "")
