"""The notebook's six networks, built from the library's parts, and its projected ones with a fast sketch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.attach import attach, feedback_layers
from weight_feedback.fold import fold
from weight_feedback.registry import SUMMARIES
from weight_feedback.streams import stream
from weight_feedback.summaries import MaxPool, Summary


class Classifier(nn.Module):
    """A network that classifies images. What is done to networks in training is done to it as to a `Cohort`.

    Shape:
        Input ``[n, channels, side, side]``, output: log-probabilities ``[n, classes]``.
    """

    @property
    def networks(self) -> Sequence[Self]:
        """The networks that are computed at once: this one."""
        return (self,)

    def classify(self, x: Tensor, labels: Tensor, reduction: Literal["mean", "sum"]) -> tuple[Tensor, Tensor]:
        """Classify a batch for each network.

        Args:
            x: normalised images, shape ``[1, batch, channels, side, side]``.
            labels: shape ``[1, batch]``.
            reduction: of the losses of a batch.

        Returns:
            Log-probabilities, shape ``[1, batch, classes]``, and negative log-likelihoods, shape ``[1]``.
        """
        output = self(x.flatten(0, 1))
        return output[None], F.nll_loss(output, labels[0], reduction=reduction)[None]

    def parts(self, value: Tensor) -> Sequence[Tensor]:
        """Return each network's part of what belongs to a parameter.

        Args:
            value: of the parameter's shape.
        """
        return (value,)

    def plain(self) -> Self:
        """Return what evaluates as this does, in evaluation mode: a copy whose feedback is folded."""
        return cast(Self, fold(self).eval())


class ConvNet(Classifier):
    """Two times convolution 5×5, 2×2 max-pooling and ReLU; then fc1, ReLU, fc2 and log-softmax.

    Args:
        channels: of the input, after the first and after the second convolution.
        side: height and width of the input, in pixels.
        hidden: outputs of fc1.
        classes: outputs of fc2.

    Shape:
        Input ``[n, channels[0], side, side]``, output: log-probabilities ``[n, classes]``.
    """

    def __init__(self, channels: tuple[int, int, int], side: int, hidden: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels[0], channels[1], 5)
        self.conv2 = nn.Conv2d(channels[1], channels[2], 5)
        left = ((side - 4) // 2 - 4) // 2
        self.fc1 = nn.Linear(channels[2] * left * left, hidden)
        self.fc2 = nn.Linear(hidden, classes)
        # About twice as fast as the default layout for these convolutions on a CPU, and no slower on a GPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Tensor) -> Tensor:
        """Compute the input of fc1.

        Args:
            x: normalised images, shape ``[n, channels[0], side, side]``.

        Returns:
            Shape ``[n, fc1.in_features]``.
        """
        # ReLU after pooling gives the same numbers as before it, on a quarter of the elements.
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: normalised images, shape ``[n, channels[0], side, side]``.

        Returns:
            Log-probabilities, shape ``[n, classes]``.
        """
        return F.log_softmax(self.fc2(F.relu(self.fc1(self.features(x)))), dim=1)


@dataclass(frozen=True)
class Network:
    """One row of the table of networks.

    Attributes:
        data: the data set that it was made for.
        channels: of the input, after the first and after the second convolution.
        side: height and width of the input, in pixels.
        hidden: outputs of fc1.
        kernels: kernels of fc1 and fc2 for the pooled summary; None: no pooling.
        k: size of ``z``; 0: no feedback.
        projection: the kind of the other summary; the notebook's is dense, with uniform entries, the default.
    """

    data: str
    channels: tuple[int, int, int]
    side: int
    hidden: int
    kernels: tuple[tuple[int, int], tuple[int, int]] | None = None
    k: int = 0
    projection: str = "dense"

    def summary(self, seed: int) -> Summary:
        """Return the summary that fc1 hears.

        Args:
            seed: of the projection.
        """
        if self.kernels is not None:
            return MaxPool(self.kernels, self.k, fill=1.0, transpose=(False, True))
        return SUMMARIES[self.projection](self.k, scale="xavier", seed=seed)


NETWORKS = {
    "mnist-plain": Network("mnist", (1, 5, 10), 28, 50),
    "mnist-pooled": Network("mnist", (1, 5, 10), 28, 60, ((25, 31), (2, 25)), k=26),
    "mnist-projected": Network("mnist", (1, 5, 10), 28, 50, k=26),
    "mnist-sketched": Network("mnist", (1, 5, 10), 28, 50, k=26, projection="count"),
    "cifar10-plain": Network("cifar10", (3, 20, 50), 32, 700),
    "cifar10-pooled": Network("cifar10", (3, 20, 50), 32, 500, ((50, 45), (2, 50)), k=460),
    "cifar10-projected": Network("cifar10", (3, 20, 50), 32, 500, k=460),
    "cifar10-sketched": Network("cifar10", (3, 20, 50), 32, 500, k=460, projection="count"),
}


def find_network(name: str) -> Network:
    """Return a row of the table.

    Args:
        name: a key of `NETWORKS`.

    Raises:
        ValueError: there is no such network.
    """
    if name not in NETWORKS:
        raise ValueError(f"network: expected one of {', '.join(NETWORKS)}, got {name!r}")
    return NETWORKS[name]


def build(name: str, seed: int) -> ConvNet:
    """Build one of the networks.

    Every parameter has PyTorch's default initialisation, drawn from a stream of its own name, so that two
    networks of one seed share the initial weights whose shape and fan-in agree. Where there is feedback,
    ``[W|V]`` as a whole has the default initialisation of a layer of its full width.

    Args:
        name: a key of `NETWORKS`.
        seed: of the initial weights and of the projection.

    Returns:
        The network, on the CPU, in float32.

    Raises:
        ValueError: there is no such network.
    """
    network = find_network(name)
    model = ConvNet(network.channels, network.side, network.hidden)
    if network.k:
        attach(model, "fc1", reads=["fc1.full_weight", "fc2.weight"], summary=network.summary(seed))
    initialise(model, seed)
    return model


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draw all parameters uniformly from ``±1/√fan_in``, PyTorch's default for linear layers and convolutions.

    Args:
        model: a module of linear layers and convolutions, with or without feedback.
        seed: of the streams, one for each parameter's name.
    """
    feedback = feedback_layers(model)
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        fan_in = model.get_parameter(f"{owner}.weight")[0].numel()
        if owner in feedback:
            fan_in += feedback[owner].signal.out_features
        parameter.copy_(initial_values(name, parameter.shape, fan_in, seed))


def initial_values(name: str, shape: torch.Size, fan_in: int, seed: int) -> Tensor:
    """Draw a parameter's initial values, uniformly from ``±1/√fan_in``.

    Args:
        name: of the parameter, in the model; it names the stream.
        shape: of the parameter.
        fan_in: inputs of each output.
        seed: of the stream.

    Returns:
        A tensor of that shape, on the CPU.
    """
    purpose = "feedback init" if name.endswith("feedback_weight") else "init"
    drawn = torch.rand(shape, generator=stream(seed, purpose, name), device="cpu")
    return (2 * drawn - 1) / math.sqrt(fan_in)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers.

    Args:
        model: any module.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
