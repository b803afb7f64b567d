"""The parsers, on files of a few bytes made by hand."""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.data_files import RECORD, cifar, failure
from weight_feedback.lab.data import parsers, reading
from weight_feedback.lab.data.reading import DataError


def idx(values: np.ndarray, magic: int | None = None) -> bytes:
    magic = 0x0800 + values.ndim if magic is None else magic
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()


def test_an_error_survives_the_way_to_another_process() -> None:
    error = DataError(Path("a"), 4, "x", "y", "do z")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.file, copy.offset, copy.expected, copy.found, copy.advice) == ("a", 4, "x", "y", "do z")
    assert str(copy) == str(error) == "a: at byte 4: expected x, found y; do z"


# IDX


@given(
    st.one_of(st.tuples(st.integers(1, 5)), st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))),
    st.randoms(use_true_random=False),
)
def test_idx_gives_back_what_was_written(shape, random) -> None:
    values = np.array([random.randrange(256) for _ in range(int(np.prod(shape)))], np.uint8).reshape(shape)
    parsed = parsers.parse_idx(idx(values), "file", shape)
    assert parsed.dtype == torch.uint8
    assert np.array_equal(parsed.numpy(), values)


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("data", "offset", "expected", "found"),
    [
        (idx(IMAGES, magic=0x0801), 0, "magic number 2051", "2049"),
        (idx(IMAGES[:1]), 4, "number of items 2", "1"),
        (idx(IMAGES.reshape(2, 4, 3)), 8, "number of rows 3", "4"),
        (idx(IMAGES.reshape(2, 3, 4)[:, :, :2]), 12, "number of columns 4", "2"),
        (idx(IMAGES)[:-1], 39, "40 bytes", "the end of the file after 39"),
        (idx(IMAGES)[:16], 16, "40 bytes", "the end of the file after 16"),
        (idx(IMAGES) + b"x", 40, "the end of the file after 40 bytes", "more bytes"),
        (idx(IMAGES)[:15], 15, "an IDX header of 16 bytes", "the end of the file"),
        (b"", 0, "an IDX header of 16 bytes", "the end of the file"),
    ],
)
def test_idx_says_what_is_wrong_and_where(data, offset, expected, found) -> None:
    error = failure(parsers.parse_idx, data, "images", IMAGES.shape)
    assert (error.file, error.offset, error.expected, error.found) == ("images", offset, expected, found)
    assert "weight-feedback data fetch" in error.advice


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_idx_files_are_read_whether_compressed_or_not(tmp_path, pack) -> None:
    (tmp_path / "images").write_bytes(pack(idx(IMAGES)))
    (tmp_path / "labels").write_bytes(pack(idx(np.array([9, 0]))))
    images, labels = parsers.read_idx(tmp_path / "images", tmp_path / "labels", 2, (3, 4))
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), IMAGES[:, None])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [9, 0]


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ([9, 10], (9, "labels from 0 to 9", "10 as label of image 1")),
        ([9, 1, 2], (4, "number of items 2", "3")),
    ],
)
def test_idx_labels_must_be_in_range_and_as_many_as_images(tmp_path, labels, wrong) -> None:
    (tmp_path / "images").write_bytes(idx(IMAGES))
    (tmp_path / "labels").write_bytes(idx(np.array(labels)))
    error = failure(parsers.read_idx, tmp_path / "images", tmp_path / "labels", 2, (3, 4))
    assert error.file == str(tmp_path / "labels")
    assert (error.offset, error.expected, error.found) == wrong


def damaged(data: bytes) -> bytes:
    return data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(idx(IMAGES))[:-4], "EOFError"),
        (damaged(gzip.compress(idx(IMAGES))), "CRC check failed"),
        (gzip.compress(idx(IMAGES)) + b"garbage", "Not a gzipped file"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 20, "error: "),
        (lzma.compress(idx(IMAGES))[:-4], "EOFError"),
        (lzma.compress(idx(IMAGES))[:20] + bytes(40), "LZMAError"),
    ],
    # The bytes of gzip hold the time, which is no name for a test.
    ids=["gzip-cut", "gzip-flipped", "gzip-trailing", "gzip-garbage", "xz-cut", "xz-garbage"],
)
def test_damaged_compression_is_refused(tmp_path, data, found) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(data)
    error = failure(reading.read_bounded, path, 40)
    assert (error.file, error.offset) == (str(path), None)
    assert error.expected == "a readable, undamaged file"
    assert found in error.found


def test_a_file_that_cannot_be_opened_is_a_data_error(tmp_path) -> None:
    error = failure(reading.read_bounded, tmp_path, 40)
    assert error.file == str(tmp_path)


# CIFAR-10


def test_cifar_records_are_a_label_and_three_planes() -> None:
    record = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1023 + bytes([9]) + bytes([3]) * 1024
    images, labels = parsers.parse_cifar(bytes(RECORD) + record, "batch", 2)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 32, 32)
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 7]
    assert images[1].float().mean((1, 2)).tolist() == [1.0, pytest.approx(2 + 7 / 1024), 3.0]
    assert images[1, 1, 31, 31] == 9


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 9))
def test_cifar_gives_back_what_was_written(labels, seed) -> None:
    data = cifar(labels, seed)
    images, parsed = parsers.parse_cifar(data, "batch", len(labels))
    rows = zip(parsed.tolist(), images.flatten(1).numpy(), strict=True)
    assert b"".join(bytes([label]) + row.tobytes() for label, row in rows) == data


@pytest.mark.parametrize(
    ("data", "offset", "expected", "found"),
    [
        (cifar([1, 2])[:-1], 2 * RECORD - 1, "6146 bytes", "the end of the file after 6145"),
        (cifar([1, 2]) + b"x", 2 * RECORD, "the end of the file after 6146 bytes", "more bytes"),
        (cifar([1, 200]), RECORD, "labels from 0 to 9", "200 as label of image 1"),
    ],
)
def test_cifar_says_what_is_wrong_and_where(data, offset, expected, found) -> None:
    error = failure(parsers.parse_cifar, data, "batch", 2)
    assert (error.file, error.offset, error.expected, error.found) == ("batch", offset, expected, found)


def write_batches(folder: Path, count: int = 2) -> dict[str, bytes]:
    """Write five training batches and a test batch, whose labels tell them apart."""
    folder.mkdir()
    batches = {f"{name}.bin": cifar([i] * count, i) for i, name in enumerate(parsers.CIFAR_BATCHES)}
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    return batches


def write_archive(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def as_members(batches: dict[str, bytes]) -> list[tuple[str, bytes]]:
    folder = parsers.CIFAR_BINARY_FOLDER
    return [(f"{folder}/batches.meta.txt", b"plane"), *((f"{folder}/{n}", d) for n, d in batches.items())]


def check_batches(read: tuple[torch.Tensor, ...], batches: dict[str, bytes]) -> None:
    train_images, train_labels, test_images, test_labels = read
    assert train_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert test_labels.tolist() == [5, 5]
    assert train_images[4].flatten().numpy().tobytes() == batches["data_batch_3.bin"][1:RECORD]
    assert test_images[1].flatten().numpy().tobytes() == batches["test_batch.bin"][RECORD + 1 :]


def test_cifar_folder_of_binary_batches(tmp_path) -> None:
    batches = write_batches(tmp_path / "bin")
    check_batches(parsers.read_cifar(tmp_path / "bin", 2), batches)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_cifar_archive_in_any_order_and_compression(tmp_path, mode) -> None:
    batches = write_batches(tmp_path / "bin")
    members = [("./" + name, data) for name, data in reversed(as_members(batches))]
    folder = tarfile.TarInfo(parsers.CIFAR_BINARY_FOLDER)
    folder.type = tarfile.DIRTYPE
    path = write_archive(tmp_path / "archive", [(folder, b""), *members], mode)
    check_batches(parsers.read_cifar(path, 2), batches)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["archive", "bin"]


def test_cifar_archive_without_a_batch_is_refused(tmp_path) -> None:
    members = as_members(write_batches(tmp_path / "bin"))
    error = failure(parsers.read_cifar, write_archive(tmp_path / "archive", members[:-1]), 2)
    assert error.expected == "the member cifar-10-batches-bin/test_batch.bin"


@pytest.mark.parametrize(
    ("change", "offset"), [(lambda data: data[:-1], 2 * RECORD - 1), (lambda data: data + b"x", 2 * RECORD)]
)
def test_cifar_archive_with_a_batch_of_wrong_length_is_refused(tmp_path, change, offset) -> None:
    batches = write_batches(tmp_path / "bin")
    batches["data_batch_2.bin"] = change(batches["data_batch_2.bin"])
    path = write_archive(tmp_path / "archive", as_members(batches))
    error = failure(parsers.read_cifar, path, 2)
    assert error.file == f"{path}:cifar-10-batches-bin/data_batch_2.bin"
    assert error.offset == offset


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-4], damaged, lambda data: data[::-1]]
)
def test_damaged_cifar_archive_is_refused(tmp_path, damage) -> None:
    path = write_archive(tmp_path / "archive", as_members(write_batches(tmp_path / "bin")))
    path.write_bytes(damage(path.read_bytes()))
    assert failure(parsers.read_cifar, path, 2).file == str(path)


def test_cifar_archive_with_a_bomb_is_not_unpacked(tmp_path) -> None:
    members = as_members(write_batches(tmp_path / "bin"))
    path = write_archive(tmp_path / "archive", [("big", bytes(2**22)), *members])
    error = failure(parsers.read_cifar, path, 2)
    limit = 6 * 2 * RECORD + 2**20
    assert (error.offset, error.found) == (limit, "more")
    assert error.expected == f"an archive of at most {limit} bytes, unpacked"
    # A bomb after the batches, where only the checksum is still wanted.
    path.write_bytes(gzip.compress(gzip.decompress(write_archive(path, members).read_bytes()) + bytes(2**22)))
    assert failure(parsers.read_cifar, path, 2).found == "more"
