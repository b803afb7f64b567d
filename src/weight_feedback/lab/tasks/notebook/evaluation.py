"""How a network does on the test set, and what it hears, at one moment of its training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weight_feedback.lab.data.datasets import Dataset, normalise
from weight_feedback.lab.tasks.notebook.cohorts import Cohort
from weight_feedback.lab.tasks.notebook.networks import Classifier, ConvNet
from weight_feedback.layers import FeedbackLayer

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
class Hearing:
    """What a network hears at one moment, and how loud it is there.

    Attributes:
        norm: of ``z``.
        drift: ``‖z − z₀‖ / ‖z₀‖``, with ``z₀`` at initialisation; ``‖z‖`` where that is 0.
        share: of what ``z`` adds to the pre-activation in all of it: the root mean square of the one, divided by
            its sum with that of the rest, over the first `PROBE_IMAGES` test images.
    """

    norm: float
    drift: float
    share: float


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
    moved, start = (z - z0).norm(), z0.norm()
    drift = moved / start if start > 0 else moved
    return [Hearing(float(z.norm()), float(drift), float(added / (added + remaining)))]


def evaluate(model: Classifier, data: Dataset, batch_size: int = 1000) -> Evaluation:
    """Evaluate a classifier on the whole test set; see `evaluate_all`.

    Args:
        model: the classifier, on the data's device.
        data: with the test set.
        batch_size: images a batch.

    Returns:
        Mean loss, correct count and accuracy.
    """
    return evaluate_all(model, data, batch_size)[0]


@torch.no_grad()
def evaluate_all(model: Classifier | Cohort, data: Dataset, batch_size: int = 1000) -> list[Evaluation]:
    """Evaluate a classifier, or the networks of a cohort, on the whole test set.

    Feedback of a single one is folded first: it is computed once, and the output is the same, bit for bit.

    Args:
        model: the classifier, or the cohort.
        data: see `evaluate`.
        batch_size: images a batch, of all networks together.

    Returns:
        One evaluation a network.
    """
    n, plain = len(model.networks), model.plain()
    loss = torch.zeros(n, device=data.test_images.device)
    correct = torch.zeros(n, dtype=torch.int64, device=data.test_images.device)
    size, images = max(batch_size // n, 1), len(data.test_labels)
    for batch, labels in zip(data.test_images.split(size), data.test_labels.split(size), strict=True):
        x = normalise(batch, data.mean, data.std)
        output, losses = plain.classify(x.expand(n, *x.shape), labels.expand(n, -1), "sum")
        loss += losses
        correct += (output.argmax(dim=2) == labels).sum(dim=1)
    return [
        Evaluation(total / images, right, 100 * right / images)
        for total, right in zip(loss.tolist(), correct.tolist(), strict=True)
    ]
