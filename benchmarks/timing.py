"""How things are timed: side by side in one run, by the median, with the machine said and targets checked."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from weight_feedback.lab.training.environment import processor


def machine() -> str:
    """Return what the figures were measured on."""
    model = processor(torch.device("cpu")) or platform.machine()
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    )


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time several things in turns; see `in_turns`.

    Args:
        works: name to what is to be timed.
        repeats: rounds, each of everything.

    Returns:
        Name to the median of its seconds a call.
    """
    return {name: statistics.median(times) for name, times in in_turns(works, repeats).items()}


def in_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time several things in turns, so that whatever else the machine does falls on all of them.

    What takes less than 50 ms is called again and again until they are over, so that caches are as warm for it as
    for what takes longer.

    Args:
        works: name to what is to be timed; each is called twice beforehand.
        repeats: rounds, each of everything.

    Returns:
        Name to its seconds a call, in each round.
    """
    calls = {}
    for name, work in works.items():
        work()
        calls[name] = max(round(0.05 / seconds(work)), 1)
    rounds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            rounds[name].append(seconds(work, calls[name]))
    return rounds


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    """Time some calls in a row.

    Args:
        work: what is timed.
        calls: how many.

    Returns:
        Seconds a call.
    """
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def show(what: str, value: float, unit: str) -> None:
    """Print one measurement as soon as it is there.

    Args:
        what: was measured.
        value: found.
        unit: of the value.
    """
    print(f"{what:>44}: {value:10.3f} {unit}", flush=True)


@dataclass(frozen=True)
class Target:
    """A ratio that is promised.

    Attributes:
        what: is measured, and against what.
        ratio: found.
        least: it must be at least this; None: there is no lower limit.
        most: it must be at most this; None: there is no upper limit.
        interval: of 95 %, where one was estimated.
    """

    what: str
    ratio: float
    least: float | None = None
    most: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return (self.least is None or self.ratio >= self.least) and (self.most is None or self.ratio <= self.most)


def estimate(
    what: str, ratios: NDArray[np.float64], least: float | None = None, most: float | None = None
) -> Target:
    """Estimate a ratio by its median.

    Args:
        what: is measured, and against what.
        ratios: one a round.
        least: it must be.
        most: it may be.

    Returns:
        The estimate, with an interval of 95 % by the bootstrap over rounds.
    """
    again = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.quantile(np.median(again, axis=1), [0.025, 0.975])
    return Target(what, float(np.median(ratios)), least, most, interval=(float(low), float(high)))


def finish(targets: list[Target]) -> None:
    """Print the table of targets, and leave with status 1 if one is missed.

    Args:
        targets: all that were measured.
    """
    print(f"\n{machine()}\n")
    print("| what | measured | target | met |\n| --- | --- | --- | --- |")
    for target in targets:
        limit = f"≥ {target.least:g}" if target.most is None else f"≤ {target.most:g}"
        ends = f" [{target.interval[0]:.3g}, {target.interval[1]:.3g}]" if target.interval else ""
        print(f"| {target.what} | {target.ratio:.3g}{ends} | {limit} | {'yes' if target.met else 'NO'} |")
    sys.exit(0 if all(target.met for target in targets) else 1)
