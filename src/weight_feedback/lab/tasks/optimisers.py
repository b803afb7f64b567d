"""SGD with momentum, and Adam: the steps of ``torch.optim``, bit for bit, without importing PyTorch's compiler.

They call the same kernels, one for all parameters. The classes of ``torch.optim`` import the compiler when they are
made, which takes a process as long as importing PyTorch does, and longer than a short trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class SGD:
    """Stochastic gradient descent with momentum, from a momentum of zeros.

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


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with the usual decay rates, of one parameter.

    Args:
        parameter: what is trained.
        lr: the learning rate.
    """

    def __init__(self, parameter: Tensor, lr: float) -> None:
        self._parameter, self._lr = parameter, lr
        self._mean, self._square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._steps = torch.zeros((), dtype=torch.float32, device=parameter.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what further steps depend on, besides the parameter."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where steps were.

        Args:
            state: what `state_dict` returned then.
        """
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameter by its gradient.

        Raises:
            ValueError: it has none.
        """
        if self._parameter.grad is None:
            raise ValueError("expected a gradient, from a backward pass before this step")
        adam(
            [self._parameter],
            [self._parameter.grad],
            [self._mean],
            [self._square],
            [],
            [self._steps],
            fused=True,
            lr=self._lr,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )
