"""Cohorts: networks of one arm and several seeds, trained as one network with a dimension more.

Convolutions run as groups and fully connected layers as batches, so that one kernel does the work of many. That
pays for small networks, and on a GPU. Each network computes what it would alone, to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.layers import FeedbackLinear


class Cohort(nn.Module):
    """Several networks of one shape, computed at once.

    Its parameters are stacks, ``[n, …]``; from now on each network's own parameters are views of them. So the
    networks hear their own present weights, and can be evaluated, folded and saved one by one. Gradients don't go
    through what is heard.

    Args:
        networks: of one architecture and one kind of signal, on one device.

    Shape:
        Input ``[n, batch, channels, side, side]``, output: log-probabilities ``[n, batch, classes]``.
    """

    def __init__(self, networks: Sequence[ConvNet]) -> None:
        super().__init__()
        self.networks = tuple(networks)  # outside the module tree: their parameters are here already
        self.stacks = nn.ParameterDict()
        for name, like in networks[0].named_parameters():
            stack = torch.stack([network.get_parameter(name).detach() for network in networks])
            if like.dim() == 4:  # as the networks' own: channels last
                stack = stack.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            self.stacks[name.replace(".", "_")] = nn.Parameter(stack)
            for network, part in zip(networks, stack, strict=True):
                network.get_parameter(name).data = part

    def forward(self, x: Tensor) -> Tensor:
        """Classify images, a batch for each network.

        Args:
            x: normalised images, shape ``[n, batch, channels, side, side]``.

        Returns:
            Log-probabilities, shape ``[n, batch, classes]``.
        """
        # Channels of all networks side by side, and last in memory, which grouped convolutions are fast for.
        x = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for name in ("conv1", "conv2"):
            weight, bias = self.stacks[f"{name}_weight"], self.stacks[f"{name}_bias"]
            x = F.conv2d(x, weight.flatten(0, 1), bias.flatten(), groups=len(weight))
            x = F.relu(F.max_pool2d(x, 2))
        features = x.unflatten(1, (len(self.networks), -1)).transpose(0, 1).flatten(2)
        return F.log_softmax(self._linear("fc2", F.relu(self._hear(features))), dim=2)

    def classify(self, x: Tensor, labels: Tensor, reduction: Literal["mean", "sum"]) -> tuple[Tensor, Tensor]:
        """Classify a batch for each network.

        Args:
            x: normalised images, shape ``[n, batch, channels, side, side]``.
            labels: shape ``[n, batch]``.
            reduction: of the losses of a batch.

        Returns:
            Log-probabilities, shape ``[n, batch, classes]``, and negative log-likelihoods, shape ``[n]``.
        """
        output = self(x)
        losses = F.nll_loss(output.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        return output, losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1)

    def parts(self, value: Tensor) -> Sequence[Tensor]:
        """Return each network's part of what belongs to a parameter.

        Args:
            value: of the parameter's shape, ``[n, …]``.
        """
        return value.unbind()

    def plain(self) -> Cohort:
        """Return what evaluates as this does, in evaluation mode: the cohort itself, which has one mode."""
        return self

    def _linear(self, name: str, x: Tensor, shift: Tensor | None = None) -> Tensor:
        bias = self.stacks[f"{name}_bias"] if shift is None else self.stacks[f"{name}_bias"] + shift
        return torch.baddbmm(bias[:, None], x, self.stacks[f"{name}_weight"].mT)

    def _hear(self, x: Tensor) -> Tensor:
        """Apply fc1, with feedback if there is any."""
        if "fc1_feedback_weight" not in self.stacks:
            return self._linear("fc1", x)
        with torch.no_grad():
            z = torch.stack([cast(FeedbackLinear, network.fc1).signal() for network in self.networks])
        heard: Tensor = (self.stacks["fc1_feedback_weight"] @ z[:, :, None]).squeeze(2)
        if cast(FeedbackLinear, self.networks[0].fc1).conditioning == "concat":
            return self._linear("fc1", x, heard)
        scale, shift = (part[:, None] for part in heard.chunk(2, dim=1))
        return (1 + scale) * self._linear("fc1", x) + shift


def as_one(models: Sequence[ConvNet]) -> ConvNet | Cohort:
    """Return several networks as a cohort, and a single one as it is.

    Args:
        models: of one architecture.
    """
    return Cohort(models) if len(models) > 1 else models[0]
