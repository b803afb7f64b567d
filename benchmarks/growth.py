"""How cost grows: with k, with the number of weights, with the batch, and with trials side by side.

python benchmarks/growth.py --out docs/results/speed
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch

import weight_feedback as wf
from projections import state_bytes
from timing import interleaved, machine, show
from training import ours, stepper
from weight_feedback.lab.execution.backends import cores
from weight_feedback.lab.training.environment import keep_freed_memory, thread_count

#: The largest matrix that is stored, in numbers: 2 GB.
STORED = 500_000_000
#: How the lines are drawn, distinguishable without colour (which is that of Okabe and Ito).
LOOKS = {
    "CountSketch": ("o-", "#0072B2"),
    "KroneckerProjection": ("s--", "#E69F00"),
    "DenseProjection": ("^:", "#D55E00"),
    "w.sum()": ("x-.", "#000000"),
    "own": ("o-", "#0072B2"),
    "constant": ("s--", "#E69F00"),
    "cohorts of MNIST networks": ("o-", "#0072B2"),
}
SIZES = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
WIDTHS = [10, 46, 460, 4600]
BATCHES = [16, 64, 256, 1024]


class Point(NamedTuple):
    """One measurement: of which panel and line, at which x; y in the panel's unit."""

    panel: str
    line: str
    x: float
    y: float


@torch.no_grad()
def projections(panel: str, sizes: list[int], widths: list[int]) -> list[Point]:
    """Time the maps, and weigh what they keep.

    Args:
        panel: "k" or "weights", whichever varies.
        sizes: numbers of weights.
        widths: sizes of z.
    """
    points = []
    for size, k in [(size, k) for size in sizes for k in widths]:
        w = torch.randn(size).view(100, -1)
        maps = {"CountSketch": wf.CountSketch(k), "KroneckerProjection": wf.KroneckerProjection(k)}
        if size * k <= STORED:
            maps["DenseProjection"] = wf.DenseProjection(k)
        for summary in maps.values():
            summary.bind({"w": w})
        works: dict[str, Callable[[], object]] = {"w.sum()": w.sum}
        works |= {name: (lambda summary=summary, w=w: summary(w)) for name, summary in maps.items()}
        x = k if panel == "k" else size
        points += [Point(f"time by {panel}", name, x, 1e3 * t) for name, t in interleaved(works, 5).items()]
        points += [Point(f"memory by {panel}", name, x, state_bytes(s) / 1e6) for name, s in maps.items()]
    return points


def batches() -> list[Point]:
    """Time a step of the CIFAR-10 network with and without hearing its own weights, on one thread."""
    points = []
    for batch in BATCHES:
        with thread_count(1):
            both = {signal: stepper("cifar10", signal, batch) for signal in ("constant", "own")}
            points += [Point("step by batch", name, batch, 1e3 * t) for name, t in interleaved(both, 7).items()]
    return points


def side_by_side() -> list[Point]:
    """Count networks an hour, MNIST protocol, with 1 to twice as many processes as there are cores."""
    points = []
    with ProcessPoolExecutor(2 * cores(), mp_context=get_context("spawn")) as pool:
        for jobs in range(1, 2 * cores() + 1):
            seconds = list(pool.map(ours, ["mnist-plain"] * jobs))
            points.append(
                Point("networks by trials", "cohorts of MNIST networks", jobs, 3600 * jobs * jobs / sum(seconds))
            )
    return points


def draw(points: list[Point], path: Path) -> None:
    """Draw six panels.

    Args:
        points: all measurements.
        path: of the PNG file.
    """
    panels = {
        "time by k": ("size of z, k (10⁶ weights)", "ms a call"),
        "time by weights": ("weights (k = 460)", "ms a call"),
        "step by batch": ("images a step (CIFAR-10 network, k = 460)", "ms a step, one thread"),
        "memory by k": ("size of z, k (10⁶ weights)", "MB kept"),
        "memory by weights": ("weights (k = 460)", "MB kept"),
        "networks by trials": ("trials side by side", "MNIST networks an hour"),
    }
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    for axis, (panel, (x_label, y_label)) in zip(axes.flat, panels.items(), strict=True):
        here = [point for point in points if point.panel == panel]
        for line in dict.fromkeys(point.line for point in here):
            xs, ys = zip(*[(point.x, point.y) for point in here if point.line == line], strict=True)
            style, colour = LOOKS[line]
            axis.plot(xs, ys, style, color=colour, label=line)
        axis.set(xlabel=x_label, ylabel=y_label)
        if panel == "networks by trials":
            axis.set_ylim(0)
            axis.set_xticks(sorted({int(point.x) for point in here}))
        else:
            axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(machine(), fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, write the numbers, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("results/speed"), help="folder for growth.csv and growth.png"
    )
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    points: list[Point] = []
    for measured in (
        projections("k", [1_000_000], WIDTHS),
        projections("weights", SIZES, [460]),
        batches(),
        side_by_side(),
    ):
        for point in measured:
            show(f"{point.panel}, {point.line}, {point.x:,.0f}", point.y, "")
        points += measured
    with (out / "growth.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Point._fields, *[(p.panel, p.line, p.x, f"{p.y:.4g}") for p in points]])
    draw(points, out / "growth.png")
    print(out / "growth.png")


if __name__ == "__main__":
    main()
