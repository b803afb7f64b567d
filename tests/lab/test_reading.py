"""Files from outside are opened and read with bounds; texts and values from outside are shown without harm."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import limits
from helpers.data_files import failure
from weight_feedback.lab.data import catalogue, reading
from weight_feedback.lab.data.parsers import read_cifar_archive
from weight_feedback.lab.data.reading import DataError
from weight_feedback.untrusted import LONGEST, printable, shown

MEBIBYTE = 2**20


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("make", [fifo, lambda _: Path("/dev/zero"), lambda path: path.parent])
def test_a_pipe_a_device_or_a_folder_is_no_file(tmp_path, make) -> None:
    path = make(tmp_path / "file")
    with limits.seconds(30):
        error = failure(reading.read_bounded, path, 40)
    assert error.file == str(path)
    assert "expected a plain file, found a folder, a pipe or a device" in error.found


@pytest.mark.parametrize("read", [reading.read_bounded, read_cifar_archive])
def test_a_file_that_is_far_too_large_is_not_even_read(tmp_path, read) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)
    error = failure(read, path, 1000)
    assert error.found == str(2**40)
    assert error.expected.startswith("at most ")


def test_a_file_may_be_a_64th_and_64_kib_larger_than_its_contents(tmp_path) -> None:
    path, most = tmp_path / "packed", 6400 + 100 + 65_536
    with path.open("wb") as file:
        file.truncate(most)
        reading.check_size(path, 6400)
        file.truncate(most + 1)
        assert failure(reading.check_size, path, 6400).found == str(most + 1)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_bomb_is_not_unpacked(tmp_path, pack) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(pack(bytes(50 * MEBIBYTE)))
    with limits.memory(16 * MEBIBYTE):
        assert reading.read_bounded(path, 1000) == bytes(1001)


def test_what_packing_adds_to_bytes_at_random_is_allowed(tmp_path) -> None:
    content = os.urandom(MEBIBYTE)
    for pack in (gzip.compress, lzma.compress):
        path = tmp_path / "packed"
        path.write_bytes(pack(content))
        assert path.stat().st_size > len(content)
        assert reading.read_bounded(path, len(content)) == content


def xz_that_asks_for_memory() -> bytes:
    """Return an xz stream whose header asks for a dictionary of 4 GiB."""
    data = bytearray(lzma.compress(b"abc"))
    header = data[12 : 12 + 4 * (data[12] + 1)]
    header[header.index(b"\x21\x01") + 2] = 40
    header[-4:] = struct.pack("<I", zlib.crc32(header[:-4]))
    data[12 : 12 + len(header)] = header
    return bytes(data)


def test_xz_asks_for_more_memory_than_there_is(tmp_path) -> None:
    path = tmp_path / "greedy.xz"
    path.write_bytes(xz_that_asks_for_memory())
    with limits.memory(256 * MEBIBYTE):
        error = failure(reading.read_bounded, path, 1000)
    assert "MemoryError" in error.found


@pytest.mark.parametrize("name", ["\0", "x" * 300, "~nobody-of-this-name/x", "loop/x"])
def test_a_data_folder_that_cannot_be_is_a_data_error(tmp_path, name) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError):
        catalogue.find("mnist", Path(name) if name.startswith("~") else tmp_path / name)


def test_messages_cannot_command_a_terminal() -> None:
    error = DataError("a\x1b]0;title\x07\u202e\nb", None, "x", "\x1b[2J", "z")
    assert str(error) == r"a\x1b]0;title\x07\u202e\nb: expected x, found \x1b[2J; z"


@given(st.text(st.characters()))
def test_printable_text_is_one_line_that_can_be_encoded(text) -> None:
    line = printable(text)
    line.encode()
    assert line.isprintable()
    assert line == text or not text.isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(VALUES)
def test_any_value_is_shown_short(value) -> None:
    assert len(shown(value)) <= LONGEST


def test_values_that_are_large_are_shown_short() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep, deep]
    assert shown(deep).startswith("[[")
    assert shown(10**5000) == "a whole number of 16610 bits"
    assert shown(2**256) == "a whole number of 257 bits"
    assert shown(2**256 - 1) == str(2**256 - 1)
    assert shown(-(10**30)) == "-1" + 30 * "0"
    assert shown("x" * 10**6).count("x") < LONGEST


def test_a_value_that_just_fits_is_shown_whole() -> None:
    for length in range(LONGEST - 2, LONGEST + 3):
        value = ["a" * 50, "b" * (length - 58)]
        assert len(repr(value)) == length
        assert (shown(value) == repr(value)) == (length <= LONGEST)
