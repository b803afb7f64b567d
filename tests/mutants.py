"""Break one line at a time of what guards results, and see that some test fails: `make mutants`.

For each module and its tests: guards that never refuse, bounds that are off by one or missing, writes that aren't
synced or renamed, arithmetic with another sign. Prints what survives, and leaves with status 1 if anything does.

    python tests/mutants.py                     # all modules; takes long
    python tests/mutants.py files lab/store     # some of them
    python tests/mutants.py --list lab/store    # what would be broken
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Module to the tests that guard it, the fastest first.
TESTS = {
    "files": ["tests/test_files.py", "tests/test_failpoints.py"],
    "lab/store": ["tests/lab/test_store.py", "tests/lab/test_torn_files.py"],
    "lab/merge": ["tests/lab/test_merge.py"],
    "lab/checkpoints": ["tests/lab/test_checkpoints.py", "tests/lab/test_resume.py"],
    "lab/formats": [
        "tests/lab/test_formats.py",
        "tests/lab/test_archives.py",
        "tests/lab/test_pickles.py",
        "tests/lab/test_inputs.py",
        "tests/lab/test_datasets.py",
    ],
    "lab/archives": ["tests/lab/test_archives.py"],
    "lab/pickles": ["tests/lab/test_pickles.py"],
    "lab/inputs": ["tests/lab/test_inputs.py"],
    "lab/settings": ["tests/lab/test_spec.py", "tests/lab/test_studies.py", "tests/lab/test_hostile_names.py"],
    "lab/spec": [
        "tests/lab/test_spec.py",
        "tests/lab/test_studies.py",
        "tests/lab/test_confined.py",
        "tests/lab/test_control_arms.py",
        "tests/lab/test_cohorts.py",
    ],
    "lab/estimates": ["tests/lab/test_estimates.py"],
    "lab/verdicts": ["tests/lab/test_verdicts.py"],
    "lab/calibration": ["tests/lab/test_calibration.py"],
}
#: What can be broken without changing what anybody sees, and why: module and the line as mutated.
EQUIVALENT = {
    ("lab/estimates", "_BLOCK = 4000001"): "bounds memory; no result depends on it",
    ("lab/estimates", "rows = max(2, _BLOCK // samples.size)"): "the size of a block, likewise",
    ("lab/estimates", "rows = max(2, _BLOCK // max(samples.shape))"): "the size of a block, likewise",
    (
        "lab/estimates",
        "return 0.0 if (room >= _ROUNDING * margin) else 1.0",
    ): "what is taken for rounding has no sharp limit: one value of it more or less is rounding too",
    (
        "lab/verdicts",
        'return Verdict("better" if ((e.mean >= 0)) == more_is_better else "worse", e, flip_p, tost_p)',
    ): "a mean of exactly 0 is the likeliest of all flips: its p-value is 1",
    (
        "lab/verdicts",
        "return _smallest(lambda n: (detection_power(n, abs(effect) / sd, alpha) > POWER))",
    ): "the power is a continuous function of effect and spread: it is never exactly 0.8",
    (
        "lab/verdicts",
        "return _smallest(lambda n: (equivalence_power(n, sd, margin, difference, alpha) > POWER))",
    ): "likewise; without spread it is 0 or 1",
    (
        "lab/calibration",
        "t_rejections=_share(int(((t_p <= 0.05)).sum()), studies),",
    ): "the p-value is continuous: it is never exactly 0.05",
    (
        "lab/calibration",
        "flip_rejections=_share(int(((flips_p <= 0.05)).sum()), studies),",
    ): "0.05 is no whole number of 2ⁿ⁻¹ths, nor of 10,001sts",
}
#: Where formulas are broken too.
STATISTICS = ("lab/estimates", "lab/calibration")
DURABLE = ("fsync", "flush", "replace", "rename", "unlink", "link")
FLIPPED: dict[type[ast.cmpop], str] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
SIGNS: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
#: What tests import: once, and not for each mutant.
HEAVY = (
    "hypothesis", "joblib", "matplotlib.figure", "pandas", "pydantic", "pytest", "safetensors.torch", "scipy.stats",
    "statsmodels.stats.multitest", "torch",
)  # fmt: skip
#: No messages, and no examples in their shortest form: it is enough to know that a test fails.
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "--hypothesis-seed=0",
          "--hypothesis-profile=mutants")  # fmt: skip
BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length")


@dataclass(frozen=True)
class Mutant:
    """One line broken: the module, the line's number, and the source with the line as it is now."""

    module: str
    number: int
    line: str
    source: str

    def __str__(self) -> str:
        """Where, and what it has become."""
        return f"{self.module}.py:{self.number}: {self.line.strip()}"


def mutants(module: str) -> Iterator[Mutant]:
    """Yield every way to break a module, each once."""
    source = (ROOT / "src/weight_feedback" / f"{module}.py").read_text(encoding="utf-8")
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    raw, seen = source.encode(), set()
    for node in ast.walk(ast.parse(source)):
        for part, text in edits(node, module):
            begin = starts[part.lineno - 1] + part.col_offset
            end = starts[part.end_lineno - 1] + part.end_col_offset
            broken = (raw[:begin] + text.encode() + raw[end:]).decode()
            if broken not in seen and compiles(broken):
                seen.add(broken)
                yield Mutant(module, part.lineno, broken.splitlines()[part.lineno - 1], broken)


def compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def edits(node: ast.AST, module: str) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield what to put in place of a node or a part of it."""
    yield from guards(node)
    yield from bounds(node)
    if module in STATISTICS:
        yield from arithmetic(node)


def guards(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """What refuses, and what makes a file durable: left out."""
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
        yield node.test, "False"
    if isinstance(node, ast.Assert | ast.Expr) and isinstance(getattr(node, "value", None), ast.Call):
        name = ast.unparse(node.value.func).rpartition(".")[2]
        if name in DURABLE or name.startswith(("check", "_check", "refuse", "_refuse")):
            yield node, "pass"


def bounds(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Limits: off by one, or missing."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in FLIPPED:
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        yield node, f"({left} {FLIPPED[type(node.ops[0])]} {right})"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field":
        for keyword in node.keywords:
            if keyword.arg in BOUNDS:
                others = [other for other in node.keywords if other is not keyword]
                yield node, ast.unparse(ast.Call(node.func, node.args, others))


def arithmetic(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Formulas: the opposite operation, and whole numbers that are off by one."""
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        yield node, f"({ast.unparse(node.left)} {SIGNS[type(node.op)]} {ast.unparse(node.right)})"
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, str(node.value + 1)


def survives(mutant: Mutant, most: float | None = None) -> bool:
    """Run a module's tests on a copy of the project in which it is broken; or whole, if the line is empty.

    Args:
        mutant: what to break.
        most: seconds; after them the tests count as failed, for somebody would notice that they hang.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests", "docs", "examples"):
            left_out = shutil.ignore_patterns("_build", "__pycache__", "results")
            shutil.copytree(ROOT / part, copy / part, ignore=left_out)
        for file in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / file, copy)
        (copy / "src/weight_feedback" / f"{mutant.module}.py").write_text(mutant.source, encoding="utf-8")
        child = multiprocessing.get_context("fork").Process(target=run, args=(copy, TESTS[mutant.module]))
        child.start()
        child.join(most)
        if child.is_alive():
            child.kill()
            return False
        if child.exitcode not in (0, 1, 2):  # with 2, a test file can't even be imported
            raise RuntimeError(f"{mutant}: the tests can't be run, pytest ended with {child.exitcode}")
        return child.exitcode == 0


def run(copy: Path, tests: list[str]) -> None:
    """Run tests in a forked process, in which torch has been imported already."""
    import pytest

    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.path.insert(0, str(copy / "src"))
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            status = int(pytest.main([*PYTEST, *tests]))
        except BaseException:  # a crash is no failing test
            status = pytest.ExitCode.INTERNAL_ERROR
    os._exit(status)


def warm() -> None:
    """Import what takes long, and nothing of this project."""
    for module in HEAVY:
        importlib.import_module(module)
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # tests collect garbage, and would go over all of this each time


def main() -> int:
    """Break all that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="side by side; default: one a core")
    parser.add_argument("--list", action="store_true", help="say what would be broken")
    options = parser.parse_args()
    if unknown := [name for name in options.modules if name not in TESTS]:
        parser.error(f"no module {', '.join(unknown)}; there is {', '.join(TESTS)}")
    modules = options.modules or [*TESTS]
    todo = {mutant: (mutant.module, mutant.line.strip()) for module in modules for mutant in mutants(module)}
    if stale := [line for line in EQUIVALENT if line[0] in modules and line not in todo.values()]:
        parser.error(f"EQUIVALENT has what no line can be broken into any more: {stale}")
    todo = [mutant for mutant, line in todo.items() if line not in EQUIVALENT]
    if options.list:
        print(*todo, sep="\n")
        return 0
    warm()
    return break_all(modules, todo, options.jobs)


def break_all(modules: list[str], todo: list[Mutant], jobs: int) -> int:
    """Say what survives; return 1 if anything does."""
    survivors = []
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        most = {}
        for module in modules:
            source = (ROOT / "src/weight_feedback" / f"{module}.py").read_text(encoding="utf-8")
            start = time.monotonic()
            if not pool.submit(survives, Mutant(module, 0, "", source)).result():
                sys.exit(f"{module}: its tests fail as it is; there is nothing to break")
            most[module] = 60 + 5 * (time.monotonic() - start)
        futures = {pool.submit(survives, mutant, most[mutant.module]): mutant for mutant in todo}
        for count, future in enumerate(as_completed(futures), 1):
            if future.result():
                survivors.append(futures[future])
                print(f"survived: {futures[future]}", flush=True)
            if count % 20 == 0 or count == len(todo):
                print(f"{count} of {len(todo)} broken, {len(survivors)} survived", flush=True)
    for mutant in sorted(survivors, key=str):
        print(mutant)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
