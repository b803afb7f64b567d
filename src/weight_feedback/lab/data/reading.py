"""Files from outside are opened and read with bounds."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from pathlib import Path

from weight_feedback.untrusted import LONGEST, printable

#: What reading a file, plain or compressed, may raise; xz asks for as much memory as its header says.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError)
_REPLACE = "replace it with a good copy (`weight-feedback data fetch` downloads one)"


class DataError(ValueError):
    """A data file is missing, damaged, or not what its name says.

    Attributes:
        file: the file or folder; a member of an archive is written ``ARCHIVE:MEMBER``.
        offset: the byte of the (uncompressed) file where it went wrong, or None where no single byte did.
        expected: what should have been there.
        found: what was there.
        advice: what to do.
    """

    def __init__(
        self, file: str | Path, offset: int | None, expected: str, found: str, advice: str = _REPLACE
    ) -> None:
        # All parts go to args, which is what lets the error cross process boundaries.
        super().__init__(str(file), offset, expected, found, advice)
        self.file = str(file)
        self.offset = offset
        self.expected = expected
        self.found = found
        self.advice = advice

    def __str__(self) -> str:
        where = "" if self.offset is None else f"at byte {self.offset}: "
        return printable(f"{self.file}: {where}expected {self.expected}, found {self.found}; {self.advice}")


def open_plain(path: Path) -> io.BufferedReader:
    """Open a file, but no pipe or device, which might never end.

    Args:
        path: the file.

    Raises:
        OSError: it can't be opened, or isn't a plain file.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"expected a plain file, found a folder, a pipe or a device: {printable(str(path))}")
    return path.open("rb")


def open_data(path: Path) -> io.BufferedIOBase:
    """Open a file for reading, decompressing it if its first bytes are those of gzip or xz.

    The bytes decide, not the name: HTTP clients and browsers unpack ``.gz`` files without renaming them.

    Args:
        path: the file.

    Returns:
        A binary stream of the uncompressed contents.

    Raises:
        OSError: the file can't be opened, or isn't a plain file.
    """
    with open_plain(path) as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    return lzma.open(path) if start == b"\xfd7zXZ\0" else path.open("rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file, plain or compressed, but never more than one byte beyond a limit.

    Args:
        path: the file.
        limit: how many uncompressed bytes it should have. One more tells a parser that there is too much.

    Returns:
        At most ``limit + 1`` bytes.

    Raises:
        DataError: the file can't be read, its compressed stream is damaged or cut off, or it is much larger than
            the limit.
    """
    check_size(path, limit)
    try:
        with open_data(path) as stream:
            return stream.read(limit + 1)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def check_size(path: Path, limit: int) -> None:
    """Refuse a file that is larger than any honest packing of its contents: nothing of it is read.

    Args:
        path: the file.
        limit: how many uncompressed bytes it should have.

    Raises:
        DataError: it can't be read, or is too large.
    """
    # Neither gzip nor xz adds as much as a 64th, nor does a folder of an archive.
    most = limit + limit // 64 + 2**16
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size > most:
        raise DataError(path, None, f"at most {most} bytes, packed or not", f"{size}")


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error to raise for a file that can't be read.

    Args:
        path: the file.
        error: what reading it raised.
    """
    return DataError(path, None, "a readable, undamaged file", f"{type(error).__name__}: {error}"[:LONGEST])
