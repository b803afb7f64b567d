"""Seeds in one step: a cohort, against one network after the other, and against what `torch.func` makes of one.

All three take the same steps of the same networks, which hear their own weights, on one thread.

python benchmarks/vectorised.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from timing import estimate, finish, in_turns, show
from training import SIZES, hearing, made_up
from weight_feedback.lab.data.datasets import Dataset, normalise
from weight_feedback.lab.tasks.notebook.lockstep import Learner
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.training.environment import keep_freed_memory, thread_count

SETTINGS = Training()
#: Takes indices of images, shape ``[networks, batch]``; returns losses, shape ``[networks]``.
Step = Callable[[Tensor], Tensor]


def networks(name: str, count: int) -> list[ConvNet]:
    """Return networks that hear their own weights.

    Args:
        name: of the data set.
        count: how many seeds.
    """
    return [hearing(name, "own", seed) for seed in range(count)]


def one_by_one(models: Sequence[ConvNet], data: Dataset) -> Step:
    """Return a function that takes a step of each network, one after the other.

    Args:
        models: to be trained in place.
        data: with the training set.
    """
    learners = [Learner([model], data, SETTINGS, [seed]) for seed, model in enumerate(models)]

    def step(batch: Tensor) -> Tensor:
        return torch.cat([learner.step(each[None]) for learner, each in zip(learners, batch, strict=True)])

    return step


def as_cohort(models: Sequence[ConvNet], data: Dataset) -> Step:
    """Return a function that takes a step of all networks as one.

    Args:
        models: to be trained in place.
        data: with the training set.
    """
    return Learner(models, data, SETTINGS, range(len(models))).step


def by_torch_func(models: Sequence[ConvNet], data: Dataset) -> Step:
    """Return a function that takes a step of all networks as `torch.func` vectorises one.

    Args:
        models: of which the weights are stacked.
        data: with the training set.
    """
    parameters, buffers = stack_module_state(list(models))
    optimiser = torch.optim.SGD(parameters.values(), lr=SETTINGS.lr, momentum=SETTINGS.momentum, fused=True)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
        return F.nll_loss(functional_call(models[0], (parameters, buffers), (x,)), labels)

    def step(batch: Tensor) -> Tensor:
        x = normalise(data.train_images[batch.flatten()], data.mean, data.std).unflatten(0, batch.shape)
        gradients, losses = vmap(grad_and_value(loss))(parameters, buffers, x, data.train_labels[batch])
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimiser.step()
        return losses

    return step


WAYS = {"one by one": one_by_one, "torch.func": by_torch_func, "cohort": as_cohort}


def race(name: str, count: int, repeats: int) -> dict[str, NDArray[np.float64]]:
    """Take the same steps in turns.

    Args:
        name: of the data set.
        count: how many networks.
        repeats: rounds.

    Returns:
        Way to its seconds a step of all networks, one a round.
    """
    data, generator = made_up(name), torch.Generator().manual_seed(0)
    batch = torch.randint(len(data.train_labels), (count, SETTINGS.batch_size), generator=generator)
    works = {way: partial(make(networks(name, count), data), batch) for way, make in WAYS.items()}
    return {way: np.array(seconds) for way, seconds in in_turns(works, repeats).items()}


def main() -> None:
    """Measure, print, and check the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="networks trained as one (%(default)s)")
    parser.add_argument("--repeats", type=int, default=30, help="rounds, each of all ways (%(default)s)")
    chosen = parser.parse_args()
    keep_freed_memory()
    targets = []
    for name in SIZES:
        with thread_count(1):
            rounds = race(name, chosen.count, chosen.repeats)
        for way, seconds in rounds.items():
            show(f"{name}, {chosen.count} networks, {way}", 1e3 * float(np.median(seconds)), "ms a step")
        # The lab trains CIFAR-10's networks one by one, as that is faster on a CPU.
        targets += [
            estimate(f"step of {chosen.count}, {way} / cohort, {name}", rounds[way] / rounds["cohort"], least=1.0)
            for way in (("one by one", "torch.func") if name == "mnist" else ("torch.func",))
        ]
    finish(targets)


if __name__ == "__main__":
    main()
