"""The training loop and the evaluation, as the original notebook did them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.attach import advance, fold
from weight_feedback.lab.datasets import Dataset, normalise
from weight_feedback.lab.spec import Training
from weight_feedback.streams import stream


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a whole test set.

    Attributes:
        loss: mean negative log-likelihood, in nats.
        correct: how many images are classified rightly.
        accuracy: the same in percent.
    """

    loss: float
    correct: int
    accuracy: float


@dataclass(frozen=True)
class Progress:
    """Where training stands, for those who watch.

    Attributes:
        epoch: from 1.
        seen: images seen in this epoch.
        images: images in an epoch.
        loss: of the last batch.
    """

    epoch: int
    seen: int
    images: int
    loss: float


@dataclass(frozen=True)
class History:
    """What training leaves behind.

    Attributes:
        step_losses: training loss of every step, in order.
        epochs: the evaluation after each epoch.
    """

    step_losses: list[float]
    epochs: list[Evaluation]


@dataclass(frozen=True)
class Donor:
    """The uncounted network of a yoked trial, trained in lockstep with the counted one.

    Attributes:
        model: the network; it has feedback of its own weights.
        seed: of its data order.
        tell: writes what the counted network hears of the donor's present weights.
    """

    model: nn.Module
    seed: int
    tell: Callable[[], None]


def train(
    model: nn.Module,
    data: Dataset,
    settings: Training,
    seed: int,
    on_log: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    donor: Donor | None = None,
) -> History:
    """Train a classifier in place.

    Args:
        model: returns log-probabilities ``[n, classes]``; its device is the device of training.
        data: training and test set, on the same device.
        settings: of the optimiser and the batches.
        seed: of the data order, which depends on it and the epoch alone.
        on_log: called every ``settings.log_interval`` steps, beginning with the first.
        on_epoch: called after each epoch with its number, from 1, and the evaluation.
        donor: a network that takes the same number of steps on the same data, in an order of its own, and tells
            of its weights before each step and each evaluation of ``model``.

    Returns:
        The losses and evaluations of ``model``.
    """
    history = History([], [])
    losses: list[Tensor] = []
    counted = _steps(model, data, settings, seed)
    uncounted = None if donor is None else _steps(donor.model, data, settings, donor.seed)
    images = len(data.train_labels)
    batches = settings.epoch_steps(images)
    for step in range(settings.epochs * batches):
        epoch, index = 1 + step // batches, step % batches
        if donor:
            donor.tell()
        losses.append(next(counted))
        if uncounted:
            next(uncounted)
        if on_log and index % settings.log_interval == 0:
            on_log(Progress(epoch, index * settings.batch_size, images, float(losses[-1])))
        if index == batches - 1:
            if donor:
                donor.tell()
            history.epochs.append(evaluate(model, data, settings.test_batch_size))
            if on_epoch:
                on_epoch(epoch, history.epochs[-1])
    history.step_losses.extend(torch.stack(losses).tolist())
    return history


def _steps(model: nn.Module, data: Dataset, settings: Training, seed: int) -> Iterator[Tensor]:
    """Train without end, one step for each loss that is taken."""
    # One kernel for all parameters, in place of a Python loop over them.
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum, fused=True)
    for epoch in itertools.count(1):
        order = torch.randperm(len(data.train_labels), generator=stream(seed, "data order", epoch), device="cpu")
        for batch in order.to(data.train_images.device).split(settings.batch_size):
            model.train()
            x = normalise(data.train_images[batch], data.mean, data.std)
            loss = F.nll_loss(model(x), data.train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            advance(model)
            yield loss.detach()  # not .item(), which would wait for the device at every step


@torch.no_grad()
def evaluate(model: nn.Module, data: Dataset, batch_size: int = 1000) -> Evaluation:
    """Evaluate a classifier on the whole test set.

    Feedback is folded first: it is computed once, and the output is the same, bit for bit.

    Args:
        model: returns log-probabilities ``[n, classes]``.
        data: with the test set, on the model's device.
        batch_size: images a batch.

    Returns:
        Mean loss, correct count and accuracy.
    """
    plain = fold(model).eval()
    images = len(data.test_labels)
    loss = torch.zeros((), device=data.test_images.device)
    correct = torch.zeros((), dtype=torch.int64, device=data.test_images.device)
    for start in range(0, images, batch_size):
        labels = data.test_labels[start : start + batch_size]
        x = normalise(data.test_images[start : start + batch_size], data.mean, data.std)
        output = plain(x)
        loss += F.nll_loss(output, labels, reduction="sum")
        correct += (output.argmax(dim=1) == labels).sum()
    return Evaluation(float(loss) / images, int(correct), 100 * int(correct) / images)
