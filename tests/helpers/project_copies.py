"""Tests of copies of the project, in forked processes: what `mutants.py` breaks, it breaks there."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from helpers.mutations import Mutant

ROOT = Path(__file__).resolve().parents[2]
#: What tests import: once, and not for each mutant.
HEAVY = (
    "hypothesis", "joblib", "matplotlib.figure", "pandas", "pydantic", "pytest", "safetensors.torch", "scipy.stats",
    "statsmodels.stats.multitest", "torch",
)  # fmt: skip
#: No messages, and no examples in their shortest form: it is enough to know that a test fails.
PYTEST = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "--hypothesis-seed=0",
          "--hypothesis-profile=mutants")  # fmt: skip


def survives(
    mutant: Mutant, rounds: Sequence[Sequence[str] | Mapping[str, float]], most: float | None = None
) -> bool:
    """Run tests on a copy of the project in which a line is broken.

    Args:
        mutant: what to break.
        rounds: files of tests, or tests and the seconds that each takes; each round runs if those before it are
            survived.
        most: seconds for a round; after them the tests count as failed, for somebody would notice that they hang.
    """
    with project() as copy:
        (copy / "src/weight_feedback" / f"{mutant.module}.py").write_text(mutant.source, encoding="utf-8")
        for tests in rounds:
            chosen = isinstance(tests, Mapping)
            files = sorted({test.partition("::")[0] for test in tests}) if chosen else tests
            code = forked(copy, [*PYTEST, "-x", *files], partial(Chosen, tests) if chosen else None, most)
            # Whatever else happens is noticed: tests fail or can't be imported, pytest itself breaks down.
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                return False
    return True


@contextmanager
def project() -> Iterator[Path]:
    """Give a copy of the project, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests", "docs", "examples", "benchmarks"):
            # Of results, tests read those that the documentation has.
            left_out = shutil.ignore_patterns("_build", "__pycache__", *["results"] * (part != "docs"))
            shutil.copytree(ROOT / part, copy / part, ignore=left_out)
        for file in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / file, copy)
        yield copy


def forked(
    copy: Path, options: Sequence[str], plugin: Callable[[], object] | None = None, most: float | None = None
) -> int:
    """Run pytest in a copy, in a process of its own; return pytest's exit code.

    Args:
        copy: of the project.
        options: of pytest.
        plugin: makes one, in the process.
        most: seconds; a process that takes longer is killed, as if a test had failed.
    """
    child = multiprocessing.get_context("fork").Process(target=supervise, args=(copy, options, plugin, most))
    child.start()
    child.join()
    return child.exitcode


def supervise(
    copy: Path, options: Sequence[str], plugin: Callable[[], object] | None, most: float | None
) -> NoReturn:
    """Run pytest in a forked process; end it after a time, and then whatever its tests have left."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what is left becomes a child of this process
    child, end = os.fork(), time.monotonic() + (math.inf if most is None else most)
    if not child:
        run(copy, options, plugin)
    done, status = 0, 0
    while not done and time.monotonic() < end:
        time.sleep(0.02)
        done, status = os.waitpid(child, os.WNOHANG)
    while left := children():
        for number in left:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
    code = os.waitstatus_to_exitcode(status) if done else -1
    os._exit(code if code >= 0 else pytest.ExitCode.TESTS_FAILED)  # what ends by a signal is noticed


def children() -> list[int]:
    """Return this process's children."""
    return [
        int(number) for file in Path("/proc/self/task").glob("*/children") for number in file.read_text().split()
    ]


def run(copy: Path, options: Sequence[str], plugin: Callable[[], object] | None) -> NoReturn:
    """Run pytest in this process, in which torch has been imported already, and end it."""
    os.setsid()
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.path.insert(0, str(copy / "src"))
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            status = int(pytest.main([*options], plugins=[plugin()] if plugin else []))
        except BaseException:
            status = pytest.ExitCode.INTERNAL_ERROR
    os._exit(status)


class Chosen:
    """A plugin of pytest that runs some tests alone, quick files first, and ends when one takes far too long.

    Args:
        seconds: test to how long it takes.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds, self.files = seconds, defaultdict(list)
        for test, known in seconds.items():
            self.files[test.partition("::")[0]].append(known)
        self.nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
        self.watch(0)

    def watch(self, known: float) -> None:
        # No signal, since tests have some of their own.
        faulthandler.dump_traceback_later(60 + 5 * known, exit=True, file=self.nowhere)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        mean = {file: sum(known) / len(known) for file, known in self.files.items()}
        chosen = [item for item in items if item.nodeid in self.seconds]
        items[:] = sorted(chosen, key=lambda item: (mean[file := of(item)], file, self.seconds[item.nodeid]))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # The slowest of a file may have been slow because it came first, and made what is there for all.
        self.watch(max(self.files[of(item)]))


def of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def warm() -> None:
    """Import what takes long, and nothing of this project."""
    for module in HEAVY:
        importlib.import_module(module)
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # tests collect garbage, and would go over all of this each time
