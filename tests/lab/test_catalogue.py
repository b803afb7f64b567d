"""Fetching, from servers on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from helpers.data_files import idx_files, write
from weight_feedback.lab.data import catalogue, datasets
from weight_feedback.lab.data.datasets import DataError


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tiny, monkeypatch) -> Iterator[str]:
    """Serve ``good/`` (the right files) and ``bad/`` (others) over HTTP."""
    write(tiny / "served" / "good", idx_files(), packed=True)
    write(tiny / "served" / "bad", idx_files(1), packed=True)
    hashes = {
        file.name: (hashlib.md5(file.read_bytes()).hexdigest(), None)
        for file in (tiny / "served" / "good").iterdir()
    }
    monkeypatch.setitem(catalogue.SOURCES, "mnist", replace(catalogue.SOURCES["mnist"], md5s=hashes))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(tiny / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def use_mirrors(monkeypatch, *mirrors: str) -> None:
    monkeypatch.setitem(catalogue.SOURCES, "mnist", replace(catalogue.SOURCES["mnist"], mirrors=mirrors))


@pytest.mark.parametrize("progress", [False, True])
def test_fetch_goes_on_to_the_next_mirror(tiny, server, monkeypatch, capsys, progress) -> None:
    use_mirrors(monkeypatch, f"{server}dead/", f"{server}bad/", f"{server}good/")
    folder = datasets.fetch("mnist", tiny / "data", progress=progress)
    assert folder == tiny / "data" / "mnist"
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{name}.gz" for name in idx_files())
    assert datasets.load("mnist", tiny / "data").train_labels.tolist() == list(
        idx_files()["train-labels-idx1-ubyte"][8:]
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("100%" in captured.err) == progress
    # What is there and right is kept, without a server.
    use_mirrors(monkeypatch, f"{server}dead/")
    assert datasets.fetch("mnist", tiny / "data", progress=False) == folder


def test_fetch_goes_to_the_cache_and_repairs_a_damaged_file(tiny, server, monkeypatch) -> None:
    use_mirrors(monkeypatch, f"{server}good/")
    folder = datasets.fetch("mnist", progress=False)
    assert folder == tiny / "cache" / "weight-feedback" / "mnist"
    damaged = folder / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(b"damaged")
    datasets.fetch("mnist", progress=False)
    assert damaged.read_bytes() == (tiny / "served" / "good" / damaged.name).read_bytes()


def test_fetch_names_every_mirror_when_all_fail_and_keeps_nothing(tiny, server, monkeypatch) -> None:
    use_mirrors(monkeypatch, f"{server}dead/", f"{server}bad/")
    with pytest.raises(DataError) as caught:
        datasets.fetch("mnist", tiny / "data", progress=False)
    first = next(iter(catalogue.SOURCES["mnist"].md5s))
    assert caught.value.file == str(tiny / "data" / "mnist" / first)
    assert catalogue.SOURCES["mnist"].md5s[first][0] in caught.value.expected
    for part in (f"{server}dead/{first}: 404", f"{server}bad/{first}: MD5 hash"):
        assert part in caught.value.found
    assert [path for path in (tiny / "data").rglob("*") if path.is_file()] == []


def test_fetch_of_one_archive_returns_the_archive(tiny, server, monkeypatch) -> None:
    archive = tiny / "served" / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"archive")
    hashes = {archive.name: (hashlib.md5(b"archive").hexdigest(), None)}
    cifar = replace(catalogue.SOURCES["cifar10"], mirrors=(server,), md5s=hashes)
    monkeypatch.setitem(catalogue.SOURCES, "cifar10", cifar)
    assert datasets.fetch("cifar10", tiny, progress=False) == tiny / archive.name
    assert (tiny / archive.name).read_bytes() == b"archive"


@pytest.mark.parametrize("name", ["mnist-5k", "generated"])
def test_fetch_of_what_needs_no_files_is_refused(name) -> None:
    with pytest.raises(
        ValueError, match=rf"{name} needs no download: expected one of mnist, fashion-mnist, cifar10"
    ):
        datasets.fetch(name)
