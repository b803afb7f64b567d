"""What holds for the package as a whole: its names, what importing it costs, and that its checkers bite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mypy.api
import pytest

import weight_feedback as wf

ROOT = Path(__file__).parent.parent
HEAVY = {
    "pandas", "pydantic", "tyro", "rich", "joblib", "matplotlib", "scipy", "mlxtend", "pooch", "safetensors",
    "weight_feedback.lab",
}  # fmt: skip


def test_public_names() -> None:
    assert all(hasattr(wf, name) for name in wf.__all__)
    assert wf.__all__ == sorted(set(wf.__all__))
    assert wf.__version__
    public = {name for name, value in vars(wf).items() if callable(value) and not name.startswith("_")}
    assert public == set(wf.__all__)


def test_import_brings_in_no_lab_dependency() -> None:
    code = "import sys, weight_feedback; print(*sorted(sys.modules), sep='\\n')"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(result.stdout.split())
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
    ]
    file = tmp_path / "use.py"
    file.write_text("\n".join(lines) + "\n")
    # The project's own cache: PyTorch's types take a minute to read, once.
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), "--strict"]
    report, problems, _ = mypy.api.run([*options, "--no-error-summary", "--hide-error-context", str(file)])
    assert problems == ""
    errors = [line.removeprefix(f"{file}:") for line in report.splitlines() if ": error:" in line]
    assert {int(line.split(":")[-3]) for line in errors} == {6, 7, 8}, report
    for message in ('Argument 1 to "attach"', 'Argument "into" to "attach"', '"DenseProjection"', '"str"'):
        assert message in report, report


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("streams.py", "import weight_feedback.lab.tasks.notebook.networks", "The library never imports the lab"),
        ("layers.py", "import scipy", "The library needs torch and numpy alone"),
        ("summaries/base.py", "import weight_feedback.signals", "The library's parts point one way"),
    ],
)
def test_import_contracts_find_a_planted_violation(tmp_path: Path, file: str, line: str, contract: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / "src" / "weight_feedback" / file
    clean = broken.read_text()
    for text, verdict in ((clean, "KEPT"), (clean.rstrip() + f"\n{line}\n", "BROKEN")):
        broken.write_text(text)
        result = subprocess.run(
            [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"{contract} {verdict}" in result.stdout, result.stdout + result.stderr
