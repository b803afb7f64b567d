"""The notebook's six networks written the plainest way: ours are tested against them, and timed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Channels, side of the image, size of z, outputs of fc1, feedback, trainable numbers.
NETWORKS = {
    "mnist-plain": ((1, 5, 10), 28, 0, 50, None, 9950),
    "mnist-pooled": ((1, 5, 10), 28, 26, 60, ((25, 31), (2, 25)), 13220),
    "mnist-projected": ((1, 5, 10), 28, 26, 50, "projected", 11250),
    "cifar10-plain": ((3, 20, 50), 32, 0, 700, None, 909280),
    "cifar10-pooled": ((3, 20, 50), 32, 460, 500, ((50, 45), (2, 50)), 887080),
    "cifar10-projected": ((3, 20, 50), 32, 460, 500, "projected", 887080),
}
#: Features that the convolutions give, by data set.
CONV_OUTPUTS = {"mnist": 160, "cifar10": 1250}


class Network(nn.Module):
    """One of the six networks, with z concatenated to every example; a projected one needs its ``P``.

    Args:
        name: of the network.
    """

    P: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        (one, two, three), _, self.k, hidden, self.feedback, _ = NETWORKS[name]
        self.conv1 = nn.Conv2d(one, two, 5)
        self.conv2 = nn.Conv2d(two, three, 5)
        self.fc1 = nn.Linear(CONV_OUTPUTS[name.split("-")[0]] + self.k, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    @torch.no_grad()
    def z(self) -> Tensor:
        """Summarise the weights of both fully connected layers, shape ``[k]``."""
        if self.feedback == "projected":
            return torch.cat([self.fc1.weight, self.fc2.weight.T], dim=1).flatten() @ self.P
        first, second = self.feedback
        one = F.max_pool2d(self.fc1.weight[None], first)[0]
        two = F.max_pool2d(self.fc2.weight[None], second)[0]
        numbers = torch.cat([one, two.T], dim=1).flatten()
        return torch.cat([numbers, torch.ones(self.k - len(numbers), dtype=numbers.dtype)])

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of probabilities, shape ``[n, 10]``, for images of shape ``[n, c, h, w]``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.reshape(len(x), -1)
        if self.feedback:
            x = torch.cat([x, self.z().repeat(len(x), 1)], dim=1)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)
