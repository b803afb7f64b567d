"""Studies in files of Python, which are code: to name one is to run it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
import types
from pathlib import Path

from pydantic import ValidationError

from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError, look_beside
from weight_feedback.lab.tasks.fields import explain
from weight_feedback.untrusted import printable

_SCRIPT = re.compile(r"(?P<file>.*\.py)(:(?P<name>[A-Za-z_][A-Za-z0-9_]*))?", re.DOTALL)


def is_script(given: str) -> bool:
    """Say whether people name a file of Python.

    Args:
        given: as they name a study.
    """
    return _SCRIPT.fullmatch(given) is not None


def load_script(given: str) -> Study:
    """Run a file of Python, and return the study in it.

    The file's folder is where modules are looked for from now on, so that workers find the study's function by the
    name of the file.

    Args:
        given: the file; or file and name, ``mine.py:study``, where it has several studies.

    Raises:
        StudyError: there is no such file or study, there are several, another module has the file's name, or the
            file raises an error.
    """
    found = _SCRIPT.fullmatch(given)
    assert found is not None
    path, where = Path(found["file"]).resolve(), printable(found["file"])
    if not path.is_file():
        raise StudyError(f"{where}: expected a file of Python, found none")
    if not path.stem.isidentifier():
        raise StudyError(f"{where}: expected a file whose name can be imported, of letters, digits and underscores")
    module = _run(path, where)
    studies = {name: value for name, value in vars(module).items() if isinstance(value, Study)}
    if found["name"]:
        if found["name"] not in studies:
            raise StudyError(
                f"{where}: expected one of its studies, {', '.join(studies) or 'none'}, got {found['name']}"
            )
        return studies[found["name"]]
    if not studies:
        raise StudyError(f"{where}: expected a lab.Study in it, found none")
    if len({id(study) for study in studies.values()}) != 1:
        raise StudyError(
            f"{where}: expected one lab.Study in it, found {', '.join(studies)}; choose by {where}:NAME"
        )
    return next(iter(studies.values()))


def _run(path: Path, where: str) -> types.ModuleType:
    """Import a file of Python, as workers will."""
    # Looked for where modules were found so far: in front of these, the file would take the place of a package that
    # it uses itself.
    known = sys.modules.get(path.stem)
    other = known.__file__ if known else _origin(path.stem)
    if other is not None and Path(other).resolve() != path:
        raise StudyError(f"{where}: another module is called {path.stem}, {other}; rename the file")
    look_beside(path)
    try:
        return importlib.import_module(path.stem)
    except ValidationError as error:
        raise StudyError(f"{where}: {explain(error)}") from None
    except Exception as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        began = next((i for i, frame in enumerate(own) if Path(frame.filename).resolve() == path), 0)
        told = "".join(traceback.format_list(own[began:]) + traceback.format_exception_only(error))
        raise StudyError(f"{where}: it can't be imported; it raised:\n{told.rstrip()}") from None


def _origin(name: str) -> str | None:
    """Return the file of a module that can be found, without importing it; None if there is none."""
    importlib.invalidate_caches()
    found = importlib.util.find_spec(name)
    return found.origin if found else None
