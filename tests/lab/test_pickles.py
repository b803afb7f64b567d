"""The pickled version of CIFAR-10: read without running anything."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from datafiles import RECORD, cifar, failure
from weight_feedback.lab import formats


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is how CIFAR-10 was pickled."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string

    def save_reduce(self, func, args, state=None, *rest, obj=None) -> None:
        args = tuple(arg.encode() if isinstance(arg, str) else arg for arg in args)
        super().save_reduce(func, args, state, *rest, obj=obj)


def python2_pickle(value: object, core: bytes = b"numpy.core") -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2, fix_imports=False).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.", b"c" + core + b".")


def batch(answers: list[object], order: str = "C", **changes: object) -> dict[bytes, object]:
    pixels = np.frombuffer(cifar([0] * len(answers), 3), np.uint8).reshape(-1, RECORD)[:, 1:]
    content = {"data": np.array(pixels, order=order), "labels": answers, "batch_label": b"training batch 1 of 5"}
    return {name.encode(): value for name, value in (content | changes).items()}


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar_pickle_gives_back_what_was_written(core, order) -> None:
    content = batch([3, 9], order)
    data = python2_pickle(content, core)
    assert pickle.loads(data, encoding="bytes")[b"labels"] == [3, 9]
    images, labels = formats.parse_cifar_pickle(data, "batch", 2)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 32, 32)
    assert np.array_equal(images.flatten(1).numpy(), content[b"data"])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 9]


def test_cifar_folder_of_pickles(tmp_path) -> None:
    folder = tmp_path / formats.CIFAR_PICKLE_FOLDER
    folder.mkdir()
    for i, name in enumerate(formats.CIFAR_BATCHES):
        (folder / name).write_bytes(python2_pickle(batch([i, i])))
    _, train_labels, test_images, test_labels = formats.read_cifar(folder, 2)
    assert train_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert test_labels.tolist() == [5, 5]
    assert np.array_equal(test_images.flatten(1).numpy(), batch([0, 0])[b"data"])


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_a_payload_in_a_pickle_is_refused_and_does_not_run(tmp_path) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps({b"data": Payload(canary), b"labels": []}, protocol=2)
    error = failure(formats.parse_cifar_pickle, data, "batch", 2)
    assert error.expected == "a pickle of numpy arrays and plain containers alone"
    assert "which was not run" in error.found
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()


@pytest.mark.parametrize("data", [b"", b"garbage", b"cos\nsystem\n(S'exit 1'\ntR.", b"c__builtin__\neval\n."])
def test_a_damaged_or_foreign_pickle_is_refused(data) -> None:
    assert failure(formats.parse_cifar_pickle, data, "batch", 2).file == "batch"


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [1]},
        {"labels": [1, 2, 3]},
        {"labels": (1, 2)},
        *({"data": np.zeros(shape, np.uint8)} for shape in ((1, 3072), (3, 3072), (2, 3071), (6144,))),
        {"data": np.zeros((2, 3072), np.int8)},
        {"data": b"x"},
    ],
)
def test_a_pickle_of_something_else_is_refused(changes) -> None:
    for content in (batch([1, 2], **changes), changes, [changes]):
        error = failure(formats.parse_cifar_pickle, python2_pickle(content), "batch", 2)
        assert error.expected == "a dictionary with `data`, uint8 [2, 3072], and `labels`, a list of 2"


@pytest.mark.parametrize("label", [-1, 10, b"1", 1.0, True, None])
def test_a_pickle_with_a_wrong_label_is_refused(label) -> None:
    error = failure(formats.parse_cifar_pickle, python2_pickle(batch([1, label])), "batch", 2)
    assert error.expected == "labels from 0 to 9"
    assert error.found == "another value as label of image 1"
