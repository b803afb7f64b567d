"""The training loop and the evaluation, as the original notebook did them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.attach import advance, fold
from weight_feedback.lab.datasets import Dataset, normalise
from weight_feedback.lab.models import ConvNet
from weight_feedback.lab.settings import Training
from weight_feedback.layers import FeedbackLayer
from weight_feedback.streams import stream

#: How many test images the share of the signal in fc1 is measured on.
PROBE_IMAGES = 1000


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
class Hearing:
    """What a network hears at one moment, and how loud it is there.

    Attributes:
        norm: of ``z``.
        drift: ``‖z − z₀‖ / ‖z₀‖``, with ``z₀`` at initialisation; 0 where the two are equal.
        share: of what ``z`` adds to the pre-activation in all of it: the root mean square of the one, divided by
            its sum with that of the rest, over the first `PROBE_IMAGES` test images.
    """

    norm: float
    drift: float
    share: float


@dataclass
class History:
    """What training leaves behind.

    Attributes:
        step_losses: training loss of every step, in order, up to the last finite one.
        epochs: the evaluation after each epoch that was finished.
        hearings: what fc1 hears before the first step and after each finished epoch; empty without feedback.
        diverged: the first step, from 1, whose loss isn't finite, or after which the evaluation isn't; training
            stops at the end of its epoch. None: there was none.
    """

    step_losses: list[float] = field(default_factory=list)
    epochs: list[Evaluation] = field(default_factory=list)
    hearings: list[Hearing] = field(default_factory=list)
    diverged: int | None = None


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
    model: ConvNet,
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
        The losses and evaluations of ``model``, and what it heard.
    """
    history = History()
    if donor:
        donor.tell()
    steps = _lockstep(model, data, settings, seed, donor)
    images = len(data.train_labels)
    batches = settings.epoch_steps(images)
    z0 = heard(model)
    history.hearings += hear(model, data, z0)
    for epoch in range(1, settings.epochs + 1):
        losses: list[Tensor] = []
        for loss in itertools.islice(steps, batches):
            if on_log and len(losses) % settings.log_interval == 0:
                on_log(Progress(epoch, len(losses) * settings.batch_size, images, float(loss)))
            losses.append(loss)
        finite = list(itertools.takewhile(math.isfinite, torch.stack(losses).tolist()))
        history.step_losses.extend(finite)
        result = evaluate(model, data, settings.test_batch_size)
        if len(finite) < batches or not math.isfinite(result.loss):
            # After a last step that was finite, the weights may be finite no more.
            history.diverged = min(len(history.step_losses) + 1, epoch * batches)
            return history
        history.epochs.append(result)
        history.hearings += hear(model, data, z0)
        if on_epoch:
            on_epoch(epoch, result)
    return history


def _lockstep(
    model: ConvNet, data: Dataset, settings: Training, seed: int, donor: Donor | None
) -> Iterator[Tensor]:
    """Train without end; after each step of the model, its donor takes one and tells of it."""
    counted = _steps(model, data, settings, seed)
    if donor is None:
        yield from counted
    else:
        for loss, _ in zip(counted, _steps(donor.model, data, settings, donor.seed), strict=True):
            donor.tell()
            yield loss


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
def heard(model: ConvNet) -> Tensor | None:
    """Return a copy of what fc1 hears now, shape ``[k]``; None without feedback.

    Args:
        model: a network.
    """
    return model.fc1.signal().clone() if isinstance(model.fc1, FeedbackLayer) else None


@torch.no_grad()
def hear(model: ConvNet, data: Dataset, z0: Tensor | None) -> list[Hearing]:
    """Measure what fc1 hears now.

    Args:
        model: a network.
        data: with the test set, on the model's device.
        z0: what fc1 heard at initialisation, shape ``[k]``; None without feedback.

    Returns:
        Size, drift and share; nothing without feedback.
    """
    if z0 is None or not isinstance(model.fc1, FeedbackLayer):
        return []
    z = model.fc1.signal()
    features = model.features(normalise(data.test_images[:PROBE_IMAGES], data.mean, data.std))
    rest = F.linear(features, model.fc1.weight, model.fc1.bias)
    whole = F.linear(features, *model.fc1.plain_parameters(z))
    added, remaining = (x.square().mean().sqrt() for x in (whole - rest, rest))
    moved = (z - z0).norm()
    drift = moved / z0.norm() if moved > 0 else moved
    return [Hearing(float(z.norm()), float(drift), float(added / (added + remaining)))]


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
