"""How commands start: help and refusals import next to nothing, reports no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from helpers.made_up_study import STUDY, fill
from helpers.studies import document
from weight_feedback.lab.commands.cli import COMMANDS
from weight_feedback.lab.store.store import Store

#: None of these is needed to say what a command takes.
HEAVY = {"torch", "numpy", "scipy", "pandas", "matplotlib", "joblib", "vl_convert", "pydantic", "mlxtend", "pooch"}
#: Gives commands in one process, and says how each ended, and what is imported then.
GIVEN = """
import json, sys
from weight_feedback.lab.commands.cli import main

codes = []
for args in json.loads(sys.argv[1]):
    try:
        main(args)
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code)
print("")
print(json.dumps([codes, sorted(sys.modules)]))
"""


def given(commands: list[list[str]], folder: Path) -> tuple[list[int], set[str], str]:
    """Give commands in a new process; return their codes, the modules that are imported then, and the output."""
    process = subprocess.run(
        [sys.executable, "-c", GIVEN, json.dumps(commands)], capture_output=True, text=True, cwd=folder, check=True
    )
    printed, _, last = process.stdout.rstrip().rpartition("\n")
    codes, modules = json.loads(last)
    return codes, set(modules), printed


def test_help_and_refusals_import_next_to_nothing(tmp_path) -> None:
    helped = [
        ["--version"],
        ["--help"],
        *([name, "--help"] for name in COMMANDS),
        *(["data", name, "--help"] for name in ("list", "fetch", "verify")),
    ]
    refused = [[], ["rnu"], ["run"], ["run", "quick", "--jbos", "1"], ["run", "quick", "--jobs", "0"]]
    codes, modules, printed = given(helped + refused, tmp_path)
    assert codes == [0] * len(helped) + [2] * len(refused)
    assert not HEAVY & modules
    # tyro asks it what `X | None` means, which takes as long as all else together.
    assert "typeguard" not in modules
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    assert [name for name in listed if name in COMMANDS] == [*COMMANDS]


def test_reports_and_tables_of_a_finished_study_import_no_torch(tmp_path) -> None:
    study = STUDY.model_dump(mode="json", exclude_none=True)
    (tmp_path / "made-up.toml").write_text(document(study), encoding="utf-8")
    fill(Store(tmp_path / "results" / STUDY.name))
    codes, modules, _ = given([["report", "made-up.toml"], ["export", "made-up.toml"]], tmp_path)
    assert codes == [0, 0]
    assert {"numpy", "matplotlib", "pandas"} <= modules
    assert not {"torch", "joblib", "weight_feedback.attach"} & modules
