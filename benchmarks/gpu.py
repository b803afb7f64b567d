"""Trials an hour on a GPU: seeds as one vectorised cohort, with CUDA graphs and without, against the plain loop.

All ways train the same arm on the same images, in turns. Where there is no GPU, this says so, and gives no figure.

    python benchmarks/gpu.py                                      # 32 seeds of MNIST's network at once
    python benchmarks/gpu.py --network cifar10-plain --cohort 8
"""

from __future__ import annotations

import argparse
import statistics

import torch

from timing import machine, show
from training import PROTOCOL, STEPS, TEST_IMAGES, made_up
from weight_feedback.lab.data.datasets import Dataset
from weight_feedback.lab.tasks.notebook.networks import find_network
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Sketched, Training
from weight_feedback.lab.tasks.notebook.timing import time_trial

NETWORKS = ("mnist-plain", "cifar10-plain")
PLAIN = "plain loop"


def ways(network: str, cohort: int) -> dict[str, tuple[NetworkTrial, bool]]:
    """Return the ways to train seeds of a network that hears its own weights.

    Args:
        network: one of `NETWORKS`.
        cohort: how many seeds are trained as one network.

    Returns:
        Name to a trial, and whether its steps are replayed as a CUDA graph.
    """
    data = find_network(network).data
    epochs = PROTOCOL[data][1]

    def trial(size: int) -> NetworkTrial:
        training = Training(epochs=epochs, cohort=size)
        summary = Sketched(k=26, sketch="count")
        return NetworkTrial(data=data, training=training, model=network, signal="own", summary=summary, seed=0)

    return {
        f"{name}{suffix}": (trial(size), graphs)
        for name, size in ((PLAIN, 1), (f"cohort of {cohort}", cohort))
        for suffix, graphs in (("", False), (", CUDA graphs", True))
    }


def race(network: str, cohort: int, data: Dataset, device: torch.device, repeats: int) -> dict[str, float]:
    """Train all ways in turns.

    Args:
        network: see `ways`.
        cohort: see `ways`.
        data: images of the size that the network takes.
        device: where they are trained.
        repeats: rounds, each of all ways.

    Returns:
        Name to the median of trials an hour, of the notebook's protocol, reckoned from some steps.
    """
    raced = ways(network, cohort)
    rounds: dict[str, list[float]] = {name: [] for name in raced}
    for _ in range(repeats):
        for name, (trial, graphs) in raced.items():
            timed = time_trial(trial, data, device, STEPS, graphs)
            rounds[name].append(3600 / timed.seconds(trial.training, PROTOCOL[trial.data][0], TEST_IMAGES))
    return {name: statistics.median(hourly) for name, hourly in rounds.items()}


def main() -> None:
    """Measure and print, if there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default=NETWORKS[0], help="what is trained (%(default)s)")
    parser.add_argument("--cohort", type=int, default=32, help="seeds trained as one network (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, each of all ways (%(default)s)")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here: nothing was measured.")
        return
    device, data = torch.device("cuda"), made_up(find_network(chosen.network).data)
    print(f"{torch.cuda.get_device_name(device)}; {machine()}\n")
    hourly = race(chosen.network, chosen.cohort, data, device, chosen.repeats)
    for name, trials in hourly.items():
        show(name, trials, f"trials an hour, {trials / hourly[PLAIN]:.2f} times the plain loop's")


if __name__ == "__main__":
    main()
