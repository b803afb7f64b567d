"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from pydantic import ValidationError
from rich.console import Console
from tyro.conf import OmitArgPrefixes, subcommand

from weight_feedback.lab.commands.data import Data
from weight_feedback.lab.commands.dimensions import IntrinsicDimension
from weight_feedback.lab.commands.networks import MatchDimensions, Train
from weight_feedback.lab.commands.statistics import Calibrate
from weight_feedback.lab.commands.studies import Export, Merge, Plan, Plot, Report, Run
from weight_feedback.lab.console import say
from weight_feedback.lab.interrupts import Interrupted, interruptible
from weight_feedback.lab.spec import explain

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


class Courteous(Console):
    """A console whose reader may go away: the work goes on, in silence."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; default: those of the process.

    Raises:
        SystemExit: with 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    _fit_streams()
    given = sys.argv[1:] if args is None else list(args)
    command: Any = tyro.cli(
        Command,
        prog="weight-feedback",
        description="Networks that hear their own weights: train them, compare them, look at the outcome.",
        args=given,
        config=(OmitArgPrefixes,),
    )
    said = Courteous(stderr=True, soft_wrap=True)
    with interruptible():
        try:
            command(Courteous(soft_wrap=True))
        except (ValueError, OSError) as error:
            message = explain(error) if isinstance(error, ValidationError) else str(error)
            say(said, f"error: {message}", "bold red")
            sys.exit(2)
        except KeyboardInterrupt as stop:
            again = f"; what is finished is kept. To go on: {shlex.join(['weight-feedback', *given])}"
            say(said, f"stopped{again if isinstance(command, RESUMED) else ''}", "bold")
            sys.exit(stop.code if isinstance(stop, Interrupted) else 130)


def _fit_streams() -> None:
    """Let output work where standard streams are closed, or can't show every character."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else a data file would get the number, and be written to by whatever thinks of it as a stream
    os.close(number)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
