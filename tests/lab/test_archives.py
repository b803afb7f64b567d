"""Archives that were made to do harm: whatever headers say, reading ends soon, in batches or an error."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import limits
from helpers.data_files import RECORD, cifar, failure
from weight_feedback.lab.data import parsers
from weight_feedback.lab.data.archives import BLOCK, read_members
from weight_feedback.lab.data.reading import DataError

COUNT = 1
FOLDER = parsers.CIFAR_BINARY_FOLDER
NAMES = [f"{FOLDER}/{name}.bin" for name in parsers.CIFAR_BATCHES]
LIMIT = 6 * COUNT * RECORD + 2**20
END = bytes(2 * BLOCK)


def header(name: bytes, size: int | bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """Return a header as a hostile hand would write it: with a right checksum, and anything else."""
    block = bytearray(BLOCK)
    octal = size if isinstance(size, bytes) else b"%o" % size
    parts = (name, b"644", b"0", b"0", octal, b"0", 8 * b" ", kind, b"/etc/passwd", magic)
    struct.pack_into("100s8s8s8s12s12s8sc100s8s", block, 0, *parts)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str | bytes, data: bytes, kind: bytes = b"0") -> bytes:
    name = name if isinstance(name, bytes) else name.encode()
    return header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


BATCHES = b"".join(member(name, cifar([i], i)) for i, name in enumerate(NAMES))


def read(path: Path, archive: bytes) -> list[int]:
    """Return the labels; within a time and a memory that no archive may exceed."""
    path.write_bytes(archive)
    with limits.seconds(60), limits.memory(64 * 2**20):
        return [int(labels) for _, labels in parsers.read_cifar_archive(path, COUNT)]


@pytest.fixture
def refused(tmp_path) -> Callable[[bytes], DataError]:
    return lambda archive: failure(read, tmp_path / "archive.tar", archive)


LABELS = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "before",
    [
        b"",
        # tarfile searches this with a regular expression whose time is quadratic.
        member("x", b"9" * 300_000, b"x"),
        # tarfile calls itself for each of these.
        member("x", b"", b"x") * 1500,
        # tarfile takes these for maps of sparse files, and raises ValueError or reads for ever.
        member("x", b"24 GNU.sparse.map=a,b,c\n", b"x"),
        member("x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"g") + member("y", b"1" * BLOCK),
        member("y" * 100, b""),
        member("y", bytes(2**20 - 20 * BLOCK)),
        member(f"./{FOLDER}/", b"", b"5"),
        member("\udcff".encode("utf-8", "surrogateescape"), b"a name that isn't UTF-8"),
    ],
    ids=["nothing", "digits", "nested", "map", "sparse", "long-name", "large", "folder", "bytes"],
)
def test_what_does_not_matter_is_skipped(tmp_path, before) -> None:
    assert read(tmp_path / "archive.tar", before + BATCHES + END) == LABELS


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_each_common_format_are_read(tmp_path, format_) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        for i, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = RECORD, 1.5, "ö" * 20  # pax has headers for these two
            archive.addfile(info, io.BytesIO(cifar([i], i)))
    assert read(tmp_path / "archive.tar", buffer.getvalue()) == LABELS


SPECIAL = {"link": b"1", "symlink": b"2", "character": b"3", "block": b"4", "pipe": b"6", "contiguous": b"7",
           "long-name": b"L", "long-link": b"K", "sparse": b"S", "folder-list": b"D", "none": b"\xff"}  # fmt: skip


@pytest.mark.parametrize("kind", SPECIAL.values(), ids=SPECIAL)
def test_a_special_member_is_refused(refused, kind) -> None:
    error = refused(BATCHES + member("\x1b[2Jx", b"", kind) + END)
    assert (error.offset, error.expected) == (len(BATCHES) + 156, "plain files and folders")
    assert error.found == f"a link or special file, '\\x1b[2Jx' of kind {kind!r}"


@pytest.mark.parametrize("name", ["../x", "/x", f"{FOLDER}/../../x", "..", "//x"])
def test_a_name_that_leads_elsewhere_is_refused(refused, name) -> None:
    error = refused(member(name, b"") + BATCHES + END)
    assert (error.offset, error.expected) == (0, "members named by relative paths inside the archive")


def test_a_name_may_be_in_two_parts(tmp_path, refused) -> None:
    def split(prefix: str, name: str) -> bytes:
        block = bytearray(header(name.encode(), RECORD))
        block[345 : 345 + len(prefix)] = prefix.encode()
        block[148:156] = 8 * b" "
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + cifar([0], 0) + bytes(-RECORD % BLOCK)

    rest = b"".join(member(name, cifar([i], i)) for i, name in enumerate(NAMES) if i)
    assert read(tmp_path / "archive.tar", split(FOLDER, "data_batch_1.bin") + rest + END) == LABELS
    assert "relative paths" in refused(split("..", "data_batch_1.bin") + BATCHES + END).expected


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + bytes(10) + b"\x01", b"-1", b"9", b"1 2", b"", b"0x1"])
def test_a_size_that_is_no_octal_number_is_refused(refused, size) -> None:
    error = refused(BATCHES + header(b"x", size) + END)
    assert (error.offset, error.expected) == (len(BATCHES) + 124, "a size in octal digits")


def test_a_member_that_is_said_to_be_huge_is_refused_before_it_is_read(refused) -> None:
    error = refused(header(b"x", 8**11 - 1) + BATCHES + END)
    assert (error.offset, error.found) == (LIMIT, "more")
    assert error.expected == f"an archive of at most {LIMIT} bytes, unpacked"


def test_a_batch_that_is_too_large_is_not_kept_in_memory(tmp_path) -> None:
    class Counted(io.BytesIO):
        longest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            Counted.longest = max(Counted.longest, size or 0)
            return super().read(size)

    archive = member("a", bytes(2**24)) + END
    read = list(read_members(Counted(archive), tmp_path, {"a": 1000}, len(archive)))
    assert [(name, len(data)) for name, data in read] == [("a", 1001)]
    assert Counted.longest <= 2**16


def test_a_batch_that_is_there_twice_is_refused(refused) -> None:
    again = member(f"./{NAMES[2]}", cifar([9]))
    error = refused(BATCHES + again + END)
    assert (error.offset, error.expected) == (len(BATCHES), f"one member {NAMES[2]}")


def test_a_header_with_a_wrong_checksum_is_refused(refused) -> None:
    damaged = bytearray(BATCHES)
    damaged[3] ^= 1
    error = refused(bytes(damaged) + END)
    assert error.offset == 148
    assert error.expected.startswith("the header's checksum ")


def test_bytes_after_the_end_are_refused(refused) -> None:
    error = refused(BATCHES + END + bytes(20 * BLOCK) + b"x")
    assert error.expected == "zeros after the end of the archive"
    assert len(BATCHES) <= error.offset <= len(BATCHES) + 22 * BLOCK


def test_zeros_after_the_end_are_bounded_too(refused) -> None:
    assert refused(BATCHES + END + bytes(2**20)).found == "more"


def test_every_kind_of_truncation_is_noticed(refused) -> None:
    whole = BATCHES + END
    cuts = {max(border + step, 0) for border in range(0, len(BATCHES) + 1, BLOCK) for step in (-1, 0, 1)}
    for length in sorted(cuts):
        error = refused(whole[:length])
        assert error.offset is not None
        assert error.offset <= length
