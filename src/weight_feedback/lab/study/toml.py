"""Studies in files: in TOML, those that come with the package among them, and beside results; read strictly."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path

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


class StudyError(ValueError):
    """A study file that can't be used; the message names file, field, what was expected and what came."""


def load_study(name_or_path: str) -> Study:
    """Read a study from a TOML file or from its results, or a built-in one by its name.

    Nothing that a file names is imported.

    Args:
        name_or_path: path of a TOML file, or of a folder of results; or the name of a built-in study.

    Returns:
        The study, fully checked. One that is read from its results, and whose task isn't built in, can be reported
        and not run.

    Raises:
        StudyError: there is no such study, it isn't TOML, a field is wrong, or its task is code.
    """
    where = printable(name_or_path)
    if holds_study(name_or_path):
        return _read_kept(Path(name_or_path))
    try:
        content = tomllib.loads(_read_study(name_or_path))
        if content.get("task", "notebook") not in BUILT_IN and isinstance(content["task"], str):
            raise StudyError(
                f"{where}: task: expected one of {', '.join(BUILT_IN)} in a file, got {shown(content['task'])}: "
                "what names code is run from Python, by lab.run"
            )
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{where}: {explain(error)}") from None
    except OSError as error:
        raise StudyError(f"{where} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{where} isn't valid TOML: it must be UTF-8, but isn't at byte {error.start}") from None
    except RecursionError:
        raise StudyError(f"{where}: expected tables within tables, found brackets nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{where} isn't valid TOML: {error}") from None


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
