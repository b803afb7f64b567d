"""Naive versions of what the package computes: slow, plain, in float64, and sharing no code with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Summaries


def largest(entries: list[float]) -> float:
    best = entries[0]
    for entry in entries:
        best = max(best, entry)
    return best


def average(entries: list[float]) -> float:
    return math.fsum(entries) / len(entries)


def pool(matrix: np.ndarray, kernel: tuple[int, int], reduce) -> np.ndarray:
    pooled = np.empty((len(matrix) // kernel[0], len(matrix[0]) // kernel[1]))
    for i in range(pooled.shape[0]):
        for j in range(pooled.shape[1]):
            entries = []
            for row in range(i * kernel[0], (i + 1) * kernel[0]):
                for column in range(j * kernel[1], (j + 1) * kernel[1]):
                    entries.append(float(matrix[row][column]))  # noqa: PERF401 - plain on purpose
            pooled[i, j] = reduce(entries)
    return pooled


def pooled(
    weights: Sequence[np.ndarray],
    kernels: Sequence[tuple[int, int]],
    transpose: Sequence[bool],
    padding: Sequence[float],
    reduce,
) -> np.ndarray:
    parts = []
    for weight, kernel, flip in zip(weights, kernels, transpose, strict=True):
        matrix = weight.reshape(len(weight), -1) if weight.ndim > 1 else weight.reshape(1, -1)
        part = pool(matrix, kernel, reduce)
        parts.append(part.T if flip else part)
    return np.concatenate([np.concatenate(parts, axis=1).ravel(), list(padding)])


def moments(weights: Sequence[np.ndarray], quantiles: Sequence[float], norms: Sequence[float]) -> np.ndarray:
    z = []
    for weight in weights:
        entries = weight.ravel()
        z += [np.mean(entries), np.sqrt(np.mean((entries - np.mean(entries)) ** 2))]
        z += [np.quantile(entries, q, method="linear") for q in quantiles]
        for p in norms:
            z.append(np.max(np.abs(entries)) if p == math.inf else np.mean(np.abs(entries) ** p) ** (1 / p))
    return np.array(z)


def projected(weights: Sequence[np.ndarray], matrix: np.ndarray, gain: float) -> np.ndarray:
    return gain * matrix @ np.concatenate([weight.ravel() for weight in weights])


def count_sketch(signs: np.ndarray, pitches: Sequence[int], k: int) -> np.ndarray:
    """The matrix of a count sketch, entry by entry; the signs of several non-zeros are the bits of one byte."""
    matrix = np.zeros((k, len(signs)))
    width = k // len(pitches)
    for place, byte in enumerate(signs.tolist()):
        for j, pitch in enumerate(pitches):
            sign = byte if len(pitches) == 1 else (1 if byte % 256 // 2**j % 2 else -1)
            matrix[j * width + place % pitch % width, place] = sign
    return matrix


def match_dimensions(
    a: int, b: int, c: int, dxs: tuple[int, int], ns: tuple[int, int], ms: tuple[int, int]
) -> list[tuple[int, int, int, int, int]]:
    found = []
    for dx in range(dxs[0], dxs[1] + 1):
        for n in range(ns[0], ns[1] + 1):
            for m in range(ms[0], ms[1] + 1):
                if (a + dx) % m or b % n:
                    continue
                dw = ((a + dx) // m + c // 2) * (b // n)
                if dx > dw:
                    found.append((dw, dx, dx - dw, m, n))
    return found


# Signals


def clock(step: int, k: int, max_period: float, amplitude: float) -> np.ndarray:
    z = np.empty(k)
    for j in range(k):
        if j % 2 == 0:
            z[j] = amplitude * np.sin(step / max_period ** (j / k))
        else:
            z[j] = amplitude * np.cos(step / max_period ** ((j - 1) / k))
    return z


# The six networks: channels, side of the image, size of z, outputs of fc1, feedback, trainable numbers

NETWORKS = {
    "mnist-plain": ((1, 5, 10), 28, 0, 50, None, 9950),
    "mnist-pooled": ((1, 5, 10), 28, 26, 60, ((25, 31), (2, 25)), 13220),
    "mnist-projected": ((1, 5, 10), 28, 26, 50, "projected", 11250),
    "cifar10-plain": ((3, 20, 50), 32, 0, 700, None, 909280),
    "cifar10-pooled": ((3, 20, 50), 32, 460, 500, ((50, 45), (2, 50)), 887080),
    "cifar10-projected": ((3, 20, 50), 32, 460, 500, "projected", 887080),
}
CONV_OUTPUTS = {"mnist": 160, "cifar10": 1250}


class Network(nn.Module):
    """One of the six networks, with z concatenated to every example; a projected one needs its ``P``."""

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
        if self.feedback == "projected":
            return torch.cat([self.fc1.weight, self.fc2.weight.T], dim=1).flatten() @ self.P
        first, second = self.feedback
        one = F.max_pool2d(self.fc1.weight[None], first)[0]
        two = F.max_pool2d(self.fc2.weight[None], second)[0]
        numbers = torch.cat([one, two.T], dim=1).flatten()
        return torch.cat([numbers, torch.ones(self.k - len(numbers), dtype=numbers.dtype)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.reshape(len(x), -1)
        if self.feedback:
            x = torch.cat([x, self.z().repeat(len(x), 1)], dim=1)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


def interleaved(hidden: int, width: int, classes: int) -> Tensor:
    """For each entry of ``cat(fc1.weight, fc2.weightᵀ)``, its place when both are laid end to end."""
    first = torch.arange(hidden * width).view(hidden, width)
    second = hidden * width + torch.arange(classes * hidden).view(classes, hidden)
    return torch.cat([first, second.T], dim=1).flatten()
