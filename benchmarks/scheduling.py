"""How many trials a driver can hand out: empty ones, by the thousand, on this machine through each engine.

An empty trial does all that a trial does but training and keeping a result: it is pickled, sent, marked as under
way, unmarked and counted. On Dask and Ray, also with many more side by side than there are cores, as on a large
cluster.

python benchmarks/scheduling.py
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from timing import interleaved, machine, show
from weight_feedback.lab.execution.backends import Backend, connected, cores
from weight_feedback.lab.execution.jobs import Job, run_all
from weight_feedback.lab.execution.runner import run, watched
from weight_feedback.lab.store.inventory import take_inventory
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.base import Context, Metric
from weight_feedback.lab.training.run import Options, run_trial


def empty(study: Study) -> None:
    """Do nothing.

    Args:
        study: is sent, as with each trial.
    """


def hand_out(backend: Backend, study: Study, trials: int) -> None:
    """Run empty trials, as the driver of a study runs its own.

    Args:
        backend: where they run.
        study: is sent with each.
        trials: how many.
    """
    asked = [Job(f"{i:016x}", f"trial {i}", partial(empty, study), print, 1, 1) for i in range(trials)]
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder) / "progress", None) as (progress, tally):
        run_all(asked, backend, 0, progress, tally)


def wide(backend: Backend, jobs: int) -> Backend:
    """Return a cluster that is given more trials side by side than it has workers.

    Args:
        backend: of the cluster.
        jobs: trials side by side.
    """
    wider = copy.copy(backend)
    wider.jobs = jobs  # type: ignore[misc]
    return wider


def nothing(trial: Context, *, shift: float = 0.0) -> dict[str, float]:
    """Report a number, as a function that is a task.

    Args:
        trial: its seed is the number.
        shift: added.
    """
    return {"number": trial.seed + shift}


def own(seeds: int) -> Study:
    """Return a study of trials that do nothing.

    Args:
        seeds: how many of them an arm has.
    """
    arms = {"a": {}, "b": {"shift": 0.5}}
    return Study(
        name="own", title="Own", task=nothing, seeds=seeds, arms=arms, metrics={"number": Metric("", "lower")}
    )


def run_own(study: Study) -> None:
    """Run each trial in a process that is forked from this one, as `weight-feedback run --jobs 1` does.

    Args:
        study: of `own`.
    """
    with tempfile.TemporaryDirectory() as folder:
        run(study, Store(Path(folder)), jobs=1)


def run_here(study: Study) -> None:
    """Run the same trials in this very process, and keep nothing.

    Args:
        study: of `own`.
    """
    for _, trial in study.trials():
        run_trial(trial, Options(threads=1, metrics=study.reported))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="handed out in a row")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each engine")
    parser.add_argument("--side-by-side", type=int, default=100, help="trials, on a cluster that is large")
    args = parser.parse_args()
    study = load_study("controls-mnist-5k")
    works: dict[str, Callable[[], object]] = {}
    with ExitStack() as ends:
        for name in ("loky", "dask", "ray"):
            backend = ends.enter_context(connected(name, jobs=cores()))
            works[f"{name}, {backend.jobs} side by side"] = partial(hand_out, backend, study, args.trials)
            if backend.remote:
                many = wide(backend, args.side_by_side)
                works[f"{name}, {many.jobs} side by side"] = partial(hand_out, many, study, args.trials)
        for name, seconds in interleaved(works, args.repeats).items():
            show(f"{args.trials:,} empty trials, {name}", args.trials / seconds, "trials a second")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        take_inventory(study, Store(Path(folder)), 1000)
        trials = 1000 * len(study.arms)
        show(f"{trials:,} trials looked for, before the first", time.perf_counter() - start, "s")
    mine = own(50)
    for name, seconds in interleaved(
        {
            "in a process of its own, and kept": partial(run_own, mine),
            "in this process": partial(run_here, mine),
        },
        args.repeats,
    ).items():
        show(f"an empty trial of a function, {name}", 1000 * seconds / (2 * mine.seeds), "ms")
    print(machine())


if __name__ == "__main__":
    main()
