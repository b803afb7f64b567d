"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from tyro.conf import OmitArgPrefixes, subcommand

from weight_feedback.lab.commands.data import Data
from weight_feedback.lab.commands.networks import MatchDimensions, Train
from weight_feedback.lab.commands.statistics import Calibrate
from weight_feedback.lab.commands.studies import Export, Merge, Plan, Plot, Report, Run
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
    | Annotated[MatchDimensions, subcommand("match-dimensions", prefix_name=False)]
    | Annotated[Data, subcommand("data", prefix_name=False)]
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; default: those of the process.

    Raises:
        SystemExit: with 2 for bad input, 130 after Ctrl-C.
    """
    command: Any = tyro.cli(
        Command,
        prog="weight-feedback",
        description="Networks that hear their own weights: train them, compare them, look at the outcome.",
        args=args,
        config=(OmitArgPrefixes,),
    )
    try:
        command(Console(soft_wrap=True))
    except (ValueError, OSError) as error:
        message = explain(error) if isinstance(error, ValidationError) else str(error)
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/bold red] {escape(message)}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; what is finished is kept: run the same command again to go on")
        sys.exit(130)
