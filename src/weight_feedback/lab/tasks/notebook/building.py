"""What a trial of the notebook's networks trains: checked, and built."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from weight_feedback.lab.data.datasets import Dataset
from weight_feedback.lab.tasks.notebook.arms import build_arm, build_donor, reads, summary, tell
from weight_feedback.lab.tasks.notebook.lockstep import Donor
from weight_feedback.lab.tasks.notebook.networks import ConvNet, Network, build, count_parameters, find_network
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Pooled, Subspace, Summarised
from weight_feedback.signals import OwnWeights


def check_fit(settings: NetworkTrial, data: Dataset) -> None:
    """Check that network, settings and data fit together, before any time is spent.

    Args:
        settings: of the network.
        data: the data.

    Raises:
        ValueError: there is no such network, the images have another shape than it takes, a batch is larger than
            the data, or the summary doesn't fit the weights that it reads.
    """
    network = find_network(settings.model)
    takes, shape = (network.channels[0], network.side, network.side), tuple(data.train_images.shape[1:])
    if shape != takes:
        raise ValueError(
            f"network {settings.model}: expected images of shape {takes}, but those of {settings.data} are {shape}"
        )
    if settings.signal is not None and network.k:
        raise ValueError(
            f"arms.signal: {settings.signal!r} needs a plain network, but {settings.model} has its own feedback"
        )
    if settings.summary is not None:
        _check_summary(settings.summary, network)
    if settings.training.subspace is not None:
        _check_subspace(settings.training.subspace, settings, network)
    images = len(data.train_images)
    if settings.training.batch_size > images:
        raise ValueError(
            f"training.batch_size: must be at most the {images} training images of {settings.data}, "
            f"got {settings.training.batch_size}"
        )


def _check_subspace(subspace: Subspace, settings: NetworkTrial, network: Network) -> None:
    with torch.device("meta"):
        plain = ConvNet(network.channels, network.side, network.hidden)
    if settings.signal is None:
        heard = network.k
    elif settings.signal == "none":
        heard = 0
    else:
        heard = subspace.dimensions
    sides = 2 if settings.conditioning == "film" else 1
    subspace.check_fit(count_parameters(plain) + heard * network.hidden * sides)


def _check_summary(settings: Summarised, network: Network) -> None:
    with torch.device("meta"):
        read = reads(ConvNet(network.channels, network.side, network.hidden))
    settings.check_fit(sum(one.tensor().numel() for one in read))
    if isinstance(settings, Pooled):  # it costs nothing to make, and says itself what doesn't fit
        try:
            OwnWeights(read, summary(settings, 0))
        except ValueError as error:
            raise ValueError(f"summary.kernels: {error}") from None


def build_networks(settings: NetworkTrial, epoch_steps: int, device: torch.device) -> tuple[ConvNet, Donor | None]:
    """Build the counted network of some settings and, if it is yoked, its donor.

    Args:
        settings: of the network.
        epoch_steps: optimiser steps in an epoch.
        device: where to.
    """
    model, donor = build_arm(settings, epoch_steps), None
    if settings.signal == "yoked":
        other, seed, listener = build_donor(settings, model, epoch_steps)
        told = partial(tell, other, listener.to(device), model) if listener else None
        donor = Donor(other.to(device), seed, told)
    return model.to(device), donor


def build_cohort(
    cohort: Sequence[NetworkTrial], epoch_steps: int, device: torch.device
) -> tuple[list[ConvNet], list[Donor]]:
    """Build the counted networks of a cohort and, if they are yoked, their donors.

    Args:
        cohort: settings of its networks.
        epoch_steps: optimiser steps in an epoch.
        device: where to.
    """
    networks = [build_networks(settings, epoch_steps, device) for settings in cohort]
    return [model for model, _ in networks], [donor for _, donor in networks if donor]


def bytes_needed(todo: Sequence[NetworkTrial], images: int) -> int:
    """Return about how many bytes the results of trials are going to take, at the least.

    Args:
        todo: settings of their networks.
        images: in the training set.
    """
    # Of each step a record has a loss, of about 20 digits and signs.
    records = sum(2_000 + 20 * one.training.epochs * one.training.epoch_steps(images) for one in todo)
    keeping = [one.model for one in todo if one.keeps_weights]
    weights = {model: 4 * count_parameters(build(model, 0)) for model in set(keeping)}
    return records + sum(weights[model] for model in keeping)
