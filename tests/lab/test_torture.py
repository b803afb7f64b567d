"""A study may be killed at any moment: running it again ends with the same bits, and nothing is lost or doubled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

TORTURE = Path(__file__).parents[1] / "torture.py"
FAILPOINTS = [f"at failpoints of {kind}: " for kind in ("a run", "a report", "a merge", "setting aside")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--kills", "0", "--pools", "0", "--own", "0"], FAILPOINTS),
        (
            ["--kills", "200", "--pools", "1", "--own", "0", "--no-failpoints"],
            ["at random: 100 kills", "at random: 1 kills"],
        ),
        (["--kills", "0", "--pools", "0", "--own", "100", "--no-failpoints"], ["at random: 100 kills"]),
    ],
    ids=["at every failpoint", "at random", "of trials with processes of their own"],
)
def test_nothing_is_lost(arguments: Sequence[str], expected: Sequence[str]) -> None:
    # A process of its own: it forks, which a process with threads, as this one may be, shouldn't.
    command = [sys.executable, str(TORTURE), "--jobs", "1", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(line in done.stdout for line in expected), done.stdout
