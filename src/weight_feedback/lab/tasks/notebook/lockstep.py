"""What is trained: one network, or several as a cohort, with an optimiser and data orders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weight_feedback.attach import advance, precompute
from weight_feedback.lab.data.datasets import Dataset, normalise
from weight_feedback.lab.tasks.notebook.cohorts import Cohort, as_one
from weight_feedback.lab.tasks.notebook.evaluation import classify
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.tasks.notebook.subspace import Confined
from weight_feedback.streams import stream


class Learner:
    """One network, or several as a cohort, with the optimiser and the data orders that train it.

    Args:
        networks: of one architecture and one kind of signal; they are trained in place.
        data: with the training set, on the networks' device.
        settings: of the optimiser and the batches.
        seeds: of the data order, one a network.

    Attributes:
        networks: as given.
        model: the network, or the cohort.
        confined: the subspace that the network is confined to; None: there is none.
    """

    def __init__(
        self, networks: Sequence[ConvNet], data: Dataset, settings: Training, seeds: Sequence[int]
    ) -> None:
        self.networks, self.model = networks, as_one(networks)
        self._data, self._seeds = data, seeds
        self.confined = Confined(networks[0], settings.subspace, seeds[0]) if settings.subspace else None
        self._trained = dict(self.model.named_parameters())
        if self.confined:
            self._trained = {"coordinates": self.confined.coordinates}
        # One kernel for all parameters, in place of a Python loop over them.
        sgd = torch.optim.SGD(self._trained.values(), lr=settings.lr, momentum=settings.momentum, fused=True)
        self._optimiser = sgd
        # Zeros are what the first step starts from anyway; now there is a place to restore momentum to.
        for parameter in self._trained.values():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def order(self, epoch: int) -> Tensor:
        """Return the order in which the networks see the images in an epoch.

        Args:
            epoch: from 1.

        Returns:
            Indices, shape ``[n, images]``, on the CPU.
        """
        images = len(self._data.train_labels)
        return torch.stack(
            [
                torch.randperm(images, generator=stream(seed, "data order", epoch), device="cpu")
                for seed in self._seeds
            ]
        )

    def precompute(self, steps: int) -> None:
        """Make ready for so many steps; see `weight_feedback.precompute`.

        Args:
            steps: how many; 0 when they are done.
        """
        for network in self.networks:
            precompute(network, steps)

    def step(self, batch: Tensor) -> Tensor:
        """Train for a step. It never waits for the device, and sends nothing to it.

        Args:
            batch: indices of images, shape ``[n, batch]``, on the networks' device.

        Returns:
            The losses before the step, shape ``[n]``.
        """
        data = self._data
        self.model.train()
        x = normalise(data.train_images[batch.flatten()], data.mean, data.std).unflatten(0, batch.shape)
        _, losses = classify(self.model, x, data.train_labels[batch], "mean")
        # To None: so the backward pass of a step that is recorded makes gradients that belong to the recording.
        self.model.zero_grad(set_to_none=True)
        losses.sum().backward()
        if self.confined:
            self.confined.collect()
        self._optimiser.step()
        if self.confined:
            self.confined.move()
        for network in self.networks:
            advance(network)
        return losses.detach()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, coordinates, momentum and the buffers of signals; of a cohort, each network's part."""
        tensors = {
            f"{i}.{name}": value
            for i, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
            if not name.endswith("_extra_state")  # a seed
        }
        if self.confined:
            tensors["0.coordinates"] = self.confined.coordinates.detach()
        for name, parameter in self._trained.items():
            for kind, value in self._optimiser.state[parameter].items():
                parts = value if isinstance(self.model, Cohort) else [value]
                tensors |= {f"{i}.{kind}.{name}": part for i, part in enumerate(parts)}
        return tensors
