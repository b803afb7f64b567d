"""Named random streams: the same seed and names give the same numbers on every device, in every order.

Every random part of the project (initial weights, projection matrices, noise, data order) is drawn from a
stream of its own, so that adding or removing one never shifts another.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator that depends on ``seed`` and ``names`` alone.

    Draw on the CPU and move the result: then every device sees the same numbers.

    Args:
        seed: the seed of the whole experiment.
        *names: what the numbers are for, from general to particular, such as ``"init", "fc1.weight"``.

    Returns:
        A new `torch.Generator`, seeded with 64 bits of the SHA-256 digest of seed and names.
    """
    # repr() quotes strings and escapes quotes, so no two different lists of names share a text.
    text = repr((int(seed), *(name if isinstance(name, str) else int(name) for name in names)))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))
