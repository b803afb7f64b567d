"""What several commands take: names of arguments, their bounds, and their help."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, get_type_hints

from rich.console import Console
from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from weight_feedback.lab.execution.names import BackendName
from weight_feedback.lab.study.builtin import builtin_studies
from weight_feedback.untrusted import shown

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from weight_feedback.lab.execution.backends import Backend
    from weight_feedback.lab.study.study import Study


class ArgumentError(Exception):
    """Arguments that a command doesn't take; the message says which, what was expected, and what came.

    No ValueError, which tyro would show in words of its own.
    """


@dataclass(frozen=True)
class Bounds:
    """What an argument may be; stands in its annotation.

    Attributes:
        least: a number, and each one of several, is at least this.
        above: likewise, more than this.
        most: likewise, at most this.
        some: whether there must be one at all, where there may be several.
    """

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    some: bool = False

    def expected(self, value: object) -> str:
        """Return what was expected in place of a value; nothing if it is as it should be.

        Args:
            value: of the argument, or one of several.
        """
        if self.some and value == ():
            return "at least 1 item"
        if not isinstance(value, int | float):
            return ""
        if not math.isfinite(value):
            return "a finite number"
        if value < self.least:
            return f"at least {self.least:g}"
        if value <= self.above:
            return f"more than {self.above:g}"
        return f"at most {self.most:g}" if value > self.most else ""


@dataclass(frozen=True)
class Command:
    """What all commands are: their fields are their arguments, checked before any work.

    Raises:
        ArgumentError: an argument is out of its bounds, or a number isn't finite.
    """

    def __post_init__(self) -> None:
        if wrong := list(self._wrong()):
            raise ArgumentError("\n".join(wrong))

    def _wrong(self) -> Iterator[str]:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            bounds = next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Bounds)), Bounds())
            value = getattr(self, name)
            for one in (value, *(value if isinstance(value, tuple) else ())):
                if expected := bounds.expected(one):
                    yield f"--{name.replace('_', '-')}: expected {expected}, got {shown(one)}"

    def __call__(self, console: Console) -> None:
        """Do the work.

        Args:
            console: where to print.
        """
        raise NotImplementedError


class Texts(tuple[str, ...]):
    """Several texts that make up one argument."""


class Numbers(tuple[int, ...]):
    """Several whole numbers that make up one argument."""


class Range(tuple[int, int]):
    """Two whole numbers that make up one argument: the least and the most."""


class Paths(tuple[Path, ...]):
    """Several paths that make up one argument."""


def _read(
    kind: Callable[[str], Any],
    words: str,
    several: Callable[[list[Any]], Any] | None = None,
    count: int | Literal["*"] = "*",
) -> PrimitiveConstructorSpec[Any]:
    """Return how an argument is read from the command line, with a message of our own.

    Args:
        kind: makes one value of a text.
        words: what is expected.
        several: makes the argument of several values; default: it is a single one.
        count: how many values there are, if several.
    """

    def read(texts: list[str]) -> Any:
        values = []
        for text in texts:
            try:
                values.append(kind(text))
            except ValueError:
                raise ValueError(f"expected {words}, got {text!r}") from None
        return values[0] if several is None else several(values)

    return PrimitiveConstructorSpec(
        nargs=1 if several is None else count,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int | float | tuple),
        # None is the default of what may be left out.
        str_from_instance=lambda value: [*map(str, value)] if isinstance(value, tuple) else [str(value)],
    )


WHOLE = _read(int, "a whole number")
NUMBER = _read(float, "a number")
RANGE = _read(int, "whole numbers", Range, 2)
WHOLES = _read(int, "whole numbers", Numbers)
TEXTS = _read(str, "texts", Texts)
PATHS = _read(Path, "paths", Paths)

OUT = Path("results")
#: Characters of the names of arms in the names of files; file systems take 255 in all.
LONGEST_SUFFIX = 150
STUDIES = ", ".join(builtin_studies())

_NAMED = "A TOML file; a file of Python with a lab.Study in it, or FILE.py:NAME, which is run; a folder of results;"
StudyName = Annotated[
    Positional[str],
    arg(metavar="STUDY", help=f"{_NAMED} or a built-in study: {STUDIES}."),
]
DataDir = Annotated[
    Optional[Path],
    arg(
        metavar="DIR",
        help="Folder with data files; default: $WEIGHT_FEEDBACK_DATA, then the user cache.",
    ),
]
Out = Annotated[Path, arg(metavar="DIR", help="Folder that holds the results, one folder a study.")]
To = Annotated[
    Optional[Path],
    arg(metavar="DIR", help="Folder for what is written; default: the study's, among the results."),
]
Arms = Annotated[
    Optional[Texts],
    TEXTS,
    Bounds(some=True),
    arg(metavar="ARM [ARM …]", help="Names of some arms; default: all."),
]
Seeds = Annotated[
    Optional[int],
    WHOLE,
    Bounds(least=1),
    arg(metavar="N", help="How many; default: the study's. Those beyond its own are exploratory."),
]
Jobs = Annotated[
    Optional[int], WHOLE, Bounds(least=1), arg(metavar="INT", help="Trials side by side; default: one a core.")
]
ManyJobs = Annotated[
    Optional[int],
    WHOLE,
    Bounds(least=1),
    arg(
        metavar="INT",
        aliases=["--workers"],
        help="Trials side by side; default: one a core, or a cluster's worker; 1 for what takes seconds.",
    ),
]
Engine = Annotated[
    BackendName,
    arg(metavar="ENGINE", help="What runs the trials: loky (processes of this machine), dask or ray."),
]
Address = Annotated[
    Optional[str],
    arg(
        metavar="ADDRESS",
        help="Of a Dask scheduler or a Ray cluster that runs already; default: one on this machine, for the "
        "time of the run.",
    ),
]
Retries = Annotated[
    int,
    WHOLE,
    Bounds(least=0),
    arg(
        metavar="N",
        help="Try a trial this many times more, alone, if its process dies or its memory runs out; then it "
        "counts as failed.",
    ),
]
CheckpointSeconds = Annotated[
    float,
    NUMBER,
    Bounds(least=0),
    arg(metavar="S", help="Keep how far a trial is at the end of an epoch, if it is this long since the last."),
]
Mixed = Annotated[
    bool,
    arg(
        help="Also add trials to arms whose finished ones come from another machine, device, thread count or "
        "software, where bits may differ; the report says so."
    ),
]
Trust = Annotated[
    bool,
    arg(
        help='Import and run the code that a TOML file names (task = "module:function", looked for beside the '
        "file). Without it, nothing that a file names is imported."
    ),
]
Device = Annotated[str, arg(metavar="NAME", help="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]


def engine(name: BackendName, address: str | None, jobs: int | None) -> AbstractContextManager[Backend] | None:
    """Return what runs trials; None for processes of this machine, of which `run` knows best.

    Args:
        name: of the engine.
        address: of a cluster that runs already, if any.
        jobs: side by side; None: as many as there are.
    """
    from weight_feedback.lab.execution.backends import connected

    return None if name == "loky" and address is None else connected(name, address, jobs)


def read_study(given: str, trust: bool = False, out: Path | None = None) -> Study:
    """Return a study.

    Args:
        given: as people name it: a TOML file, a file of Python, a folder of results, or a built-in study.
        trust: whether code that a TOML file names may be imported.
        out: holds the results of all studies, for commands that only read them: where a TOML file names code, its
            study is read from there.

    Raises:
        StudyError: it can't be read.
    """
    from weight_feedback.lab.study.scripts import is_script, load_script
    from weight_feedback.lab.study.toml import load_study

    return load_script(given) if is_script(given) else load_study(given, trust=trust, out=out)


def folder_of(given: str, study: Study, out: Path) -> Path:
    """Return the folder that holds a study's results.

    Args:
        given: as people name the study; a folder of results is that folder.
        study: arms × seeds.
        out: holds the results of all studies.
    """
    from weight_feedback.lab.study.toml import holds_study

    return Path(given) if holds_study(given) else out / study.name


def check_arms(study: Study, arms: Sequence[str] | None) -> None:
    """Refuse names of arms that a study doesn't have.

    Args:
        study: arms × seeds.
        arms: as they were given; None: all.

    Raises:
        ValueError: there is no such arm.
    """
    try:
        study.choose(arms)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def suffix(arms: Sequence[str] | None) -> str:
    """Return what the names of files on some arms end with, so that they stand beside those on all.

    Args:
        arms: their names; None: all, and nothing.
    """
    from weight_feedback.lab.tasks.fields import digest

    if arms is None:
        return ""
    names = "-" + "-".join(arms)
    return names if len(names) <= LONGEST_SUFFIX else f"-{len(arms)}-arms-{digest(names)}"
