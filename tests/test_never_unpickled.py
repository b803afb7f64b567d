"""No file is unpickled or run: the sources call nothing that could, and readers work where nothing can."""

from __future__ import annotations

import ast
import builtins
import pickle
from pathlib import Path

import pytest
import torch

import weight_feedback
from helpers.parsers import targets

SOURCES = Path(weight_feedback.__file__).parent
#: What loads or runs objects, code or commands out of data.
FORBIDDEN = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "jsonpickle", "copyreg",
    "torch.load", "torch.jit.load", "torch.hub", "torch.package", "torch.export.load", "joblib.load", "numpy.load",
    "np.load", "pd.read_pickle", "pandas.read_pickle", "pd.read_hdf", "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "tarfile", "zipfile", "shutil.unpack_archive", "xml",
}  # fmt: skip


def names(source: str) -> set[str]:
    """Return the modules that a source imports, and the dotted names that it calls or mentions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


#: Where a command and the processes that it starts send each other what they are to do, and what came of it.
BETWEEN_PROCESSES = {"lab/execution/isolation.py": {"pickle", "cloudpickle"}}


def forbidden(source: str) -> set[str]:
    return {name for name in names(source) for bad in FORBIDDEN if name == bad or name.startswith(f"{bad}.")}


@pytest.mark.parametrize(
    "path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.relative_to(SOURCES).as_posix()
)
def test_no_source_names_what_unpickles_or_runs(path) -> None:
    allowed = BETWEEN_PROCESSES.get(path.relative_to(SOURCES).as_posix(), set())
    assert {name.partition(".")[0] for name in forbidden(path.read_text("utf-8"))} <= allowed


def test_the_search_finds_what_it_should() -> None:
    for source in (
        "import pickle",
        "from torch import load",
        "torch.load(x)",
        "eval(x)",
        "import yaml.nodes",
        "f = exec",
    ):
        assert forbidden(source), source
    assert not forbidden("import pickletools; torch.save; self.load(x); evaluate(x)")


def test_every_reader_works_where_nothing_can_be_unpickled(tmp_path, monkeypatch) -> None:
    parsers = targets(tmp_path / "files")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled or run")

    with monkeypatch.context() as patch:
        for module, name in [
            *((pickle, name) for name in ("load", "loads", "Unpickler", "_Unpickler")),
            (torch, "load"),
            (builtins, "eval"),
        ]:
            patch.setattr(module, name, refuse)
        for target in parsers.values():
            for seed in target.seeds:
                target.parse(seed)
