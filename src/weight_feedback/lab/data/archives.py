"""Tar archives, read member by member: nothing is extracted, and every byte is accounted for.

Python's tarfile interprets what nobody needs here, and headers that are made for it keep it busy without end,
exhaust the stack or raise any error. This reader knows names, sizes and kinds of members, and refuses everything
else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from weight_feedback.lab.data.reading import DataError

BLOCK = 512
_CHUNK = 2**16
#: Kinds of members, by the byte in their headers. Extended headers say nothing that matters here.
_FILES, _FOLDERS, _EXTENDED = (b"0", b"\0"), (b"5",), (b"x", b"g")


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes
    offset: int


def read_members(
    stream: io.BufferedIOBase, file: Path, wanted: dict[str, int], limit: int
) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of those members of a tar archive that are wanted, in the archive's order.

    Args:
        stream: the archive, uncompressed.
        file: its name, for messages.
        wanted: normalised name of a member to its size; one byte more is read of one that is larger.
        limit: bytes that the archive may have.

    Raises:
        DataError: the archive is larger than that, cut off or damaged, has bytes after its end or a wanted member
            twice, or a member is a link, a device, or named by an absolute path or one with ``..``.
    """
    archive = _Archive(stream, file, limit)
    seen = set()
    while any(block := archive.take(BLOCK, "a header")):
        header = _parse(block, file, archive.position - BLOCK)
        padding = -header.size % BLOCK
        archive.check_room(header.size + padding)
        if header.name in wanted and header.kind in _FILES:
            if header.name in seen:
                raise DataError(file, header.offset, f"one member {header.name}", "another of that name")
            seen.add(header.name)
            data = archive.take(min(header.size, wanted[header.name] + 1), header.name)
            yield header.name, data
            archive.skip(header.size - len(data) + padding, header.name)
        else:
            archive.skip(header.size + padding, header.name)
    archive.finish()


class _Archive:
    """A stream that knows where it is, and gives all bytes that it is asked for or an error."""

    def __init__(self, stream: io.BufferedIOBase, file: Path, limit: int) -> None:
        self._stream, self._file, self._limit = stream, file, limit
        self.position = 0

    def check_room(self, size: int) -> None:
        """Refuse to go beyond the limit."""
        if self.position + size > self._limit:
            what = f"an archive of at most {self._limit} bytes, unpacked"
            raise DataError(self._file, self._limit, what, "more")

    def take(self, size: int, what: str) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        if len(data) < size:
            raise DataError(self._file, self.position, f"{size} bytes of {what}", f"the end after {len(data)}")
        return data

    def skip(self, size: int, what: str) -> None:
        while size:
            size -= len(self.take(min(size, _CHUNK), what))

    def finish(self) -> None:
        """Read to the very end, where a compressed stream has its checksum; only zeros may be there."""
        while data := self._stream.read(_CHUNK):
            if any(data):
                raise DataError(self._file, self.position, "zeros after the end of the archive", "other bytes")
            self.position += len(data)
            self.check_room(0)


def _parse(block: bytes, file: Path, offset: int) -> _Header:
    """Check and read a header."""
    total = _octal(block[148:156], file, offset + 148, "a checksum")
    # The checksum's own bytes count as spaces.
    actual = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if total != actual:
        raise DataError(file, offset + 148, f"the header's checksum {actual}", str(total))
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":
        name = b"/".join(filter(None, (block[345:500].partition(b"\0")[0], name)))
    path, kind = PurePosixPath(name.decode("utf-8", "backslashreplace")), block[156:157]
    if path.is_absolute() or ".." in path.parts:
        raise DataError(file, offset, "members named by relative paths inside the archive", repr(str(path)))
    if kind not in (*_FILES, *_FOLDERS, *_EXTENDED):
        what = f"a link or special file, {str(path)!r} of kind {kind!r}"
        raise DataError(file, offset + 156, "plain files and folders", what)
    return _Header(str(path), _octal(block[124:136], file, offset + 124, "a size"), kind, offset)


def _octal(field: bytes, file: Path, offset: int, what: str) -> int:
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise DataError(file, offset, f"{what} in octal digits", repr(field))
    return int(digits, 8)
