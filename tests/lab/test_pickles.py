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

from helpers import limits
from helpers.data_files import RECORD, cifar, failure
from weight_feedback.lab.data import parsers, reading


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
    images, labels = parsers.parse_cifar_pickle(data, "batch", 2)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 32, 32)
    assert np.array_equal(images.flatten(1).numpy(), content[b"data"])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 9]


def test_cifar_folder_of_pickles(tmp_path) -> None:
    folder = tmp_path / parsers.CIFAR_PICKLE_FOLDER
    folder.mkdir()
    for i, name in enumerate(parsers.CIFAR_BATCHES):
        (folder / name).write_bytes(python2_pickle(batch([i, i])))
    _, train_labels, test_images, test_labels = parsers.read_cifar(folder, 2)
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
    error = failure(parsers.parse_cifar_pickle, data, "batch", 2)
    assert error.expected == "a pickle of numpy arrays and plain containers alone"
    assert "which was not run" in error.found
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()


@pytest.mark.parametrize("data", [b"", b"garbage", b"cos\nsystem\n(S'exit 1'\ntR.", b"c__builtin__\neval\n."])
def test_a_damaged_or_foreign_pickle_is_refused(data) -> None:
    assert failure(parsers.parse_cifar_pickle, data, "batch", 2).file == "batch"


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
        error = failure(parsers.parse_cifar_pickle, python2_pickle(content), "batch", 2)
        assert error.expected == "a dictionary with `data`, uint8 [2, 3072], and `labels`, a list of 2"


@pytest.mark.parametrize("label", [-1, 10, b"1", 1.0, True, None])
def test_a_pickle_with_a_wrong_label_is_refused(label) -> None:
    error = failure(parsers.parse_cifar_pickle, python2_pickle(batch([1, label])), "batch", 2)
    assert error.expected == "labels from 0 to 9"
    assert error.found == "another value as label of image 1"


# What is made to do harm


def refused(*operations: bytes) -> reading.DataError:
    with limits.seconds(60), limits.memory(32 * 2**20):
        return failure(parsers.parse_cifar_pickle, b"\x80\x02" + b"".join(operations) + b".", "batch", 2)


def long_int(value: int) -> bytes:
    data = value.to_bytes(20, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


NESTED = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))  # a pair of twice the pair before it
HARMFUL = {
    "a memo of 32 GiB": b"]r\xff\xff\xff\x7f",
    "a key of 2**60 parts": b"}" + NESTED + b"Ns",
    "keys of one hash": b"}(" + b"".join(long_int(i * (2**61 - 1)) + b"N" for i in range(30_000)) + b"u",
    "bytes of 2 GiB": b"T\xff\xff\xff\x7f",
    "bytes of less than none": b"T\xff\xff\xff\xff",
    "a buffer of 1 EiB": b"\x96" + struct.pack("<Q", 2**60),
    "a number of many digits": b"L" + b"9" * 10**6 + b"L\n",
    "lists in lists": b"]" * 10**6 + b"a" * (10**6 - 1),
    "tuples in tuples": b")" + b"\x85" * 10**6,
    "marks": b"(" * 10**6,
    "calls without end": b"cnumpy\ndtype\n" + b")R)R" * 10**5,
    "a list in itself": b"]q\x00h\x00a",
    "a frame of 1 EiB": b"\x95" + struct.pack("<Q", 2**60),
    "a set": b"\x8f(" + NESTED + b"\x90",
    "copies": b"]" + b"2" * 10**6,
}


@pytest.mark.parametrize("operations", HARMFUL.values(), ids=HARMFUL)
def test_time_and_memory_are_bounded(operations) -> None:
    assert refused(operations).file == "batch"


FOREIGN = {
    "persistent": b"Pid\n",
    "extension": b"\x82\x01",
    "instance": b"(icollections\nOrderedDict\n",
    "object": b"(cnumpy\ndtype\no",
    "new": b"cnumpy\ndtype\n)\x81",
    "name by stack": b"X\x05\x00\x00\x00numpyX\x05\x00\x00\x00dtype\x93",
    "unicode": b"Vx\n",
    "text as number": b"I1\n",
}


@pytest.mark.parametrize("operation", FOREIGN.values(), ids=FOREIGN)
def test_an_operation_that_no_batch_needs_is_refused(operation) -> None:
    error = refused(operation)
    assert "ValueError: the operation " in error.found
    assert error.offset >= 2


@pytest.mark.parametrize(
    ("operations", "offset", "found"),
    [
        (b"a", 2, "an operation without its value"),
        (b"N(\x85", 4, "an operation without its value"),
        (b"NNa", 4, "an operation on something else than a list"),
        (b"N(Ne", 5, "an operation on something else than a list"),
        (b"NNNs", 5, "an operation on something else than a dict"),
        (b"}K\x01Ns", 6, "a dictionary whose keys aren't bytes or text"),
        (b"}NNs", 5, "a dictionary whose keys aren't bytes or text"),
        (b"}(U\x01au", 7, "a dictionary whose keys aren't bytes or text"),
        (b"t", 2, "IndexError"),
        (b"q\x00", 2, "IndexError"),
        (b"h\x07", 2, "KeyError: 7"),
        (b"N)R", 4, "a call of something that isn't named"),
        (b"cnumpy\ndtype\nNR", 16, "a call of something that isn't named"),
        (b"cnumpy\ndtype\n)R)R", 18, "a call of something that isn't named"),
        (b"NNb", 4, "an operation on something else than a Named"),
        (b"NN", 4, "more than one value"),
        (b"(N", 4, "more than one value"),
        (b"(", 3, "an operation without its value"),
        (b"\xff", 2, "unknown"),
        (b"N" * 1100, 1017, "more than 1016 operations"),
        (b"cos\nsystem\n", 2, "the pickle names os.system, which was not run"),
        (b"cnumpy\nload\n", 2, "the pickle names numpy.load, which was not run"),
    ],
)
def test_where_a_pickle_goes_wrong_is_said(operations, offset, found) -> None:
    error = refused(operations)
    assert (error.offset, error.expected) == (offset, "a pickle of numpy arrays and plain containers alone")
    assert found in error.found


def test_bytes_after_a_pickle_are_refused() -> None:
    data = python2_pickle(batch([1, 2]))
    error = failure(parsers.parse_cifar_pickle, data + b"x", "batch", 2)
    assert (error.offset, error.expected) == (len(data), "the end of the file after the pickle")


def test_every_truncation_of_a_pickle_is_noticed() -> None:
    data = python2_pickle(batch([1, 2]))
    for length in [*range(400), *range(400, len(data), 97), *range(len(data) - 50, len(data))]:
        failure(parsers.parse_cifar_pickle, data[:length], "batch", 2)
