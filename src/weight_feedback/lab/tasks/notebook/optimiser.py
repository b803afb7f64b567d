"""Stochastic gradient descent with momentum, without what PyTorch's optimisers need to be compiled."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """The steps of `torch.optim.SGD`, bit for bit, from a momentum of zeros.

    They call the same kernel, one for all parameters. `torch.optim.SGD` itself imports PyTorch's compiler, which
    takes a process as long as PyTorch does, and longer than a short trial.

    Args:
        parameters: what is trained, all on one device; steps leave out those without a gradient.
        lr: the learning rate.
        momentum: how much of the last step's change the next one keeps.

    Attributes:
        momenta: parameter to its momentum, of its shape.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float) -> None:
        self.momenta = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        self._lr, self._momentum = lr, momentum

    @torch.no_grad()
    def step(self) -> None:
        """Change all parameters by their gradients."""
        trained = [(one, one.grad, momentum) for one, momentum in self.momenta.items() if one.grad is not None]
        sgd(
            [parameter for parameter, _, _ in trained],
            [gradient for _, gradient, _ in trained],
            [momentum for _, _, momentum in trained],
            fused=True,
            lr=self._lr,
            momentum=self._momentum,
            weight_decay=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
