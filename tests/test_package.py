"""What holds for the package as a whole: its names, what importing it costs, and that its checkers bite."""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import mypy.api
import pytest

import weight_feedback as wf
from weight_feedback import lab

ROOT = Path(__file__).parent.parent
HEAVY = {
    "pandas", "pydantic", "tyro", "rich", "joblib", "matplotlib", "scipy", "mlxtend", "pooch", "safetensors",
    "weight_feedback.lab",
}  # fmt: skip


def test_public_names() -> None:
    assert all(hasattr(wf, name) for name in wf.__all__)
    assert wf.__all__ == sorted(set(wf.__all__))
    assert wf.__version__
    assert set(wf.__all__) <= set(dir(wf))
    public = {name for name in dir(wf) if callable(getattr(wf, name)) and not name.startswith("_")}
    assert public == set(wf.__all__)


@pytest.mark.parametrize("package", [wf, lab], ids=["library", "lab"])
def test_names_are_handed_on_as_type_checkers_see_them(package) -> None:
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name  # else type checkers take it for private
            seen[alias.name] = getattr(importlib.import_module(str(node.module)), alias.name)
    assert {name: getattr(package, name) for name in package.__all__} == seen


def test_names_are_as_those_of_any_package() -> None:
    names: dict[str, object] = {}
    exec("from weight_feedback import *", names)
    assert all(names[name] is getattr(wf, name) for name in wf.__all__)
    with pytest.raises(AttributeError, match=r"^module 'weight_feedback' has no attribute 'atach'$"):
        _ = wf.atach
    for name in wf.__all__:
        assert pickle.loads(pickle.dumps(getattr(wf, name))) is getattr(wf, name)


ORDERS = """
import importlib, pkgutil, sys, types

import weight_feedback as first

modules = [found.name for found in pkgutil.iter_modules(first.__path__, "weight_feedback.")]
same = {name.rpartition(".")[2] for name in modules} & set(first.__all__)
assert same >= {"attach", "check", "diagnose", "fold", "signals"}, same
# Each of these as the first that is imported; then all others, before and after the names are used.
firsts = ["lab.tasks.fields", "pretrained", *same]
for module in [f"weight_feedback.{name}" for name in firsts]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "weight_feedback"]:
        del sys.modules[name]
    imported = importlib.import_module(module)
    assert isinstance(imported, types.ModuleType) and imported.__name__ == module
    wf = sys.modules["weight_feedback"]
    for name in wf.__all__:
        assert not isinstance(getattr(wf, name), types.ModuleType) and callable(getattr(wf, name)), (module, name)
    for name in modules:
        importlib.import_module(name)
    for name in wf.__all__:
        assert not isinstance(getattr(wf, name), types.ModuleType), (module, name)
    assert isinstance(wf.lab, types.ModuleType) and isinstance(wf.summaries, types.ModuleType)
print("done")
"""


def test_a_name_is_never_the_module_of_the_same_name() -> None:
    result = subprocess.run([sys.executable, "-c", ORDERS], check=False, capture_output=True, text=True)
    assert result.stdout == "done\n", result.stderr


def loaded_by(code: str) -> set[str]:
    code = f"import sys\n{code}\nprint(*sorted(sys.modules), sep='\\n')"
    return set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )


def test_import_brings_in_nothing_before_it_is_used() -> None:
    assert not {"torch", "numpy", *HEAVY} & loaded_by(
        "import weight_feedback as wf; wf.__all__, dir(wf), wf.__version__"
    )


def test_import_brings_in_no_lab_dependency() -> None:
    loaded = loaded_by("from weight_feedback import *")
    assert "torch" in loaded
    assert not HEAVY & loaded


def test_type_checker_finds_a_planted_error(tmp_path: Path) -> None:
    lines = [
        "import torch",
        "import weight_feedback as wf",
        "model = torch.nn.Sequential(torch.nn.Linear(4, 2))",
        "wf.attach(model, into='0', summary=wf.DenseProjection(3, scale='isometry'))",
        "folded: torch.nn.Module = wf.fold(model, {'0': torch.zeros(3)})",
        "wf.attach(1, into=2)",
        "wf.DenseProjection(3, scale='isometri')",
        "z: str = wf.signals(model)['0'].out_features",
        "wf.atach(model)",
    ]
    file = tmp_path / "use.py"
    file.write_text("\n".join(lines) + "\n")
    # The project's own cache: PyTorch's types take a minute to read, once.
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), "--strict"]
    report, problems, _ = mypy.api.run([*options, "--no-error-summary", "--hide-error-context", str(file)])
    assert problems == ""
    errors = [line.removeprefix(f"{file}:") for line in report.splitlines() if ": error:" in line]
    assert {int(line.split(":")[-3]) for line in errors} == {6, 7, 8, 9}, report
    for message in (
        'Argument 1 to "attach"',
        'Argument "into" to "attach"',
        '"DenseProjection"',
        '"str"',
        '"atach"',
    ):
        assert message in report, report


PLANTED = {
    "The library never imports the lab": ("streams.py", "import weight_feedback.lab.tasks.notebook.networks"),
    "The library needs torch and numpy alone": ("layers.py", "import scipy"),
    "The library's parts point one way": ("summaries/base.py", "import weight_feedback.signals"),
    "The lab's packages point one way": ("lab/store/merge.py", "import weight_feedback.lab.statistics.gate"),
    "The lab's engine knows no task": ("lab/training/states.py", "import weight_feedback.lab.tasks.notebook.arms"),
    "Reports and statistics never import torch": ("lab/statistics/estimates.py", "import torch"),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> list[str]:
    """What the import linter says of the package, and of a copy with all violations planted."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    said = []
    for planted in ((), PLANTED.values()):
        for file, line in planted:
            path = folder / "src" / "weight_feedback" / file
            path.write_text(path.read_text().rstrip() + f"\n{line}\n")
        result = subprocess.run(
            [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        said.append(result.stdout + result.stderr)
    return said


@pytest.mark.parametrize("contract", PLANTED)
def test_import_contracts_find_a_planted_violation(verdicts: list[str], contract: str) -> None:
    whole, broken = verdicts
    assert f"{contract} KEPT" in whole, whole
    assert f"{contract} BROKEN" in broken, broken
    # Each line is found by the contract that forbids it.
    file, line = PLANTED[contract]
    assert f"{Path(file).stem} -> {line.removeprefix('import ')}" in broken, broken
