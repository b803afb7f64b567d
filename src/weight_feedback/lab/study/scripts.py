"""Studies in files of Python, which are code: to name one is to run it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError
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
        StudyError: there is no such file or study, there are several, or another module has the file's name.
        Exception: what the file raises.
    """
    found = _SCRIPT.fullmatch(given)
    assert found is not None
    path, where = Path(found["file"]).resolve(), printable(found["file"])
    if not path.is_file():
        raise StudyError(f"{where}: expected a file of Python, found none")
    if not path.stem.isidentifier():
        raise StudyError(f"{where}: expected a file whose name can be imported, of letters, digits and underscores")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()  # the file may be younger than this process
    module = importlib.import_module(path.stem)
    if Path(module.__file__ or "").resolve() != path:
        raise StudyError(f"{where}: another module is called {path.stem}, {module.__file__}; rename the file")
    studies = {name: value for name, value in vars(module).items() if isinstance(value, Study)}
    if found["name"]:
        if found["name"] not in studies:
            raise StudyError(
                f"{where}: expected one of its studies, {', '.join(studies) or 'none'}, got {found['name']}"
            )
        return studies[found["name"]]
    if len({id(study) for study in studies.values()}) != 1:
        raise StudyError(
            f"{where}: expected one lab.Study in it, found {', '.join(studies) or 'none'}; choose by {where}:NAME"
        )
    return next(iter(studies.values()))
