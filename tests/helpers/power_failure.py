"""A disk whose power fails: what writing through it can leave, with everything lost that wasn't synced."""

from __future__ import annotations

import io
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class File:
    """Bytes: as programs see them, and as they are sure to be after the power fails."""

    seen: bytes = b""
    synced: bytes = b""

    def after_a_power_cut(self) -> set[bytes]:
        """Return what can be read then: of what wasn't synced, all, none, a part, or its length alone."""
        lost = len(self.seen) - len(self.synced)
        half = self.seen[: len(self.synced) + lost // 2]
        return {self.synced, half, half + bytes(len(self.seen) - len(half)), self.seen}


@dataclass
class Disk:
    """Records what is done to files below a folder, and tells what can be left of it.

    The order in which a disk makes names durable isn't assumed: of the changes to a folder since it was synced, any
    may be lost and any may have happened.
    """

    root: Path
    names: dict[Path, File | None] = field(default_factory=dict)
    """What programs see; None is a folder."""
    synced: dict[Path, File | None] = field(default_factory=dict)
    """What is sure to be there."""
    changes: list[tuple[Path, File | str | None]] = field(default_factory=list)
    """Since: which name became what; a string: it was removed."""
    moments: list[tuple[str, list[dict[Path, bytes]]]] = field(default_factory=list)
    """After each operation: its name, and all that the disk could hold if the power failed now."""

    def __post_init__(self) -> None:
        for path in self.root.rglob("*"):
            content = b"" if path.is_dir() else path.read_bytes()
            self.names[path] = None if path.is_dir() else File(content, content)
        self.synced = dict(self.names)

    def change(self, operation: str, path: Path, what: File | str | None) -> None:
        self.changes.append((path, what))
        _apply(self.names, path, what)
        self.note(operation)

    def sync(self, path: Path) -> None:
        """Make the names in a folder durable, but neither the folder's own name nor any content."""
        for name, what in self.changes:
            if name.parent == path:
                _apply(self.synced, name, what)
        self.changes = [(name, what) for name, what in self.changes if name.parent != path]
        self.note("sync folder")

    def note(self, operation: str) -> None:
        self.moments.append((operation, list(self._states())))

    def _states(self) -> Iterator[dict[Path, bytes]]:
        for happened in itertools.product((False, True), repeat=len(self.changes)):
            names = dict(self.synced)
            for change in itertools.compress(self.changes, happened):
                _apply(names, *change)
            there = {path: file for path, file in names.items() if file and self._reachable(path, names)}
            contents = [sorted(file.after_a_power_cut()) for file in there.values()]
            for choice in itertools.product(*contents):
                yield dict(zip(there, choice, strict=True))

    def _reachable(self, path: Path, names: dict[Path, File | None]) -> bool:
        return all(folder in names for folder in path.parents if self.root in folder.parents)


def _apply(names: dict[Path, File | None], path: Path, what: File | str | None) -> None:
    if isinstance(what, str):
        names.pop(path, None)
    else:
        names[path] = what


class _Recorded(io.FileIO):
    """An open file that tells the disk of what reaches the operating system."""

    def __init__(self, disk: Disk, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.disk, self.file = disk, File()
        disk.change("create", path, self.file)

    def write(self, content: Any, /) -> int:
        count = super().write(content)
        self.file.seen += bytes(content[:count])
        self.disk.note("write")
        return count


class Watch:
    """Lets files be written anew, synced, renamed and removed through a disk, until the patches are undone."""

    def __init__(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = disk
        self.files: dict[int, File] = {}
        self.folders: dict[int, Path] = {}
        patched = ("open", "fsync", "replace", "rename", "unlink", "mkdir")
        self.real = {name: getattr(os, name) for name in patched} | {"io": io.open}
        monkeypatch.setattr(io, "open", self.open_file)
        for name in patched:
            monkeypatch.setattr(os, name, getattr(self, name))

    def open_file(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode not in ("xb", "wb"):
            return self.real["io"](file, mode, *args, **kwargs)
        raw = _Recorded(self.disk, Path(file), mode[0])
        self.files[raw.fileno()] = raw.file
        return io.BufferedWriter(raw)

    def open(self, path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor: int = self.real["open"](path, *args, **kwargs)
        self.folders[descriptor] = Path(path)
        return descriptor

    def fsync(self, descriptor: int) -> None:
        self.real["fsync"](descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.disk.sync(self.folders[descriptor])
        else:
            self.files[descriptor].synced = self.files[descriptor].seen
            self.disk.note("sync")

    def replace(self, source: Any, goal: Any) -> None:
        self.real["replace"](source, goal)
        file = self.disk.names[Path(source)]
        self.disk.change("rename", Path(goal), file)
        self.disk.change("remove", Path(source), "renamed")

    rename = replace

    def unlink(self, path: Any) -> None:
        self.real["unlink"](path)
        self.disk.change("remove", Path(path), "removed")

    def mkdir(self, path: Any, *args: Any) -> None:
        self.real["mkdir"](path, *args)
        self.disk.change("make folder", Path(path), None)
