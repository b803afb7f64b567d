"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TextIO

import tyro
from pydantic import ValidationError
from rich.console import Console
from tyro.conf import OmitArgPrefixes, subcommand

from weight_feedback import __version__
from weight_feedback.files import tell
from weight_feedback.lab.commands.data import Data
from weight_feedback.lab.commands.dimensions import IntrinsicDimension
from weight_feedback.lab.commands.networks import MatchDimensions, Train
from weight_feedback.lab.commands.options import Refused
from weight_feedback.lab.commands.presenting import say
from weight_feedback.lab.commands.statistics import Calibrate
from weight_feedback.lab.commands.studies import Export, Merge, Plan, Plot, Report, Run
from weight_feedback.lab.execution.interrupts import Interrupted, interruptible
from weight_feedback.lab.tasks.base import explain

Command = (
    Annotated[Train, subcommand("train", prefix_name=False)]
    | Annotated[Plan, subcommand("plan", prefix_name=False)]
    | Annotated[Run, subcommand("run", prefix_name=False)]
    | Annotated[Report, subcommand("report", prefix_name=False)]
    | Annotated[Plot, subcommand("plot", prefix_name=False)]
    | Annotated[Merge, subcommand("merge", prefix_name=False)]
    | Annotated[Export, subcommand("export", prefix_name=False)]
    | Annotated[Calibrate, subcommand("calibrate", prefix_name=False)]
    | Annotated[IntrinsicDimension, subcommand("intrinsic-dimension", prefix_name=False)]
    | Annotated[MatchDimensions, subcommand("match-dimensions", prefix_name=False)]
    | Annotated[Data, subcommand("data", prefix_name=False)]
)


#: What to say of commands that go on where they were when they are given again.
RESUMED = (Run, Calibrate, IntrinsicDimension)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; default: those of the process.

    Raises:
        SystemExit: with 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    _fit_streams()
    given = sys.argv[1:] if args is None else list(args)
    if given == ["--version"]:
        print(f"weight-feedback {__version__}")  # noqa: T201 - before there is a console
        return
    said = Console(stderr=True, soft_wrap=True)
    command = _parse(given, said)
    resumed = isinstance(command, RESUMED)
    with interruptible():
        try:
            command(Console(soft_wrap=True))
        except (ValueError, OSError) as error:
            message = explain(error) if isinstance(error, ValidationError) else str(error)
            if isinstance(error, OSError):
                message = tell(error) + (f"\nWhat is finished is kept. {_again(given)}" if resumed else "")
            say(said, f"error: {message}", "bold red")
            sys.exit(2)
        except KeyboardInterrupt as stop:
            again = f"; what is finished is kept. {_again(given)}"
            say(said, f"stopped{again if resumed else ''}", "bold")
            sys.exit(stop.code if isinstance(stop, Interrupted) else 130)


def _again(given: Sequence[str]) -> str:
    return f"To go on: {shlex.join(['weight-feedback', *given])}"


def _parse(given: Sequence[str], said: Console) -> Any:
    """Return the command that was given; end the process where there is none, or an argument is refused."""
    try:
        return tyro.cli(
            Command,
            prog="weight-feedback",
            description="Networks that hear their own weights: train them, compare them, look at the outcome. "
            "--version says which version this is.",
            args=given,
            config=(OmitArgPrefixes,),
        )
    except Refused as error:
        say(said, f"error: {error}", "bold red")
        sys.exit(2)


def _fit_streams() -> None:
    """Let output work where standard streams are closed, or can't show every character."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else a data file would get the number, and be written to by whatever thinks of it as a stream
    os.close(number)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout, sys.stderr = _endured(sys.stdout), _endured(sys.stderr)


class _Endured(io.FileIO):
    """A standard stream whose reader may go away, as `head` does: the work goes on, in silence.

    Args:
        stream: that was there; it is kept, as it would close the file in its end.
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


def _endured(stream: TextIO) -> TextIO:
    """Return a stream that never complains of a reader that has gone; the same if it isn't the process's."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without a buffer of bytes where Python is asked for that
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO or raw.fileno() not in (1, 2):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Endured(stream)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )
