"""What breaks lines breaks the right ones, the same each time, and runs the tests that should notice."""

from __future__ import annotations

import ast

import pytest

from helpers.mutations import Source, breakable, made, modules, mutants, sample
from helpers.tests_by_line import Traced
from mutants import EQUIVALENT, TESTS

TEXT = '''
"""A text."""
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import os
__all__ = ["f"]
Kind = int | str
SIZE: int = 3

class A(B):
    """More of it."""
    @property
    def f(self, x: list[0] = None) -> tuple[1]:
        """And more."""
        if x is None and not self.g:
            raise ValueError(f"not {x[0]}")
        for y in x[1:]:
            self.h[y] += min(y, 2)
        with self.lock:
            g = cast(int, h(x, key=True))
        text = f"{x + 1}"
        return g.strip()
'''
BROKEN = {
    "SIZE: int = 3": ["SIZE: int = 4"],
    "@property": [""],
    "if x is None and not self.g:": [
        "if not (x is None and (not self.g)):",
        "if (x is None or not self.g):",
        "if (x is not None) and not self.g:",
        "if x is None and (self.g):",
    ],
    'raise ValueError(f"not {x[0]}")': ["pass"],
    "for y in x[1:]:": ["for y in ():", "for y in x[:]:", "for y in x[2:]:"],
    "self.h[y] += min(y, 2)": [
        "pass",
        "self.h[y] += max(y, 2)",
        "self.h[y] += min(2, y)",
        "self.h[y] += min(y, 3)",
    ],
    "with self.lock:": ["with __import__('contextlib').nullcontext():"],
    "g = cast(int, h(x, key=True))": ["g = cast(int, h(x, ))", "g = cast(int, h(x, key=False))"],
    'text = f"{x + 1}"': ["text = None"],
    "return g.strip()": ["return None", "return (g)"],
}


def test_lines_are_broken_and_types_texts_and_imports_are_not() -> None:
    source = Source("m", TEXT)
    found = {}
    for number, ways in breakable(source).items():
        broken = [made(source, way) for way in ways]
        found[source.lines[number - 1].strip()] = sorted({one.line.strip() for one in broken})
        assert {one.place for one in broken} <= {"", "A", "A.f"}
    assert found == {line: sorted(lines) for line, lines in BROKEN.items()}


def test_a_sample_depends_on_its_seed_alone() -> None:
    sources = [Source.of(module) for module in ("attach", "configs", "diagnose", "layers")]
    first = sample(40, 0, sources)
    assert first == sample(40, 0, sources) == sample(80, 0, sources[::-1])[:40]
    assert len({*first} & {*sample(40, 1, sources)}) < 10


def drawn(text: str, count: int) -> list[tuple[str, ...]]:
    return [mutant.key for mutant in sample(count, 0, [Source("m", text)])]


def test_a_change_elsewhere_leaves_a_sample_as_it_was() -> None:
    before = drawn(TEXT, 99)
    assert len(before) == len(BROKEN)
    assert drawn(TEXT.replace("class", "# A comment.\n\nimport os\nclass"), 99) == before
    longer = drawn(TEXT + "\nif 1:\n    f(2)\n", 99)
    assert len(longer) == len(before) + 2
    assert [key for key in longer if key in before] == before
    twice = TEXT + TEXT.partition("SIZE: int = 3")[2].replace("A(B)", "C")
    assert len(drawn(twice, 99)) == 2 * len(before) - 1  # equal lines are told apart


def test_what_is_drawn_is_python_and_something_else() -> None:
    for mutant in sample(50, 7):
        whole = Source.of(mutant.module)
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(whole.text)), mutant
        assert whole.lines[mutant.number - 1] == mutant.was
        assert mutant.number in mutant.lines


def test_what_needs_no_test_has_a_reason_and_is_there() -> None:
    assert all(reason.strip() for reason in EQUIVALENT.values())
    assert {key[0].partition(":")[0] for key in EQUIVALENT} <= {*modules()}
    assert {*TESTS} <= {*modules()}
    assert next(mutants("files")).key[0] == "files"


@pytest.fixture
def traced() -> Traced:
    seconds = {"a.py::one": 3.0, "a.py::two": 1.0, "b.py::three": 2.0, "b.py::four": 9.0, "c.py::five": 1.0}
    return Traced(seconds, ["b.py::four"], {}, {"": "0", "a.py": "1", "b.py": "2", "c.py": "3"})


def test_a_line_meets_the_tests_that_run_it_and_then_those_beside_them(traced) -> None:
    streams = Source.of("streams")
    (mutant,) = [m for m in sample(99, 0, [streams]) if "return" in m.was]
    traced.lines = {"streams": {mutant.number: ["", "a.py::one", "b.py::four", "gone"]}}
    assert traced.rounds(mutant, 9) == [{"a.py::one": 3.0}, {"a.py::two": 1.0}]
    traced.lines["streams"][mutant.number] = ["b.py::four"]
    assert traced.rounds(mutant, 9) == []
    # In processes that can't be traced: whatever runs a line of the module, in the time that there is.
    traced.lines["streams"][mutant.number - 1] = ["a.py::one", "b.py::three", "c.py::five"]
    assert traced.rounds(mutant, 9) == [{"c.py::five": 1.0, "b.py::three": 2.0, "a.py::one": 3.0}]
    assert traced.rounds(mutant, 5) == [{"c.py::five": 1.0, "b.py::three": 2.0}]


def test_what_is_known_of_changed_files_is_forgotten(traced) -> None:
    traced.lines = {"m": {1: ["a.py::one", "b.py::three"]}}
    traced.forget({"a.py"})
    assert [*traced.seconds] == ["b.py::three", "b.py::four", "c.py::five"]
    assert traced.lines == {"m": {1: ["b.py::three"]}}
