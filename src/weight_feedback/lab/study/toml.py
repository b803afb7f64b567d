"""Studies in TOML files, those that come with the package among them; read strictly."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from weight_feedback.lab.data.reading import open_plain
from weight_feedback.lab.study.builtin import builtin_studies
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.base import explain
from weight_feedback.untrusted import printable, shown

#: Bytes of a study file, and characters of one of its lines: Python's parser takes minutes over keys of many parts.
LONGEST_FILE, LONGEST_LINE = 100_000, 1000


class SpecError(ValueError):
    """A study file that can't be used; the message names file, field, what was expected and what came."""


def load_study(name_or_path: str) -> Study:
    """Read a study from a TOML file, or a built-in one by its name.

    Args:
        name_or_path: a path, or the name of a built-in study.

    Returns:
        The study, fully checked.

    Raises:
        SpecError: there is no such study, it isn't TOML, or a field is wrong.
    """
    where = printable(name_or_path)
    try:
        text = _read_study(name_or_path)
        return Study.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error)}") from None
    except OSError as error:
        raise SpecError(f"{where} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{where} isn't valid TOML: it must be UTF-8, but isn't at byte {error.start}") from None
    except RecursionError:
        raise SpecError(f"{where}: expected tables within tables, found brackets nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{where} isn't valid TOML: {error}") from None


def _read_study(name_or_path: str) -> str:
    """Return the text of a study, with bounds that keep its parsing short."""
    path, where = Path(name_or_path), printable(name_or_path)
    if path.is_file() or (path.exists() and name_or_path not in builtin_studies()):
        with open_plain(path) as file:
            content = file.read(LONGEST_FILE + 1)
    elif name_or_path in builtin_studies():
        content = (resources.files("weight_feedback.lab.study.builtin") / f"{name_or_path}.toml").read_bytes()
    else:
        raise SpecError(
            f"no study {shown(name_or_path)}: expected the path of a TOML file, or one of the built-in studies: "
            f"{', '.join(builtin_studies())}"
        )
    if len(content) > LONGEST_FILE:
        raise SpecError(f"{where}: expected a study file of at most {LONGEST_FILE} bytes, found more")
    # Some editors put a mark of the byte order in front, and carriage returns at the ends of lines.
    text = content.decode("utf-8-sig").replace("\r\n", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LONGEST_LINE:
            raise SpecError(
                f"{where}, line {number}: expected at most {LONGEST_LINE} characters, found {len(line)}; lists can "
                "go over several lines"
            )
    return text
