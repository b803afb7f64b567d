"""The notebook's way of training: the side that ours is timed against.

Each image goes from PIL to a float tensor and is normalised one by one, a DataLoader in the main process collates
them, the batch is widened by concatenation, ReLU comes before pooling, weights are read and projected densely at
every forward, the loss is fetched at each step, and all cores are threads of one network.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from notebook_networks import Network


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory, turned into normalised tensors one by one, step by step as torchvision does it.

    The steps are those of its MNIST and CIFAR10 data sets with `ToTensor` and `Normalize`, checks included.

    Args:
        images: uint8, shape ``[n, c, h, w]``.
        labels: shape ``[n]``.
        mean: of each channel.
        std: of each channel.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.images = images.permute(0, 2, 3, 1).squeeze(3).contiguous()
        self.labels = labels
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a normalised image, shape ``[c, h, w]``, and its label."""
        pixels, label = self.images[index], int(self.labels[index])
        picture = Image.fromarray(pixels.numpy())
        image = torch.from_numpy(np.array(picture, copy=True))
        image = image.view(picture.size[1], picture.size[0], len(picture.getbands()))
        image = image.permute((2, 0, 1)).contiguous().to(torch.get_default_dtype()).div(255)
        return self._normalise(image), label

    def _normalise(self, image: Tensor) -> Tensor:
        image = image.clone()
        mean, std = (torch.as_tensor(values, dtype=image.dtype) for values in (self.mean, self.std))
        if (std == 0).any():
            raise ValueError("std must not be 0")
        return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


class Original:
    """One of the six networks with its optimiser, trained and evaluated as the notebook did.

    Args:
        name: of the network.
        train: training images.
        test: test images.
    """

    def __init__(self, name: str, train: Images, test: Images) -> None:
        self.model = Network(name)
        if self.model.feedback == "projected":
            weights = self.model.fc1.weight.numel() + self.model.fc2.weight.numel()
            bound = math.sqrt(6 / (weights + self.model.k))
            self.model.P = torch.empty(weights, self.model.k).uniform_(-bound, bound)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.5)
        self.train_loader = DataLoader(train, batch_size=64, shuffle=True)
        self.test_loader = DataLoader(test, batch_size=1000, shuffle=True)
        self.losses: list[float] = []

    def train(self) -> float:
        """Train for one epoch.

        Returns:
            Seconds a step.
        """
        self.model.train()
        start = time.perf_counter()
        for x, y in self.train_loader:
            self.optimiser.zero_grad()
            loss = F.nll_loss(self.model(x), y)
            loss.backward()
            self.optimiser.step()
            self.losses.append(loss.item())
        return (time.perf_counter() - start) / len(self.train_loader)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Evaluate on the test images.

        Returns:
            Seconds an image.
        """
        self.model.eval()
        loss, correct, images = 0.0, 0, 0
        start = time.perf_counter()
        for x, y in self.test_loader:
            output = self.model(x)
            loss += F.nll_loss(output, y, reduction="sum").item()
            correct += int(output.argmax(dim=1).eq(y).sum())
            images += len(y)
        return (time.perf_counter() - start) / images
