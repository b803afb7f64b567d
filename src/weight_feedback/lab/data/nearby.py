"""Files that would be those of a data set, but for their name or folder."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

#: Folders below a root that are looked into, and names that are looked at, at most: a root may be a home folder.
DEPTH, MOST_NAMES = 3, 10_000
#: Near misses that a message lists.
MOST_SHOWN = 6
_PACKED = re.compile(r"\.(gz|xz|bz2|zip|zst|z)$")
_COPY = re.compile(r"\s*(\(\d+\)|- copy)(?=\.|$)")


def near_misses(
    layouts: Mapping[str, Sequence[str]],
    roots: Sequence[Path],
    *,
    others: Collection[str] = (),
    known: Mapping[str, str] | None = None,
) -> list[str]:
    """Return one sentence a file that is nearly where and what is expected, and says what is.

    Args:
        layouts: folder or archive under a root to the files in it, as in `sources.Source`.
        roots: where to look.
        others: folders under a root of other data sets, whose files may have the same names.
        known: other names under which the data are known, in small letters, to what to do with them.
    """
    likely = {_plain(file if file != "." else layout) for layout, files in layouts.items() for file in files}
    found: list[str] = []
    for root in roots:
        for path in _walk(root):
            folder = path.parent.relative_to(root).as_posix()
            if any(f"/{folder}".endswith(f"/{other}") for other in others) or _is_right(layouts, folder, path.name):
                continue
            if path.name.lower() in (known or {}):
                found.append(f"{path} is there: {(known or {})[path.name.lower()]}")
            elif _plain(path.name) in likely:
                found.append(f"{path} is there, but {_expected(layouts, root, folder, path.name)} is expected")
    more = len(found) - MOST_SHOWN
    return [*found[:MOST_SHOWN], *([f"and {more} more like these"] if more > 0 else [])]


def _plain(name: str) -> str:
    """Return what a name has in common with those that people take for the same."""
    bare = _PACKED.sub("", _COPY.sub("", name.lower().replace(".tgz", ".tar.gz").replace(".txz", ".tar.xz")))
    return re.sub(r"[-._ ]+", "-", bare)


def _is_right(layouts: Mapping[str, Sequence[str]], folder: str, name: str) -> bool:
    files = layouts.get(folder, ())
    return name in files or name.removesuffix(".gz") in files or (folder == "." and name in layouts)


def _expected(layouts: Mapping[str, Sequence[str]], root: Path, folder: str, name: str) -> str:
    """Return where and how a file is expected: in its folder, if that is a right one."""
    for layout, files in sorted(layouts.items(), key=lambda item: item[0] != folder):
        for file in files:
            if file == "." and _plain(layout) == _plain(name):
                return str(root / layout)
            if _plain(file) == _plain(name):
                return f"{root / layout / file}, with or without .gz,"
    raise AssertionError(name)


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files below a root, and no more than is looked at in a moment."""

    def files() -> Iterator[Path]:
        for folder, folders, names in os.walk(root):
            folders.sort()
            if len(Path(folder).relative_to(root).parts) >= DEPTH:
                folders.clear()
            yield from (Path(folder, name) for name in sorted(names))

    return itertools.islice(files(), MOST_NAMES)
