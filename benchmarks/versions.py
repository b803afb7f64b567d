"""The library as it was at another commit, beside this one in one process."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def at(commit: str) -> ModuleType:
    """Import the library as it was at a commit of this repository; ``import weight_feedback`` stays what it is.

    Args:
        commit: as git names it.
    """
    packed = subprocess.run(
        ["git", "archive", commit, "src/weight_feedback"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weight_feedback"}
    for name in ours:
        del sys.modules[name]
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        sys.path.insert(0, str(Path(folder, "src")))
        try:
            return importlib.import_module("weight_feedback")
        finally:
            sys.path.pop(0)
            for name in [name for name in sys.modules if name.partition(".")[0] == "weight_feedback"]:
                del sys.modules[name]
            sys.modules.update(ours)
