"""Tiny data files, and what goes wrong with them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from weight_feedback.lab.data.reading import DataError

TRAIN, TEST = 6, 4
#: Bytes of one record of CIFAR-10's binary version.
RECORD = 3073


def idx_files(seed: int = 0) -> dict[str, bytes]:
    random = np.random.default_rng(seed)
    files = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        files[f"{prefix}-images-idx3-ubyte"] = struct.pack(">4I", 2051, count, 28, 28) + images
        labels = random.integers(0, 10, count, dtype=np.uint8).tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">2I", 2049, count) + labels
    return files


def write(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


def cifar(labels: list[int], seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), RECORD - 1), dtype=np.uint8)
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))


def failure(call, *args) -> DataError:
    with pytest.raises(DataError) as caught:
        call(*args)
    error = caught.value
    where = "" if error.offset is None else f"at byte {error.offset}: "
    assert str(error) == f"{error.file}: {where}expected {error.expected}, found {error.found}; {error.advice}"
    return error
