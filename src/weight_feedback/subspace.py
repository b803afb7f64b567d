"""Training in a random subspace: how many dimensions a task needs, whatever the number of parameters."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from weight_feedback.attach import signals
from weight_feedback.signals import Constant, Read, Signal
from weight_feedback.summaries import CountSketch, Projection


class Subspace(nn.Module):
    """A module whose parameters move in a random subspace: ``θ = θ₀ + Pᵀ v``, of which ``v`` alone is trained.

    Equation 2 of Li et al. (2018, arXiv:1804.08838): ``θ₀`` are the parameters as they are now, and ``P`` is one
    random projection of all of them together, not one a layer. With ``scale="adjoint-isometry"`` a step in ``v`` is
    on average over its directions as long in ``θ``; the adjoint of an isometry would stretch it by ``√(D/d)``. The
    buckets of a `CountSketch` are uneven: along one coordinate alone a step is up to √2 times as long.

    >>> import torch, weight_feedback as wf
    >>> net = torch.nn.Sequential(torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    >>> small = wf.Subspace(net, 50)
    >>> [(name, parameter.numel()) for name, parameter in small.named_parameters() if parameter.requires_grad]
    [('coordinates', 50)]
    >>> small(torch.rand(2, 784)).shape
    torch.Size([2, 10])

    Args:
        module: any; its parameters that require gradients are ``θ``, and are frozen as ``θ₀`` from now on.
        projection: ``d``, for a `CountSketch` with that scale; or an unbound projection.

    Attributes:
        coordinates: ``v``, shape ``[d]``, zeros at first.

    Raises:
        ValueError: no parameter requires gradients, or ``d`` is smaller than 1 or larger than their number.
    """

    def __init__(self, module: nn.Module, projection: int | Projection) -> None:
        super().__init__()
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        if not trained:
            raise ValueError("Subspace: the module must have parameters that require gradients, got none")
        if isinstance(projection, int):
            projection = CountSketch(projection, scale="adjoint-isometry")
        self.projection = projection.bind(trained)
        self.module = module
        # One name for each place that holds a parameter which moves, and the first of that parameter's names.
        first = {id(weight): name for name, weight in trained.items()}
        self._places = {
            f"{prefix}.{attribute}".lstrip("."): first[id(parameter)]
            for prefix, part in module.named_modules()
            for attribute, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
            if id(parameter) in first
        }
        self.coordinates = nn.Parameter(next(iter(trained.values())).new_zeros(projection.out_features))
        for weight in trained.values():
            weight.requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """Return ``θ``: by name, each parameter that moves, as it is now; gradients go to ``v``."""
        moved = self.projection.adjoint(self.coordinates)
        names = self.projection.names
        return {name: self.module.get_parameter(name) + by for name, by in zip(names, moved, strict=True)}

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Apply the module with ``θ``.

        Args:
            *inputs: as the module takes them.
            **kwargs: as the module takes them.

        Returns:
            What the module returns.
        """
        weights = self.weights()
        moved = {name: weights[first] for name, first in self._places.items()}
        # Tying them by itself, the function would leave a module that has two names with what it is lent.
        return functional_call(self.module, moved, inputs, kwargs, tie_weights=False)

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """Return a copy of the module with ``θ`` as its own parameters, free again.

        Its outputs equal this module's, bit for bit. What hears the coordinates hears their present values from now
        on.
        """
        materialized = copy.deepcopy(self.module, {id(self): self})
        for name, weight in self.weights().items():
            parameter = materialized.get_parameter(name)
            parameter.copy_(weight)
            parameter.requires_grad_(True)
        for name, signal in signals(materialized).items():
            if isinstance(signal, Coordinates):
                cast(Any, materialized.get_submodule(name)).signal = Constant(self.coordinates)
        return materialized

    def extra_repr(self) -> str:
        """Name the sizes."""
        return f"dimensions={self.projection.out_features}, parameters={self.projection.in_features}"


class Coordinates(Signal):
    """The coordinates ``v`` of a network in its subspace: all that it has learned, in ``d`` numbers.

    A layer that is to hear them gets its ``V`` before the subspace is drawn, since ``V`` moves in it too:

    >>> import torch, weight_feedback as wf
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> _ = wf.attach(net, into="0", signal=wf.Zeros(5))
    >>> small = wf.Subspace(net, 5)
    >>> net[0].signal = wf.Coordinates(small)

    Args:
        subspace: whose coordinates are heard, without gradient.
    """

    def __init__(self, subspace: Subspace) -> None:
        super().__init__()
        self.out_features = subspace.coordinates.numel()
        self.reads = (Read(subspace, "coordinates", "coordinates"),)

    def forward(self) -> Tensor:
        """Return ``v``, shape ``[d]``."""
        return self.reads[0].tensor().detach()
