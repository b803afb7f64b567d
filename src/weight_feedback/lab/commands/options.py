"""What several commands take: names of arguments, and their help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from weight_feedback.lab.study.toml import builtin_studies
from weight_feedback.lab.tasks.base import Frozen, explain


class ArgumentError(Exception):
    """Arguments that a command doesn't take; the message says which, what was expected, and what came.

    No ValueError, which tyro would show in words of its own.
    """


class Command(Frozen):
    """What all commands are: their fields are their arguments, checked before any work.

    Raises:
        ArgumentError: an argument is out of its bounds.
    """

    def __init__(self, **arguments: Any) -> None:
        try:
            super().__init__(**arguments)
        except ValidationError as error:
            lines = [line.partition(": ") for line in explain(error).splitlines()]
            said = [f"--{name.partition('.')[0].replace('_', '-')}: {what}" for name, _, what in lines]
            raise ArgumentError("\n".join(said)) from None


def _numbers(kind: Callable[[str], Any], words: str, count: int | Literal["*"]) -> PrimitiveConstructorSpec[Any]:
    """Return how numbers are read from the command line, with a message of our own.

    Args:
        kind: makes one of a text.
        words: what is expected.
        count: how many; one isn't a tuple.
    """

    def read(texts: list[str]) -> Any:
        found = []
        for text in texts:
            try:
                found.append(kind(text))
            except ValueError:
                raise ValueError(f"expected {words}, got {text!r}") from None
        return found[0] if count == 1 else tuple(found)

    return PrimitiveConstructorSpec(
        nargs=count,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int | float | tuple),
        # None is the default of what may be left out.
        str_from_instance=lambda value: [*map(str, value)] if isinstance(value, tuple) else [str(value)],
    )


WHOLE = _numbers(int, "a whole number", 1)
NUMBER = _numbers(float, "a number", 1)
PAIR = _numbers(int, "whole numbers", 2)
WHOLES = _numbers(int, "whole numbers", "*")

OUT = Path("results")
STUDIES = ", ".join(builtin_studies())

StudyName = Annotated[
    Positional[str],
    arg(metavar="STUDY", help=f"A TOML file, or a built-in study: {STUDIES}."),
]
DataDir = Annotated[
    Path | None,
    arg(
        metavar="DIR",
        help="Folder with data files; default: $WEIGHT_FEEDBACK_DATA, then the user cache.",
    ),
]
Out = Annotated[Path, arg(metavar="DIR", help="Folder that holds the results, one folder a study.")]
To = Annotated[
    Path | None,
    arg(metavar="DIR", help="Folder for report and pictures; default: the study's, among the results."),
]
Arms = Annotated[
    tuple[str, ...] | None,
    Field(min_length=1),
    arg(metavar="ARM [ARM …]", help="Names of some arms; default: all."),
]
Jobs = Annotated[
    int | None, WHOLE, Field(ge=1), arg(metavar="INT", help="Trials side by side; default: one a core.")
]
Device = Annotated[str, arg(metavar="NAME", help="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
Cuda = Annotated[bool, arg(help="--no-cuda trains on the CPU even where there is a GPU.")]


def choose(device: str, cuda: bool) -> str:
    """Return the device that two arguments name.

    Args:
        device: a name, or ``auto``.
        cuda: whether a GPU may be taken.

    Raises:
        ValueError: the two contradict each other.
    """
    if not cuda and device.startswith("cuda"):
        raise ValueError(f"--no-cuda and --device {device} contradict each other")
    return device if cuda or device != "auto" else "cpu"
