"""Training: networks an hour against the notebook's way, and what hearing one's own weights adds to a step.

python benchmarks/training.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
import torch.nn.functional as F

from original import Images, Original
from timing import Target, finish, interleaved, show
from weight_feedback.attach import advance
from weight_feedback.lab.data.datasets import Dataset, normalise
from weight_feedback.lab.execution.backends import cores
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.networks import ConvNet, find_network
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Sketched, Training
from weight_feedback.lab.tasks.notebook.timing import time_trial
from weight_feedback.lab.training.environment import keep_freed_memory, thread_count

STEPS = 60
#: Data set to the size of the notebook's z.
SIZES = {"mnist": 26, "cifar10": 460}
#: Images of the training set, and epochs: the notebook's protocol.
PROTOCOL = {"mnist": (60_000, 6), "cifar10": (50_000, 20)}
TEST_IMAGES = 10_000
#: Seeds that ours trains as one network, where that is faster.
COHORT = {"mnist": 8, "cifar10": 1}
#: Network, ours, and how many times as many of them are promised in an hour; None: the three together are.
RACES = [
    ("mnist-plain", "mnist-plain", None),
    ("mnist-pooled", "mnist-pooled", None),
    ("mnist-projected", "mnist-projected", None),
    ("cifar10-plain", "cifar10-plain", 2.3),
    ("cifar10-pooled", "cifar10-pooled", 2.3),
    ("cifar10-projected", "cifar10-sketched", 8.0),
    ("cifar10-projected", "cifar10-projected", 1.2),
]


def made_up(name: str) -> Dataset:
    """Return random images of a data set's size, enough to be timed: the speed doesn't depend on what they show.

    Args:
        name: of the data set.
    """
    channels, side = (1, 28) if name == "mnist" else (3, 32)
    generator = torch.Generator().manual_seed(0)

    def part(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (images, channels, side, side)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pixels, torch.randint(0, 10, (images,), generator=generator)

    return Dataset(name, *part(64 * STEPS), *part(1000), (0.5,) * channels, (0.25,) * channels, 10)


def ours(network: str) -> float:
    """Time our way in this process, on one thread.

    Args:
        network: a name.

    Returns:
        Seconds a network.
    """
    keep_freed_memory()
    data = find_network(network).data
    images, epochs = PROTOCOL[data]
    training = Training(epochs=epochs, cohort=COHORT[data])
    trial = NetworkTrial(data=data, training=training, model=network, seed=0)
    with thread_count(1):
        timed = time_trial(trial, made_up(data), torch.device("cpu"), STEPS)
    return timed.seconds(training, images, TEST_IMAGES)


class Notebook:
    """The notebook's way of one network.

    Args:
        network: a name.
    """

    def __init__(self, network: str) -> None:
        self.data = find_network(network).data
        data = made_up(self.data)
        train, test = (
            Images(images, labels, data.mean, data.std)
            for images, labels in (
                (data.train_images, data.train_labels),
                (data.test_images, data.test_labels),
            )
        )
        self.original = Original(network, train, test)
        self.original.train()

    def time(self) -> float:
        """Return seconds a network, with all cores as its threads."""
        images, epochs = PROTOCOL[self.data]
        return epochs * (-(-images // 64) * self.original.train() + TEST_IMAGES * self.original.evaluate())


def race(repeats: int) -> list[Target]:
    """Train networks both ways in turns.

    Args:
        repeats: rounds.

    Returns:
        How many times as many networks an hour ours trains, with one process a core.
    """
    targets, totals = [], [0.0, 0.0]
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        for theirs, own, least in RACES:
            notebook, rounds = Notebook(theirs), []
            for _ in range(repeats):
                # Each process trains its own; together they train as many as there are processes.
                side_by_side = list(pool.map(ours, [own] * cores()))
                rounds.append((notebook.time(), statistics.mean(side_by_side) / cores()))
            theirs_seconds, our_seconds = (statistics.median(times) for times in zip(*rounds, strict=True))
            show(f"{theirs}, the notebook's way", theirs_seconds, "s a network")
            show(f"{own}, ours", our_seconds, "s a network")
            if least is None:
                totals = [totals[0] + theirs_seconds, totals[1] + our_seconds]
            else:
                targets.append(Target(f"networks an hour, {own} / {theirs}", theirs_seconds / our_seconds, least))
    return [Target("networks an hour, MNIST's three", totals[0] / totals[1], 10.0), *targets]


def audible_step(repeats: int) -> list[Target]:
    """Time a training step that hears its own weights, by a `CountSketch`, against one that hears a constant.

    Args:
        repeats: rounds, each of one step of both.
    """
    targets = []
    for name in SIZES:
        with thread_count(1):
            seconds = interleaved({signal: stepper(name, signal) for signal in ("constant", "own")}, repeats)
        for signal, value in seconds.items():
            show(f"{name}, step with signal {signal}", 1e3 * value, "ms")
        targets.append(Target(f"step, own / constant, {name}", seconds["own"] / seconds["constant"], most=1.03))
    return targets


def hearing(name: str, signal: str, seed: int = 0) -> ConvNet:
    """Return a network that hears a signal of the notebook's size.

    Args:
        name: of the data set.
        signal: that fc1 hears.
        seed: of the network.
    """
    summary = Sketched(k=SIZES[name], sketch="count")
    trial = NetworkTrial(
        data=name, training=Training(), model=f"{name}-plain", signal=signal, summary=summary, seed=seed
    )
    return build_arm(trial, STEPS)


def stepper(name: str, signal: str, batch_size: int = 64) -> Callable[[], None]:
    """Return a function that takes a training step.

    Args:
        name: of the data set.
        signal: that fc1 hears.
        batch_size: images a step.
    """
    data, model = made_up(name), hearing(name, signal)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5, fused=True)

    def step() -> None:
        x = normalise(data.train_images[:batch_size], data.mean, data.std)
        optimiser.zero_grad()
        F.nll_loss(model(x), data.train_labels[:batch_size]).backward()
        optimiser.step()
        advance(model)

    return step


def main() -> None:
    """Measure, print, and check the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    repeats = parser.parse_args().repeats
    keep_freed_memory()
    finish([*audible_step(50 * repeats), *race(repeats)])


if __name__ == "__main__":
    main()
