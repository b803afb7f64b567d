"""Failpoints: a process dies where it is told to, and nowhere else."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from weight_feedback import failpoints
from weight_feedback.failpoints import NAMES

FILE = Path(failpoints.__file__)
# By its path, since the whole package takes seconds to import.
PROGRAM = "import runpy, sys; reach = runpy.run_path(sys.argv[1])['reach']; [reach(name) for name in sys.argv[2:]]"


def run(points: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {f"WEIGHT_FEEDBACK_{name}": value for name, value in environment.items()}
    command = [sys.executable, "-c", PROGRAM, str(FILE), *points]
    return subprocess.run(command, env=variables, check=False, capture_output=True, text=True)


def test_nothing_happens_unless_it_is_asked_for(tmp_path) -> None:
    assert run(NAMES * 2).returncode == 0
    assert run(NAMES * 2, FAILPOINT="", FAILPOINT_LOG="").returncode == 0
    failpoints.reach("no such name is looked for")


@pytest.mark.parametrize(
    ("wanted", "reached"),
    [
        ("write-half", ["write-begin", "write-half"]),
        ("write-half:1", ["write-begin", "write-half"]),
        ("write-begin:2", ["write-begin", "write-half", "write-begin"]),
        ("write-whole", ["write-begin", "write-half", "write-begin", "write-half"]),
        ("write-half:3", ["write-begin", "write-half", "write-begin", "write-half"]),
    ],
)
def test_a_process_dies_the_nth_time_that_it_reaches_a_point(tmp_path, wanted, reached) -> None:
    log = tmp_path / "log"
    done = run(["write-begin", "write-half"] * 2, FAILPOINT=wanted, FAILPOINT_LOG=str(log))
    name, _, count = wanted.partition(":")
    died = reached.count(name) == int(count or 1)
    assert done.returncode == (-signal.SIGKILL if died else 0)
    assert log.read_text().splitlines() == reached
    assert run(["write-begin", "write-half"] * 2, FAILPOINT=wanted).returncode == done.returncode


def test_what_is_reached_can_be_recorded_without_dying(tmp_path) -> None:
    log = tmp_path / "log"
    assert run(NAMES * 2, FAILPOINT_LOG=str(log)).returncode == 0
    assert tuple(log.read_text().splitlines()) == NAMES * 2


@pytest.mark.parametrize(
    "wanted", ["write", "write-half:0", "write-half:x", "write-half:-1", "write-half:1:1", ":1"]
)
def test_what_is_no_failpoint_is_an_error_at_once(wanted) -> None:
    done = run([], FAILPOINT=wanted)
    assert done.returncode == 1
    assert "ValueError: WEIGHT_FEEDBACK_FAILPOINT: expected NAME or NAME:N" in done.stderr
    assert all(name in done.stderr for name in (*NAMES, repr(wanted)))


def test_every_name_is_reached_somewhere_and_every_point_has_a_name() -> None:
    sources = [path.read_text(encoding="utf-8") for path in FILE.parent.rglob("*.py")]
    assert {name for source in sources for name in re.findall(r"\breach\(\"(.+?)\"\)", source)} == set(NAMES)


def test_an_import_brings_in_nothing() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["os"]
