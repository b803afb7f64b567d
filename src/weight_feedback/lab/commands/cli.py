"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

import tyro
from rich.console import Console

from weight_feedback import __version__
from weight_feedback.lab.commands.checking import Preflight
from weight_feedback.lab.commands.data import Data
from weight_feedback.lab.commands.dimensions import IntrinsicDimension
from weight_feedback.lab.commands.networks import MatchDimensions, Train
from weight_feedback.lab.commands.new import New
from weight_feedback.lab.commands.options import ArgumentError, Command
from weight_feedback.lab.commands.statistics import Calibrate
from weight_feedback.lab.commands.studies import Export, Merge, Plan, Plot, Report, Run
from weight_feedback.lab.commands.terminal import prepare_streams, print_text
from weight_feedback.lab.execution.interrupts import Interrupted, interruptible
from weight_feedback.untrusted import shown

COMMANDS: dict[str, type[Command]] = {
    "new": New,
    "train": Train,
    "preflight": Preflight,
    "plan": Plan,
    "run": Run,
    "report": Report,
    "plot": Plot,
    "merge": Merge,
    "export": Export,
    "calibrate": Calibrate,
    "intrinsic-dimension": IntrinsicDimension,
    "match-dimensions": MatchDimensions,
    "data": Data,
}
#: Those that go on where they were when they are given again.
RESUMED = (Run, Calibrate, IntrinsicDimension)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; default: those of the process.

    Raises:
        SystemExit: with 0 after help, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    prepare_streams()
    given = sys.argv[1:] if args is None else list(args)
    console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    if given == ["--version"]:
        console.print(f"weight-feedback {__version__}", highlight=False)
        return
    if given[:1] in (["--help"], ["-h"]):
        _print_help(console)
        sys.exit(0)
    command = _parse(given, errors)
    resumed = isinstance(command, RESUMED)
    with interruptible():
        try:
            command(console)
        except (ValueError, OSError) as error:
            message = _message(error)
            if isinstance(error, OSError) and resumed:
                message += f"\nWhat is finished is kept. {_again(given)}"
            print_text(errors, f"error: {message}", "bold red")
            sys.exit(2)
        except KeyboardInterrupt as stop:
            again = f"; what is finished is kept. {_again(given)}"
            print_text(errors, f"stopped{again if resumed else ''}", "bold")
            sys.exit(stop.code if isinstance(stop, Interrupted) else 130)


def _print_help(console: Console) -> None:
    """Print each command with the first line of its own help."""
    console.print(
        "usage: weight-feedback COMMAND …\n\n"
        "Networks that hear their own weights: train them, compare them, look at the outcome.\n",
        highlight=False,
    )
    width = max(map(len, COMMANDS))
    for name, command in COMMANDS.items():
        first = (command.__doc__ or "").partition("\n")[0]
        console.print(f"  [bold]{name:<{width}}[/bold]  {first}", highlight=False)
    console.print(
        "\n`weight-feedback COMMAND --help` says what a command takes, with examples.\n"
        "`weight-feedback --version` says which version this is.",
        highlight=False,
    )


def _message(error: Exception) -> str:
    """Return what to say of an error that ended a command."""
    from pydantic import ValidationError

    from weight_feedback.files import tell
    from weight_feedback.lab.tasks.fields import explain

    if isinstance(error, OSError):
        return tell(error)
    return explain(error) if isinstance(error, ValidationError) else str(error)


def _again(given: Sequence[str]) -> str:
    return f"To go on: {shlex.join(['weight-feedback', *given])}"


def _parse(given: Sequence[str], errors: Console) -> Command:
    """Return the command that was given; end the process where there is none, or an argument is refused.

    The parser of one command alone is made: that of all takes as long as everything else before the work.
    """
    if not given or given[0] not in COMMANDS:
        _refuse(errors, _unknown(given))
    try:
        return tyro.cli(
            COMMANDS[given[0]],
            prog=f"weight-feedback {given[0]}",
            args=given[1:],
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except ArgumentError as error:
        _refuse(errors, str(error))


def _unknown(given: Sequence[str]) -> str:
    """Return what is wrong with a command's name."""
    known = f"expected a command among {', '.join(COMMANDS)}"
    if not given:
        return f"{known}; got none. `weight-feedback --help` says what they do"
    close = difflib.get_close_matches(given[0], COMMANDS, n=1)
    meant = f"; did you mean {close[0]}?" if close else "; `weight-feedback --help` says what they do"
    return f"{known}, got {shown(given[0])}{meant}"


def _refuse(errors: Console, message: str) -> NoReturn:
    print_text(errors, f"error: {message}", "bold red")
    sys.exit(2)
