"""What a trained network is worth when, in evaluation alone, it hears something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch

from weight_feedback.fold import fold
from weight_feedback.lab.data.datasets import Dataset
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.evaluation import evaluate, heard
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial

Arrays = Mapping[str, np.ndarray[Any, Any]]


@torch.no_grad()
def evaluate_under(
    name: str,
    trial: NetworkTrial,
    weights: Arrays,
    others: Sequence[tuple[NetworkTrial, Arrays]],
    data: Dataset,
    device: torch.device,
) -> dict[str, float]:
    """Evaluate a trained network with something else in place of what it hears.

    Args:
        name: ``"zeros"``, ``"initial"``: what it heard before its first step, or ``"other"``: what another seed's
            network heard at last.
        trial: of the network.
        weights: its final ones.
        others: the other seed's trial and weights, if it takes one.
        data: with the test set.
        device: where to evaluate.

    Returns:
        Loss, correct count and accuracy.
    """
    epoch_steps = trial.training.epoch_steps(len(data.train_labels))
    model = _trained(trial, weights, epoch_steps)
    z = heard(_trained(*others[0], epoch_steps) if others else build_arm(trial, epoch_steps))
    assert z is not None  # only networks with a signal are swapped
    plain = cast(ConvNet, fold(model, torch.zeros_like(z) if name == "zeros" else z))
    return asdict(evaluate(plain.to(device), data.to(device), trial.training.test_batch_size))


def _trained(trial: NetworkTrial, weights: Arrays, epoch_steps: int) -> ConvNet:
    """Rebuild a network with its final weights, on the CPU."""
    model = build_arm(trial, epoch_steps)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model
