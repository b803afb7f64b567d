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
from weight_feedback.lab.execution.runner import watched
from weight_feedback.lab.store.inventory import take_inventory
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import load_study


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
    print(machine())


if __name__ == "__main__":
    main()
