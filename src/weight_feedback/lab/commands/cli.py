"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from pydantic import ValidationError
from rich.console import Console
from tyro.conf import OmitArgPrefixes, subcommand

from weight_feedback import __version__
from weight_feedback.files import tell
from weight_feedback.lab.commands.data import Data
from weight_feedback.lab.commands.dimensions import IntrinsicDimension
from weight_feedback.lab.commands.networks import MatchDimensions, Train
from weight_feedback.lab.commands.options import ArgumentError
from weight_feedback.lab.commands.statistics import Calibrate
from weight_feedback.lab.commands.studies import Export, Merge, Plan, Plot, Report, Run
from weight_feedback.lab.commands.terminal import prepare_streams, print_text
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
    prepare_streams()
    given = sys.argv[1:] if args is None else list(args)
    if given == ["--version"]:
        print(f"weight-feedback {__version__}")  # noqa: T201 - before there is a console
        return
    errors = Console(stderr=True, soft_wrap=True)
    command = _parse(given, errors)
    resumed = isinstance(command, RESUMED)
    with interruptible():
        try:
            command(Console(soft_wrap=True))
        except (ValueError, OSError) as error:
            message = explain(error) if isinstance(error, ValidationError) else str(error)
            if isinstance(error, OSError):
                message = tell(error) + (f"\nWhat is finished is kept. {_again(given)}" if resumed else "")
            print_text(errors, f"error: {message}", "bold red")
            sys.exit(2)
        except KeyboardInterrupt as stop:
            again = f"; what is finished is kept. {_again(given)}"
            print_text(errors, f"stopped{again if resumed else ''}", "bold")
            sys.exit(stop.code if isinstance(stop, Interrupted) else 130)


def _again(given: Sequence[str]) -> str:
    return f"To go on: {shlex.join(['weight-feedback', *given])}"


def _parse(given: Sequence[str], errors: Console) -> Any:
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
    except ArgumentError as error:
        print_text(errors, f"error: {error}", "bold red")
        sys.exit(2)
