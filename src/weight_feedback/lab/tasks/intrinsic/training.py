"""Networks trained in random subspaces of several sizes: how many dimensions does a task need?

As Li et al. (2018, arXiv:1804.08838) did it: Adam on the coordinates of `weight_feedback.Subspace`.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.lab.data import datasets
from weight_feedback.lab.data.datasets import Dataset, normalise
from weight_feedback.lab.tasks.base import Context
from weight_feedback.lab.tasks.fields import weights_digest
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.lab.tasks.notebook.evaluation import evaluate
from weight_feedback.lab.tasks.notebook.networks import Classifier, count_parameters, initialise
from weight_feedback.lab.tasks.notebook.subspace import projection
from weight_feedback.lab.tasks.optimisers import Adam
from weight_feedback.streams import stream
from weight_feedback.subspace import Subspace

#: Height and width of the images that the networks take, in pixels; they have one channel.
SIDE = 28


class FeedForward(Classifier, nn.Sequential):
    """A network of layers in a row that classifies images; see `build`."""


def build(network: str, seed: int) -> FeedForward:
    """Build one of the paper's networks for digits, with PyTorch's default initialisation.

    Args:
        network: ``"fc"``, 784-200-200-10, with 199,210 parameters; or ``"lenet"``, with 44,426: convolutions 5×5
            without padding to 6 and 16 channels, each with 2×2 max-pooling, then 256-120-84-10.
        seed: of the initial weights.

    Returns:
        The network: from images, shape ``[n, 1, 28, 28]``, to log-probabilities, shape ``[n, 10]``.
    """
    layers: dict[str, nn.Module] = {}
    widths: tuple[int, ...] = (SIDE * SIDE, 200, 200, 10)
    if network == "lenet":
        widths = (256, 120, 84, 10)
        for i, (inputs, outputs) in enumerate(((1, 6), (6, 16)), start=1):
            # ReLU after pooling gives the same numbers as before it, on a quarter of the elements.
            layers |= {
                f"conv{i}": nn.Conv2d(inputs, outputs, 5),
                f"pool{i}": nn.MaxPool2d(2),
                f"relu{i}": nn.ReLU(),
            }
    layers["flatten"] = nn.Flatten()
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        layers |= {f"fc{i}": nn.Linear(inputs, outputs), f"fc{i}_relu": nn.ReLU()}
    layers.popitem()  # outputs have no ReLU
    model = FeedForward(OrderedDict(layers, log_softmax=nn.LogSoftmax(dim=1)))
    initialise(model, seed)
    return model


def check_fit(measurements: Sequence[Measurement], data: Dataset) -> None:
    """Check that networks, subspaces and data fit together, before any time is spent.

    Args:
        measurements: what is to be measured.
        data: the data.

    Raises:
        ValueError: the images have another shape than the networks take, or a subspace has more dimensions than
            its network has parameters, or too large a matrix.
    """
    shape = tuple(data.train_images.shape[1:])
    if shape != (1, SIDE, SIDE):
        raise ValueError(f"data: expected images of shape {(1, SIDE, SIDE)}, but those of {data.name} are {shape}")
    parameters = {network: count_parameters(build(network, 0)) for network in {one.network for one in measurements}}
    for one in measurements:
        one.subspace.check_fit(parameters[one.network], "subspace.dimensions")


def train(trial: Context) -> None:
    """Train a network in a random subspace, and evaluate it after each epoch.

    What is kept: how many ``parameters`` the network has, and a digest of the final ``coordinates``.

    Args:
        trial: whose settings are a `Measurement`.
    """
    settings: Measurement = trial.settings
    data = datasets.load(settings.data, trial.data_dir).to(trial.device)
    # Runs that shared starts or signs over dimensions would not be the independent ones that the estimate takes
    # them for.
    drawn = stream(settings.seed, "intrinsic dimension", settings.subspace.dimensions)
    seed = int(torch.randint(2**62, (), generator=drawn, device="cpu"))
    network = build(settings.network, seed)
    trial.keep("parameters", count_parameters(network))
    small = Subspace(network, projection(settings.subspace, seed)).to(trial.device)
    optimiser = Adam(small.coordinates, settings.lr)
    for epoch in trial.epochs(settings.epochs, coordinates=_Coordinates(small), optimiser=optimiser):
        order = torch.randperm(len(data.train_labels), generator=stream(seed, "data order", epoch), device="cpu")
        for batch in order.to(trial.device).split(settings.batch_size):
            small.coordinates.grad = None
            output = small(normalise(data.train_images[batch], data.mean, data.std))
            F.nll_loss(output, data.train_labels[batch]).backward()
            optimiser.step()
        trial.report(accuracy=evaluate(cast(FeedForward, small.materialize()), data).accuracy)
    trial.keep("coordinates", weights_digest({"coordinates": small.coordinates.detach().cpu().numpy()}))


class _Coordinates:
    """What training changes of a network in a subspace."""

    def __init__(self, small: Subspace) -> None:
        self._small = small

    def state_dict(self) -> dict[str, Tensor]:
        """Return the coordinates."""
        return {"coordinates": self._small.coordinates.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go where they were."""
        self._small.coordinates.copy_(state["coordinates"])
