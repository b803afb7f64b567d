"""Studies in files: in TOML, those that come with the package among them, and beside results; read strictly."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from weight_feedback.lab.data.reading import open_plain
from weight_feedback.lab.study.builtin import builtin_studies
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.fields import explain
from weight_feedback.lab.tasks.loading import BUILT_IN
from weight_feedback.untrusted import printable, shown

#: Bytes of a study file, and characters of one of its lines: Python's parser takes minutes over keys of many parts.
LONGEST_FILE, LONGEST_LINE = 100_000, 1000
#: The file beside results that holds their study, and how many bytes of it are read.
KEPT, LONGEST_KEPT = "study.json", 10_000_000


_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


class StudyError(ValueError):
    """A study file that can't be used; the message names file, field, what was expected and what came."""


def load_study(name_or_path: str, *, trust: bool = False, out: str | Path | None = None) -> Study:
    """Read a study from a TOML file or from its results, or a built-in one by its name.

    Nothing that a file names is imported, unless it is trusted.

    Args:
        name_or_path: path of a TOML file, or of a folder of results; or the name of a built-in study.
        trust: whether a task that a TOML file names is imported, as ``module:function``; its module is looked for
            in the file's folder first.
        out: a folder that holds results, one folder a study. There the study of a TOML file that names code is
            read, if it isn't trusted and there is one.

    Returns:
        The study, fully checked. One that is read from its results, and whose task isn't built in, can be reported
        and not run.

    Raises:
        StudyError: there is no such study, it isn't TOML, a field is wrong, or its task is code that isn't
            trusted, or can't be imported.
    """
    where = printable(name_or_path)
    if holds_study(name_or_path):
        return _read_kept(Path(name_or_path))
    content = _parse(name_or_path, where)
    task = content.get("task", "notebook")
    if isinstance(task, str) and task not in BUILT_IN:
        if not trust:
            return _read_untrusted(content, where, out)
        look_beside(Path(name_or_path))
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{where}: {explain(error)}") from None


def _parse(name_or_path: str, where: str) -> dict[str, Any]:
    """Return what is in a TOML file, or in that of a built-in study."""
    if name_or_path.endswith(".py") and Path(name_or_path).is_file():
        raise StudyError(f"{where}: a file of Python is code: import its study, or `weight-feedback run {where}`")
    try:
        return tomllib.loads(_read_study(name_or_path))
    except OSError as error:
        raise StudyError(f"{where} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{where} isn't valid TOML: it must be UTF-8, but isn't at byte {error.start}") from None
    except RecursionError:
        raise StudyError(f"{where}: expected tables within tables, found brackets nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{where} isn't valid TOML: {error}") from None


def look_beside(path: Path) -> None:
    """Look for modules in a file's folder first, from now on.

    Args:
        path: of the file.
    """
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()  # files there may be younger than this process


def _read_untrusted(content: Mapping[str, Any], where: str, out: str | Path | None) -> Study:
    """Return the study of a file that names code, as it lies with its results; nothing is imported."""
    name = content.get("name")
    if out is not None and isinstance(name, str) and _NAME.fullmatch(name) and holds_study(str(Path(out) / name)):
        return _read_kept(Path(out) / name)
    said = f"{where}: task: expected one of {', '.join(BUILT_IN)}, got {shown(content['task'])}"
    if ":" in content["task"]:
        said += (
            ", which names code: that is imported and run with --trust (in Python: trust=True), if you trust "
            "whoever wrote the file"
        )
    raise StudyError(said)


def holds_study(name_or_path: str) -> bool:
    """Say whether something is a folder of results with their study in it.

    Args:
        name_or_path: as people name a study.
    """
    try:
        return (Path(name_or_path) / KEPT).is_file()
    except (OSError, ValueError):  # longer than paths can be
        return False


def _read_kept(folder: Path) -> Study:
    """Return the study that a folder of results is of."""
    path = folder / KEPT
    try:
        with open_plain(path) as file:
            content = json.loads(file.read(LONGEST_KEPT))
        if not isinstance(content, dict) or content.get("resolved") is not True:
            raise ValueError("expected a study with all settings filled in")
        return Study.model_validate(content)
    except OSError as error:
        raise StudyError(f"{path} can't be read: {error.strerror or error}") from None
    except ValidationError as error:
        raise StudyError(f"{path}: {explain(error)}") from None
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: not a study as it lies with results: {printable(str(error))}") from None


def _read_study(name_or_path: str) -> str:
    """Return the text of a study, with bounds that keep its parsing short."""
    path, where = Path(name_or_path), printable(name_or_path)
    if path.is_file() or (path.exists() and name_or_path not in builtin_studies()):
        with open_plain(path) as file:
            content = file.read(LONGEST_FILE + 1)
    elif name_or_path in builtin_studies():
        content = (resources.files("weight_feedback.lab.study.builtin") / f"{name_or_path}.toml").read_bytes()
    else:
        raise StudyError(
            f"no study {shown(name_or_path)}: expected the path of a TOML file, or one of the built-in studies: "
            f"{', '.join(builtin_studies())}"
        )
    if len(content) > LONGEST_FILE:
        raise StudyError(f"{where}: expected a study file of at most {LONGEST_FILE} bytes, found more")
    # Some editors put a mark of the byte order in front, and carriage returns at the ends of lines.
    text = content.decode("utf-8-sig").replace("\r\n", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LONGEST_LINE:
            raise StudyError(
                f"{where}, line {number}: expected at most {LONGEST_LINE} characters, found {len(line)}; lists can "
                "go over several lines"
            )
    return text
