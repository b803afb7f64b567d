"""Break one line at a time, and see that some test fails: `make mutants`.

For each module that guards results, and its tests: guards that never refuse, bounds that are off by one or missing,
writes that aren't synced or renamed, arithmetic with another sign. Of the whole package a sample, each line in one
of many ways, against the tests that run it. Prints what survives, and leaves with status 1 if anything does.

    python tests/mutants.py                     # all modules; takes long
    python tests/mutants.py files lab/store/store     # some of them
    python tests/mutants.py --list lab/store/store    # what would be broken
    python tests/mutants.py --sample 100        # a hundred lines anywhere, the same ones each time
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from helpers import tests_by_line
from helpers.mutations import Mutant, Source, every, mutants, sample
from helpers.project_copies import PYTEST, forked, project, survives, warm
from helpers.tests_by_line import Traced, Tracer

#: Module to the tests that guard it, the fastest first.
TESTS = {
    "files": ["tests/test_files.py", "tests/test_failpoints.py"],
    "lab/store/store": ["tests/lab/test_store.py", "tests/lab/test_torn_files.py"],
    "lab/store/merge": ["tests/lab/test_merge.py"],
    "lab/training/checkpoints": ["tests/lab/test_checkpoints.py", "tests/lab/test_resume.py"],
    "lab/data/parsers": [
        "tests/lab/test_parsers.py",
        "tests/lab/test_archives.py",
        "tests/lab/test_pickles.py",
        "tests/lab/test_reading.py",
        "tests/lab/test_datasets.py",
    ],
    "lab/data/archives": ["tests/lab/test_archives.py"],
    "lab/data/pickles": ["tests/lab/test_pickles.py"],
    "lab/data/reading": ["tests/lab/test_reading.py"],
    "lab/study/trials": [
        "tests/lab/test_study_files.py",
        "tests/lab/test_studies.py",
        "tests/lab/test_hostile_names.py",
    ],
    "lab/study/study": [
        "tests/lab/test_study_files.py",
        "tests/lab/test_studies.py",
        "tests/lab/test_notebook_subspace.py",
        "tests/lab/test_arms.py",
        "tests/lab/test_cohorts.py",
    ],
    "lab/study/toml": [
        "tests/lab/test_study_files.py",
        "tests/lab/test_studies.py",
        "tests/lab/test_notebook_subspace.py",
        "tests/lab/test_arms.py",
        "tests/lab/test_cohorts.py",
    ],
    "lab/tasks/base": [
        "tests/lab/test_study_files.py",
        "tests/lab/test_studies.py",
        "tests/lab/test_hostile_names.py",
    ],
    "lab/tasks/notebook/settings": [
        "tests/lab/test_study_files.py",
        "tests/lab/test_studies.py",
        "tests/lab/test_hostile_names.py",
    ],
    "lab/store/peeks": ["tests/lab/test_gate.py", "tests/lab/test_merge.py"],
    "lab/store/weights": ["tests/lab/test_weights.py"],
    "lab/statistics/estimates": ["tests/lab/test_estimates.py"],
    "lab/statistics/power": ["tests/lab/test_power.py"],
    "lab/statistics/verdicts": ["tests/lab/test_verdicts.py"],
    "lab/statistics/contrasts": ["tests/lab/test_contrasts.py", "tests/lab/test_analysis.py"],
    "lab/statistics/gate": ["tests/lab/test_gate.py"],
    "lab/statistics/calibration": ["tests/lab/test_calibration.py"],
}
#: What can be broken without changing what anybody sees, and why: module and the line as mutated; of lines drawn
#: anywhere, module with class and function, the line as it was, and the line as mutated.
EQUIVALENT: dict[tuple[str, ...], str] = {
    ("lab/statistics/estimates", "_BLOCK = 4000001"): "bounds memory; no result depends on it",
    ("lab/statistics/calibration", "_BLOCK = 4000001"): "likewise",
    ("lab/statistics/calibration", "rows = max(2, _BLOCK // samples.size)"): "the size of a block, likewise",
    ("lab/statistics/estimates", "rows = max(2, _BLOCK // max(samples.shape))"): "the size of a block, likewise",
    (
        "lab/statistics/verdicts",
        'direction = "better" if ((e.mean >= 0)) == more_is_better else "worse"',
    ): "a mean of exactly 0 is the likeliest of all flips: its p-value is 1",
    (
        "lab/statistics/power",
        "return _smallest(lambda n: (detection_power(n, abs(effect) / sd, alpha) > POWER))",
    ): "the power is a continuous function of effect and spread: it is never exactly 0.8",
    (
        "lab/statistics/power",
        "return _smallest(lambda n: (equivalence_power(n, sd, margin, difference, alpha) > POWER))",
    ): "likewise; without spread it is 0 or 1",
    (
        "lab/statistics/calibration",
        "t_rejections=_share(int(((t_p <= 0.05)).sum()), studies),",
    ): "the p-value is continuous: it is never exactly 0.05",
    (
        "lab/statistics/calibration",
        "flip_rejections=_share(int(((flips_p <= 0.05)).sum()), studies),",
    ): "0.05 is no whole number of 2ⁿ⁻¹ths, nor of 10,001sts",
    (
        "lab/execution/progress:ProgressFiles.take_unfinished",
        "left = set(self.running())",
        "left = (self.running())",
    ): "no two files of a folder have one name, and whoever asks goes over them once",
    (
        "lab/study/toml:_read_study",
        "content = file.read(LONGEST_FILE + 1)",
        "content = file.read(LONGEST_FILE + 2)",
    ): "one byte more than the longest file is enough to see that it is longer, and two are as well",
    (
        "watching:_led_back_to",
        "nodes, leaves, opaque = set(todo), {id(tensor) for tensor in outputs}, False",
        "nodes, leaves, opaque = set(todo), {id(tensor) for tensor in outputs}, True",
    ): "asks a backward pass in place of the graph, which says the same and takes longer",
    (
        "watching:_Watch.__init__",
        "super().__init__()",
        "pass",
    ): "the constructor of PyTorch's modes does nothing",
}
#: Of a sample: seconds for tests of which it isn't known that they run the line.
UNTRACED = 120

Rounds = Sequence[Sequence[str] | Mapping[str, float]]


def main() -> int:
    """Break all that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="break so many lines, anywhere in the package")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default: 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="side by side; default: one a core")
    parser.add_argument("--list", action="store_true", help="say what would be broken")
    options = parser.parse_args()
    if unknown := [name for name in options.modules if name not in TESTS]:
        parser.error(f"no module {', '.join(unknown)}; there is {', '.join(TESTS)}")
    if options.sample and options.modules:
        parser.error("a sample is one of the whole package")
    modules = options.modules or [*TESTS]
    if options.sample:
        drawn = sample(options.sample, options.seed)
        explained = {key for key in EQUIVALENT if len(key) == 3}
        known = {mutant.key for name in {key[0].partition(":")[0] for key in explained} for mutant in every(name)}
    else:
        drawn = [mutant for module in modules for mutant in mutants(module)]
        explained = {key for key in EQUIVALENT if len(key) == 2 and key[0] in modules}
        known = {mutant.key for mutant in drawn}
    if stale := explained - known:
        parser.error(f"EQUIVALENT has what no line can be broken into any more: {stale}")
    todo = [mutant for mutant in drawn if mutant.key not in EQUIVALENT]
    if options.list:
        print(*todo, sep="\n")
        return 0
    warm()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        if options.sample:
            print(
                f"{len(drawn)} lines drawn; of {len(drawn) - len(todo)} it is explained why nobody sees them broken"
            )
            traced = known_of_tests()
            check_unbroken(traced)
            return break_all(pool, {mutant: (traced.rounds(mutant, UNTRACED), None) for mutant in todo})
        most = {module: time_unbroken(pool, module) for module in modules}
        return break_all(pool, {mutant: ([TESTS[mutant.module]], most[mutant.module]) for mutant in todo})


def time_unbroken(pool: ProcessPoolExecutor, module: str) -> float:
    """Run a module's tests while it is whole; return the seconds after which they may be said to hang."""
    start = time.monotonic()
    whole = Mutant(module, 0, "", Source.of(module).text)
    if not pool.submit(survives, whole, [TESTS[module]]).result():
        sys.exit(f"{module}: its tests fail as it is; there is nothing to break")
    return 60 + 5 * (time.monotonic() - start)


def break_all(pool: ProcessPoolExecutor, todo: Mapping[Mutant, tuple[Rounds, float | None]]) -> int:
    """Say what survives; return 1 if anything does."""
    survivors = []
    futures = {pool.submit(survives, mutant, *how): mutant for mutant, how in todo.items()}
    for count, future in enumerate(as_completed(futures), 1):
        if future.result():
            survivors.append(mutant := futures[future])
            print(f"survived: {mutant}{'' if todo[mutant][0] else '; no test runs it'}", flush=True)
        if count % 20 == 0 or count == len(todo):
            print(f"{count} of {len(todo)} broken, {len(survivors)} survived", flush=True)
    for mutant in sorted(survivors, key=str):
        print(mutant)
    return int(bool(survivors))


def known_of_tests() -> Traced:
    """Return which tests run which lines, after running those of which that isn't known."""
    traced = tests_by_line.load()
    if files := traced.unknown():
        print(f"finding out which lines are run by the tests of {len(files)} files; this takes a while", flush=True)
        with project() as copy, tempfile.TemporaryDirectory() as folder:
            code = forked(copy, [*PYTEST, *files], partial(Tracer, Path(folder)))
            if code not in (0, 1):
                sys.exit(f"the tests can't be run; pytest ended with {code}")
            traced.add(tests_by_line.collect(Path(folder), copy / "src/weight_feedback"), files)
        module = next(iter(TESTS))
        whole = Mutant(module, 0, "", Source.of(module).text)
        traced.failing = [test for test in traced.failing if not survives(whole, [{test: traced.seconds[test]}])]
        tests_by_line.save(traced)
    for test in traced.failing:
        print(f"fails with nothing broken, and is left out: {test}")
    return traced


def check_unbroken(traced: Traced) -> None:
    """See that tests don't fail because of how they are run here."""
    module = next(iter(TESTS))
    quick = traced.quickest(traced.passing, 30)
    if not survives(
        Mutant(module, 0, "", Source.of(module).text), [{test: traced.seconds[test] for test in quick}]
    ):
        sys.exit("tests fail with nothing broken; there is nothing to break")


if __name__ == "__main__":
    sys.exit(main())
