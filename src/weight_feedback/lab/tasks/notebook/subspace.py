"""Networks in training whose parameters are confined to a random subspace (Li et al. 2018, arXiv:1804.08838)."""

from __future__ import annotations

import torch
from torch import nn

from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Subspace
from weight_feedback.registry import SUMMARIES
from weight_feedback.signals import Received
from weight_feedback.summaries import Projection


class Confined:
    """A network whose parameters are kept at ``θ₀ + Pᵀ v``, so that only its coordinates ``v`` are trained.

    It computes what `weight_feedback.Subspace` does, by hand: ``θ`` is written into the network's own parameters
    after each step, and ``v`` has the gradient ``P ∂L/∂θ``. So whatever looks at the network sees plain weights.

    Args:
        network: with its initial parameters ``θ₀``, in place.
        settings: of the subspace.
        seed: of ``P``.

    Attributes:
        coordinates: ``v``, shape ``[d]``, zeros at first; what an optimiser is to train.
    """

    def __init__(self, network: ConvNet, settings: Subspace, seed: int) -> None:
        self._parameters = dict(network.named_parameters())
        self._starts = [parameter.detach().clone() for parameter in self._parameters.values()]
        self._projection = projection(settings, seed).bind(self._parameters)
        self._signal = getattr(network.fc1, "signal", None)
        self.coordinates = nn.Parameter(self._starts[0].new_zeros(settings.dimensions))

    @torch.no_grad()
    def collect(self) -> None:
        """Give the coordinates the gradient that the parameters' gradients amount to."""
        gradients = [parameter.grad for parameter in self._parameters.values()]
        self.coordinates.grad = self._projection(*gradients)

    @torch.no_grad()
    def move(self) -> None:
        """Move the parameters to where the coordinates are."""
        moved = self._projection.adjoint(self.coordinates)
        for parameter, start, by in zip(self._parameters.values(), self._starts, moved, strict=True):
            torch.add(start, by, out=parameter)

    def hear(self, other: Confined) -> None:
        """Let the network hear coordinates; one whose signal is of another kind doesn't listen.

        Args:
            other: whose coordinates; the network's own if it is itself.
        """
        if isinstance(self._signal, Received):
            self._signal.receive(other.coordinates.detach())


def projection(settings: Subspace, seed: int) -> Projection:
    """Return the random map from parameters to coordinates, not yet bound.

    Args:
        settings: of the subspace.
        seed: of the map.
    """
    made = SUMMARIES[settings.projection](settings.dimensions, seed=seed, scale="adjoint-isometry")
    assert isinstance(made, Projection)
    return made
