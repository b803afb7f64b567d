"""Naive versions of what the package computes: slow, plain, in float64, and sharing no code with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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


# The six networks


def interleaved(hidden: int, width: int, classes: int) -> Tensor:
    """For each entry of ``cat(fc1.weight, fc2.weightᵀ)``, its place when both are laid end to end."""
    first = torch.arange(hidden * width).view(hidden, width)
    second = hidden * width + torch.arange(classes * hidden).view(classes, hidden)
    return torch.cat([first, second.T], dim=1).flatten()
