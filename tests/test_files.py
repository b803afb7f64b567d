"""Writing files: whole or not at all, through every failure of the disk and of its power."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.power_failure import Disk, Watch
from weight_feedback import failpoints, files
from weight_feedback.files import LEFTOVER_AGE, prepare, remove, write_atomically

SMALL, LARGE = b"new", bytes(range(1, 256)) * 200  # within and beyond the buffers of Python's files


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"", SMALL, LARGE])
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("place", ["file", "made/before/file"])
def test_the_power_may_fail_at_any_time(tmp_path, monkeypatch, content, old, place) -> None:
    path = tmp_path / place
    if old:
        write_atomically(path, old)
    disk = Disk(tmp_path)
    with monkeypatch.context() as patches:
        Watch(disk, patches)
        write_atomically(path, content)
    operations = [name for name, _ in disk.moments]
    assert {"create", "sync", "rename", "sync folder"} <= set(operations)
    assert operations.count("make folder") == (2 if "/" in place and not old else 0)
    for operation, states in disk.moments:
        assert {state.get(path) for state in states} <= {old, content}, operation
    assert {state.get(path) for state in disk.moments[-1][1]} == {content}
    assert path.read_bytes() == content


def test_what_is_there_at_each_failpoint(tmp_path, monkeypatch) -> None:
    seen: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(
        failpoints,
        "reach",
        lambda name: seen.append((name, [path.stat().st_size for path in tmp_path.rglob("*.tmp")])),
    )
    write_atomically(tmp_path / "folder" / "file", b"1234")
    remove(tmp_path / "folder" / "file")
    assert seen == [
        ("folder-made", []),
        ("write-begin", []),
        ("write-half", [2]),
        ("write-whole", [2]),
        ("write-flushed", [4]),
        ("write-synced", [4]),
        ("write-renamed", []),
        ("write-durable", []),
        ("remove-begin", []),
        ("remove-done", []),
    ]


def test_the_disk_of_these_tests_loses_what_is_not_synced(tmp_path, monkeypatch) -> None:
    disk, path = Disk(tmp_path), tmp_path / "file"
    with monkeypatch.context() as patches:
        Watch(disk, patches)
        path.write_bytes(b"1234")
        path.rename(tmp_path / "other")
    assert {state.get(path) for _, states in disk.moments for state in states} == {
        None,
        b"",
        b"12",
        b"12\0\0",
        b"1234",
    }
    assert {} in disk.moments[-1][1]


CALLS = [(os, "mkdir"), (io, "open"), (os, "fsync"), (os, "replace"), (os, "open")]
ERRORS = {
    errno.ENOSPC: "No space left.*free some space, or choose another folder, then try again",
    errno.EDQUOT: "quota exceeded.*free some space, have the quota raised, or choose another folder",
    errno.EROFS: "Read-only.*choose another folder",
    errno.EACCES: "Permission denied.*choose another folder",
    errno.EPERM: "not permitted.*choose another folder, or get the permission to write there",
    errno.ENAMETOOLONG: "name too long.*choose a folder with a shorter path",
    errno.EISDIR: "Is a directory.*move away the folder",
    errno.EIO: "see whether the disk is in order",
}


@pytest.mark.parametrize(("module", "name"), CALLS, ids=[name for _, name in CALLS])
@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_what_fails_is_explained_and_leaves_nothing(tmp_path, monkeypatch, module, name, code) -> None:
    earlier = tmp_path / "earlier"
    write_atomically(earlier, b"old")
    path = tmp_path / "folder" / "file" if name == "mkdir" else earlier

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code), "a temporary name")

    with monkeypatch.context() as patches:
        patches.setattr(module, name, fail)
        with pytest.raises(OSError, match=ERRORS[code]) as caught:
            write_atomically(path, b"new")
    assert caught.value.errno == code
    assert caught.value.filename == str(path)
    # Only when all is there but the last sync failed, the new content may be seen.
    assert earlier.read_bytes() == (b"new" if name == "open" and module is os else b"old")
    assert entries(tmp_path) == ["earlier"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert entries(tmp_path) == []


def test_a_full_disk(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        write_atomically(disk / "earlier", b"old")
        with pytest.raises(OSError, match=r"No space left.*free some space") as caught:
            write_atomically(disk / "large", bytes(100_000))
        assert caught.value.filename == str(disk / "large")
        assert entries(disk) == ["earlier"]
        prepare(disk)
        with suppress(OSError):
            (disk / "filler").write_bytes(bytes(100_000))
        (disk / "name").touch()  # for which there still is room
        with pytest.raises(OSError, match=r"No space left.*free some space"):
            prepare(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match=r"Read-only file system.*choose another folder"):
            write_atomically(disk / "earlier", b"new")
        assert (disk / "earlier").read_bytes() == b"old"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_limit_on_the_size_of_files(tmp_path) -> None:
    write_atomically(tmp_path / "file", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_atomically(tmp_path / "file", LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / "file").read_bytes() == b"old"
    assert entries(tmp_path) == ["file"]


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """Go on without the rights of root, in a folder that anyone may read."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()

    def drop() -> None:
        if user == 0:
            os.seteuid(65534)

    yield drop
    os.seteuid(user)


def test_no_permission(tmp_path, nobody) -> None:
    folder = tmp_path / "folder"
    write_atomically(folder / "file", b"old")
    folder.chmod(0o555)
    nobody()
    for path in (Path("folder/file"), Path("folder/inner/file")):
        with pytest.raises(PermissionError, match=r"Permission denied.*get the permission"):
            write_atomically(path, b"new")
    with pytest.raises(PermissionError, match="get the permission"):
        prepare(Path("folder"))
    assert entries(Path("folder")) == ["file"]
    assert Path("folder/file").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127 + "x", "🙂" * 63 + "abc", "a b\nc", "-", "$(x)"])
def test_any_name_that_the_file_system_takes(tmp_path, name) -> None:
    folder = tmp_path / name
    write_atomically(folder / name, b"new")
    assert (folder / name).read_bytes() == b"new"
    assert entries(folder) == [name]


def test_a_name_that_is_too_long(tmp_path) -> None:
    for path in (tmp_path / ("a" * 256), tmp_path / ("a" * 256) / "file", tmp_path.joinpath(*["a" * 200] * 25)):
        with pytest.raises(OSError, match=r"too long.*shorter path"):
            write_atomically(path, b"new")


def test_what_is_in_the_way_is_named(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, advice in {
        "file/inner": "move away what is in the place of its folder",
        "link/inner": "move away what is in the place of its folder",
        "folder": "move away the folder that is in its place",
    }.items():
        with pytest.raises(OSError, match=advice):
            write_atomically(tmp_path / place, b"new")
    assert entries(tmp_path) == ["file", "folder", "link"]


def test_two_may_make_a_folder_at_once(tmp_path, monkeypatch) -> None:
    mkdir = os.mkdir

    def meanwhile(path: Path, mode: int) -> None:
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", meanwhile)
    write_atomically(tmp_path / "folder" / "file", b"new")
    assert entries(tmp_path) == ["folder"]


def test_a_link_to_a_folder_is_followed(tmp_path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    write_atomically(tmp_path / "link" / "file", b"new")
    assert (tmp_path / "there" / "file").read_bytes() == b"new"


def test_remove(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"")
    remove(tmp_path / "file")
    remove(tmp_path / "file")
    assert entries(tmp_path) == []


def test_what_killed_writers_left_is_cleared_once_it_is_old(tmp_path, monkeypatch) -> None:
    now = 10 * LEFTOVER_AGE  # by the file system's clock, which may be years from this machine's
    write = write_atomically

    def write_then(path: Path, content: bytes) -> None:
        write(path, content)
        os.utime(path, (now, now))

    monkeypatch.setattr(files, "write_atomically", write_then)
    old, older, young = (f".{digit * 32}.tmp" for digit in "123")
    former, kept = f".name.json.{'f' * 32}.tmp", [".gitignore", ".short.tmp", "0" * 32 + ".tmp", f"{old}.txt"]
    ages = {old: LEFTOVER_AGE + 1, older: now, former: now, young: LEFTOVER_AGE, **dict.fromkeys(kept, now)}
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (0, now - age))
    prepare(tmp_path)
    assert entries(tmp_path) == sorted([*kept, young])


def test_two_may_clear_at_once(tmp_path, monkeypatch) -> None:
    path = tmp_path / f".{'0' * 32}.tmp"
    path.write_bytes(b"half")
    real = Path.iterdir

    def meanwhile(folder: Path):
        found = list(real(folder))
        path.unlink()
        return found

    monkeypatch.setattr(Path, "iterdir", meanwhile)
    prepare(tmp_path)
    monkeypatch.undo()
    assert entries(tmp_path) == []


def test_a_folder_is_made_for_what_is_to_come(tmp_path) -> None:
    prepare(tmp_path / "made" / "before")
    assert entries(tmp_path / "made") == ["before"]
    assert entries(tmp_path / "made" / "before") == []
