"""The training loop and the evaluation, as the original notebook did them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.attach import advance, fold
from weight_feedback.lab.cohorts import Cohort
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

    model: ConvNet
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
    donors = [donor] if donor else []
    return train_cohort([model], data, settings, [seed], on_epoch, donors, on_log)[0]


def train_cohort(
    models: Sequence[ConvNet],
    data: Dataset,
    settings: Training,
    seeds: Sequence[int],
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    donors: Sequence[Donor] = (),
    on_log: Callable[[Progress], None] | None = None,
) -> list[History]:
    """Train classifiers of one arm in place and at once; several as a `Cohort`, a single one plainly.

    Args:
        models: of one architecture and one kind of signal.
        data: training and test set, on the models' device.
        settings: of the optimiser and the batches.
        seeds: of the data order, one a model.
        on_epoch: called after each epoch with its number and the evaluation of the first model that hasn't
            diverged.
        donors: one for each of the models; see `train`.
        on_log: see `train`; it is told of the first model.

    Returns:
        What `train` returns for each of them.
    """
    together = as_one(models)
    steps = _lockstep(together, data, settings, seeds, donors)
    images = len(data.train_labels)
    batches = settings.epoch_steps(images)
    histories = [History() for _ in models]
    starts = [heard(model) for model in models]
    listen = [partial(hear, model, data, z0) for model, z0 in zip(models, starts, strict=True)]
    for history, now in zip(histories, listen, strict=True):
        history.hearings += now()
    for epoch in range(1, settings.epochs + 1):
        losses: list[Tensor] = []
        for loss in itertools.islice(steps, batches):
            if on_log and len(losses) % settings.log_interval == 0:
                on_log(Progress(epoch, len(losses) * settings.batch_size, images, float(loss[0])))
            losses.append(loss)
        evaluations = evaluate_all(together, data, settings.test_batch_size)
        for i, step_losses in enumerate(torch.stack(losses, dim=1).tolist()):
            _write_down(histories[i], step_losses, evaluations[i], listen[i], epoch)
        live = [result for result, history in zip(evaluations, histories, strict=True) if not history.diverged]
        if not live:
            break
        if on_epoch:
            on_epoch(epoch, live[0])
    return histories


def _write_down(
    history: History,
    step_losses: list[float],
    result: Evaluation,
    listen: Callable[[], list[Hearing]],
    epoch: int,
) -> None:
    """Add an epoch to a history, unless training had diverged before it."""
    if history.diverged is not None:
        return
    finite = list(itertools.takewhile(math.isfinite, step_losses))
    history.step_losses.extend(finite)
    if len(finite) < len(step_losses) or not math.isfinite(result.loss):
        # After a last step that was finite, the weights may be finite no more.
        history.diverged = min(len(history.step_losses) + 1, epoch * len(step_losses))
    else:
        history.epochs.append(result)
        history.hearings += listen()


def as_one(models: Sequence[ConvNet]) -> ConvNet | Cohort:
    """Return several networks as a cohort, and a single one as it is.

    Args:
        models: of one architecture.
    """
    return Cohort(models) if len(models) > 1 else models[0]


def _lockstep(
    model: ConvNet | Cohort, data: Dataset, settings: Training, seeds: Sequence[int], donors: Sequence[Donor]
) -> Iterator[Tensor]:
    """Train without end; after each step of the models, their donors take one and tell of it."""
    counted = _steps(model, data, settings, seeds)
    if not donors:
        return counted
    for donor in donors:
        donor.tell()
    others = as_one([donor.model for donor in donors])
    told = _steps(others, data, settings, [donor.seed for donor in donors])

    def both() -> Iterator[Tensor]:
        for losses, _ in zip(counted, told, strict=True):
            for donor in donors:
                donor.tell()
            yield losses

    return both()


def _steps(model: ConvNet | Cohort, data: Dataset, settings: Training, seeds: Sequence[int]) -> Iterator[Tensor]:
    """Train without end, one step for each vector of losses, one a network, that is taken."""
    # One kernel for all parameters, in place of a Python loop over them.
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum, fused=True)
    networks = model.networks if isinstance(model, Cohort) else (model,)
    images = len(data.train_labels)
    for epoch in itertools.count(1):
        orders = [
            torch.randperm(images, generator=stream(seed, "data order", epoch), device="cpu") for seed in seeds
        ]
        for batch in torch.stack(orders).to(data.train_images.device).split(settings.batch_size, dim=1):
            model.train()
            losses = _losses(model, data, batch)
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            for network in networks:
                advance(network)
            yield losses.detach()  # not .item(), which would wait for the device at every step


def _losses(model: ConvNet | Cohort, data: Dataset, batch: Tensor) -> Tensor:
    """Return the loss of each network on its own batch of image numbers, shape ``[n]``."""
    x = normalise(data.train_images[batch.flatten()], data.mean, data.std)
    labels = data.train_labels[batch]
    if not isinstance(model, Cohort):
        return F.nll_loss(model(x), labels[0])[None]
    output = model(x.unflatten(0, batch.shape))
    return F.nll_loss(output.flatten(0, 1), labels.flatten(), reduction="none").view(batch.shape).mean(dim=1)


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


def evaluate_all(model: ConvNet | Cohort, data: Dataset, batch_size: int = 1000) -> list[Evaluation]:
    """Evaluate one network or a cohort; see `evaluate` and `evaluate_cohort`.

    Args:
        model: the network, or the cohort.
        data: see `evaluate`.
        batch_size: see `evaluate`.

    Returns:
        One evaluation a network.
    """
    if isinstance(model, Cohort):
        return evaluate_cohort(model, data, batch_size)
    return [evaluate(model, data, batch_size)]


@torch.no_grad()
def evaluate_cohort(cohort: Cohort, data: Dataset, batch_size: int = 1000) -> list[Evaluation]:
    """Evaluate the networks of a cohort on the whole test set.

    Args:
        cohort: the networks.
        data: with the test set, on their device.
        batch_size: images a batch, of all networks together.

    Returns:
        What `evaluate` returns for each of them.
    """
    n, images = len(cohort.networks), len(data.test_labels)
    loss = torch.zeros(n, device=data.test_images.device)
    correct = torch.zeros(n, dtype=torch.int64, device=data.test_images.device)
    size = max(batch_size // n, 1)
    for start in range(0, images, size):
        x = normalise(data.test_images[start : start + size], data.mean, data.std)
        labels = data.test_labels[start : start + size].expand(n, -1)
        output = cohort(x.expand(n, *x.shape))
        loss += F.nll_loss(output.flatten(0, 1), labels.flatten(), reduction="none").view(n, -1).sum(dim=1)
        correct += (output.argmax(dim=2) == labels).sum(dim=1)
    return [
        Evaluation(total / images, right, 100 * right / images)
        for total, right in zip(loss.tolist(), correct.tolist(), strict=True)
    ]
