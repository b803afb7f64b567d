"""Which tests run a line of `src/`, and how long each takes: found once, and kept beside the project.

The suite runs in a copy of the project, with a context of coverage for each test. What a test forks or starts with
Python belongs to it too, unless that is killed or stops tracing: a line that only such processes run has no test.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coverage
import pytest
from coverage.exceptions import CoverageWarning

from helpers.mutations import Mutant, Source, modules

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".coverage.contexts"
#: What breaks lines; no other test depends on it.
OF_MUTANTS = ("mutants.py", "mutations.py", "mutation_edits.py", "project_copies.py", "tests_by_line.py")
#: A process that a test starts says in its context which test that is.
SETTINGS = """[run]
core = ctrace
parallel = true
data_file = {folder}/data
source_pkgs = weight_feedback
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected, module-not-imported, module-not-measured, couldnt-parse, no-sysmon
"""


@dataclass
class Traced:
    """What is known of the tests.

    Attributes:
        seconds: test to how long it takes, its fixtures included.
        failing: tests that fail although nothing is broken.
        lines: module to line to the tests that run it; "" stands for what is run when a module is imported.
        hashes: of what all tests depend on, and of each file of tests.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def passing(self) -> list[str]:
        """The tests that pass while nothing is broken."""
        return [test for test in self.seconds if test not in {*self.failing}]

    def rounds(self, mutant: Mutant, most: float) -> list[dict[str, float]]:
        """Return the tests to run on a mutant, and of each how long it takes.

        First those that run the line. Then the others of their files, as the first test of a file may do the work
        of all: what it has made for them, or what is kept from call to call. A line that isn't run in a test, but
        when its module is imported, or in a process that can't be traced, meets the quickest of those that run
        lines with the name that it defines, and of those that run other lines of its module or are named after it.

        Args:
            mutant: the line.
            most: seconds for each round of tests that don't run the line.

        Returns:
            Rounds, none of which is empty; none at all where no test runs anything of the module.
        """
        within = bodies(mutant.module)
        if mutant.number in within:
            first = self.running((mutant.module, [mutant.number])) or self.running((mutant.module, mutant.lines))
            files = {file_of(test) for test in first}
            second = {test for test in self.passing if file_of(test) in files}
        else:
            first, second = self.running(*uses(mutant)), set()
        if not first or mutant.number not in within:
            first = self.quickest(first, most)
            second = self.quickest({*self.running((mutant.module, within)), *self.named(mutant)} - {*first}, most)
        rounds = [first, [test for test in second if test not in {*first}]]
        return [{test: self.seconds[test] for test in tests} for tests in rounds if tests]

    def named(self, mutant: Mutant) -> list[str]:
        """Return the tests of the file that is named after a module."""
        folder, _, name = mutant.module.rpartition("/")
        if folder.startswith("lab/"):  # the tests of all its packages are in one folder
            folder = "lab"
        file = f"tests/{folder}/test_{name}.py" if folder else f"tests/test_{name}.py"
        return [test for test in self.passing if file_of(test) == file]

    def running(self, *places: tuple[str, Iterable[int]]) -> set[str]:
        """Return the tests that run some lines, those of each module given by their numbers."""
        lines = [self.lines.get(module, {}).get(number, ()) for module, numbers in places for number in numbers]
        return {test for tests in lines for test in tests}.intersection(self.passing)

    def quickest(self, tests: Iterable[str], most: float) -> list[str]:
        """Return those of some tests that take the least time, together no more than so many seconds."""
        found, left = [], most
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            left -= self.seconds[test]
            if left < 0:
                break
            found.append(test)
        return found

    def unknown(self) -> list[str]:
        """Return the files of tests of which nothing is known."""
        return [file for file in sorted(hashes()) if file not in self.hashes]

    def forget(self, files: set[str]) -> None:
        """Leave out what is known of the tests of some files."""
        self.seconds = {test: seconds for test, seconds in self.seconds.items() if file_of(test) not in files}
        self.failing = [test for test in self.failing if file_of(test) not in files]
        for lines in self.lines.values():
            for line, tests in lines.items():
                lines[line] = [test for test in tests if file_of(test) not in files]

    def add(self, other: Traced, files: Iterable[str]) -> None:
        """Add what was found of the tests of other files."""
        now = hashes()
        self.hashes |= {file: now[file] for file in files}
        self.seconds |= other.seconds
        self.failing += other.failing
        for module, lines in other.lines.items():
            mine = self.lines.setdefault(module, {})
            for line, tests in lines.items():
                mine[line] = sorted({*mine.get(line, ()), *tests})


def file_of(test: str) -> str:
    """Return a test's file."""
    return test.partition("::")[0]


@functools.cache
def bodies(module: str) -> frozenset[int]:
    """Return the numbers of the lines in functions of a module: the others are run when it is imported."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(Source.of(module).text)):
        if isinstance(node, ast.FunctionDef):
            lines.update(range(node.body[0].lineno, node.end_lineno + 1))
    return frozenset(lines)


@functools.cache
def mentions() -> dict[str, dict[str, list[int]]]:
    """Return each name to the modules and lines, within functions, that have it."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for module in modules():
        within = bodies(module)
        for node in ast.walk(ast.parse(Source.of(module).text)):
            if isinstance(node, ast.Name | ast.Attribute) and node.end_lineno in within:
                found[node.id if isinstance(node, ast.Name) else node.attr][module].append(node.end_lineno)
    return found


def uses(mutant: Mutant) -> list[tuple[str, Iterable[int]]]:
    """Return the lines of all modules that use what a line outside of functions defines."""
    tree = ast.parse(Source.of(mutant.module).text)
    places: list[tuple[str, Iterable[int]]] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or getattr(node, "lineno", 0) not in mutant.lines:
            continue
        names = [
            name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        ]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
            places.append(
                (mutant.module, bodies(mutant.module).intersection(range(node.lineno, node.end_lineno + 1)))
            )
        for name in names:
            places += mentions().get(name, {}).items()
    return places


def hashes() -> dict[str, str]:
    """Return the hash of what all tests depend on, as that of "", and those of the files of tests."""
    found, common = {}, hashlib.sha256()
    for path in sorted([*(ROOT / "src").rglob("*.*"), *(ROOT / "tests").rglob("*.py"), ROOT / "pyproject.toml"]):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".pyc" or not path.is_file():
            continue
        if path.name.startswith("test_"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name not in OF_MUTANTS:
            common.update(name.encode() + b"\0" + path.read_bytes())
    return found | {"": common.hexdigest()}


def load() -> Traced:
    """Return what is known, as far as it still holds."""
    known = Traced(**json.loads(KEPT.read_text("utf-8"))) if KEPT.exists() else Traced()
    names = ["", *known.seconds]  # in the file, numbers stand for them
    for module, lines in known.lines.items():
        known.lines[module] = {int(line): [names[test] for test in tests] for line, tests in lines.items()}
    now = hashes()
    if known.hashes.get("") != now[""]:
        return Traced(hashes={"": now[""]})
    changed = {file for file, digest in known.hashes.items() if now.get(file) != digest}
    known.forget(changed)
    known.hashes = {file: digest for file, digest in known.hashes.items() if file not in changed}
    return known


def save(known: Traced) -> None:
    """Keep what is known."""
    numbers = {name: number for number, name in enumerate(["", *known.seconds])}
    lines = {
        module: {line: [numbers[test] for test in tests if test in numbers] for line, tests in lines.items()}
        for module, lines in known.lines.items()
    }
    KEPT.write_text(json.dumps(vars(known) | {"lines": lines}), "utf-8")


class Tracer:
    """A plugin of pytest that writes down which test runs what, how long it takes, and whether it fails.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.failing = folder, {}, []
        settings = folder / "settings"
        settings.write_text(SETTINGS.format(folder=folder), "utf-8")
        self.coverage = coverage.Coverage(config_file=str(settings))
        os.environ["COVERAGE_PROCESS_START"] = str(settings)  # for what is started with Python
        leave = os._exit

        def save_and_leave(status: int) -> None:
            if sys.gettrace() is not None:  # a forked process that goes on tracing
                self.coverage.save()
            leave(status)

        os._exit = save_and_leave
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        start = time.monotonic()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - start
            self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failing.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        found = {"seconds": self.seconds, "failing": sorted(set(self.failing))}
        (self.folder / "tests.json").write_text(json.dumps(found), "utf-8")


def collect(folder: Path, source: Path) -> Traced:
    """Read what a `Tracer` and the processes of its tests have written.

    Args:
        folder: where they have.
        source: the package that was traced.
    """
    combined = coverage.Coverage(config_file=str(folder / "settings"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)  # of files that processes left when they were killed
        combined.combine([str(folder)])
    data: Any = combined.get_data()
    lines: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        module = Path(file).relative_to(source).with_suffix("").as_posix()
        lines[module] = defaultdict(list)
        for line, contexts in data.contexts_by_lineno(file).items():
            # A process that a test started adds how far the test was.
            lines[module][line] = sorted({re.sub(r" \((setup|call|teardown)\)$", "", one) for one in contexts})
    return Traced(**json.loads((folder / "tests.json").read_text("utf-8")), lines=lines)
