"""Every example runs, alone and offline, and prints what its docstring promises."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weight_feedback as wf

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
STUDIES = sorted((Path(__file__).parents[1] / "examples" / "lab").glob("*.py"))
HOME = Path(wf.__file__).parents[1]  # of the package under test, whatever the working directory
# Runs a study with one seed and one epoch, and prints the metrics of its trials.
RUN_SMALL = """
import json
import sys

from weight_feedback import lab
from weight_feedback.lab.study.scripts import load_script

study = load_script(sys.argv[1])
small = lab.Study(**{**study.model_dump(), "seeds": 1, "epochs": 1})
store = lab.Store("results")
lab.run(small, store, jobs=1, device="cpu")
records = [store.read(trial) for _, trial in small.trials()]
print(json.dumps([record and record.result["metrics"] for record in records]))
"""


def needs(tree: ast.Module) -> set[str]:
    """The packages that a script imports."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    kept = dict.fromkeys(("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"), str(folder))
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder, env=os.environ | kept | offline, capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


def test_there_are_examples() -> None:
    assert {"own_net.py", "tiny_gpt.py", "in_lightning.py", "in_trainer.py", "under_fsdp.py", "timm_vit.py"} <= {
        path.name for path in EXAMPLES
    }
    assert {"own_net.py", "lightning_module.py", "hf_trainer.py", "timm_vit.py"} <= {path.name for path in STUDIES}


def parse(script: Path) -> ast.Module:
    """Return a script's tree, unless a package that it needs is missing."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    absent = [name for name in needs(tree) if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {absent}")
    return tree


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example(script, tmp_path) -> None:
    tree = parse(script)
    described = ast.get_docstring(tree)
    stated = re.search(rf"Run: (python|torchrun)( .*)? examples/{script.name}", described)
    module = ["-m", "torch.distributed.run", *stated[2].split()] if stated[1] == "torchrun" else []
    promised = re.findall(r'"([^"]+)"', described)
    assert promised
    done = run([*module, str(script), "--steps", "3"], tmp_path)
    assert done.returncode == 0, done.stderr
    missing = [phrase for phrase in promised if phrase not in done.stdout]
    assert not missing, (missing, done.stdout)
    assert "Warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("script", STUDIES, ids=lambda path: path.stem)
def test_study(script, tmp_path) -> None:
    tree = parse(script)
    asks, _ = ast.get_docstring(tree).split("\n", 1)
    assert re.fullmatch(rf".+\? Run: weight-feedback run examples/lab/{script.name}\.", asks)
    done = run(["-c", RUN_SMALL, str(script)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    trials = json.loads(done.stdout)
    assert len(trials) == 2
    for metrics in trials:
        assert metrics, (trials, done.stderr)
        for values in metrics.values():
            assert len(values) == 1
            assert math.isfinite(values[0])
