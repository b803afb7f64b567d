"""The data sets that live in files: what they consist of, where they are looked for and fetched from.

What fetching takes is imported when something is fetched: names alone are asked for more often.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weight_feedback.lab.data.nearby import near_misses
from weight_feedback.lab.data.reading import DataError, unreadable

ENVIRONMENT = "WEIGHT_FEEDBACK_DATA"
CIFAR_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CIFAR_BINARY_FOLDER = "cifar-10-batches-bin"
CIFAR_PICKLE_FOLDER = "cifar-10-batches-py"
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Source:
    """A data set that lives in files.

    Attributes:
        layouts: where it may be under a root, best first, and the files that must be there, plain or with
            ``.gz`` added; an archive is a layout whose one file is itself, ``.``.
        train: how many training images there must be.
        test: how many test images there must be.
        mean: per channel, for `normalise`.
        std: per channel, for `normalise`.
        folder: where under a root `fetch` puts the downloads.
        mirrors: addresses of folders with the downloads, in the order in which they are tried.
        md5s: for each download its published MD5, and that of the file within, where published.
        known: other files of the same data that people have, in small letters, and what to do with them.
    """

    layouts: Mapping[str, tuple[str, ...]]
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: str
    mirrors: tuple[str, ...]
    md5s: Mapping[str, tuple[str, str | None]]
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A data set's folder or archive, and its files in the order of its `Source`."""

    place: Path
    files: tuple[Path, ...]


SOURCES: dict[str, Source] = {
    "mnist": Source(
        layouts=dict.fromkeys(("mnist", "MNIST/raw", "."), IDX_FILES),
        known=dict.fromkeys(
            ("mnist.npz", "mnist.pkl.gz", "mnist.pkl", "mnist-original.mat", "mnist_train.csv"),
            "the same digits in a format that isn't read; the four IDX files are",
        ),
        train=60_000,
        test=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        folder="mnist",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        md5s={
            f"{IDX_FILES[0]}.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
            f"{IDX_FILES[1]}.gz": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
            f"{IDX_FILES[2]}.gz": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
            f"{IDX_FILES[3]}.gz": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
        },
    ),
    "fashion-mnist": Source(
        layouts=dict.fromkeys(("fashion-mnist", "FashionMNIST/raw"), IDX_FILES),
        train=60_000,
        test=10_000,
        mean=(0.2860,),
        std=(0.3530,),
        folder="fashion-mnist",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        md5s={
            f"{IDX_FILES[0]}.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            f"{IDX_FILES[1]}.gz": ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
            f"{IDX_FILES[2]}.gz": ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
            f"{IDX_FILES[3]}.gz": ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
        },
    ),
    "cifar10": Source(
        layouts={
            CIFAR_BINARY_FOLDER: tuple(f"{batch}.bin" for batch in CIFAR_BATCHES),
            "cifar-10-binary.tar.gz": (".",),
            "cifar-10-binary.tar.xz": (".",),
            CIFAR_PICKLE_FOLDER: CIFAR_BATCHES,
        },
        known={
            **dict.fromkeys(
                ("cifar-10-python.tar.gz", "cifar-10-python.tar", "cifar-10-python.tgz"),
                f"the Python version is read once it is unpacked, as {CIFAR_PICKLE_FOLDER}",
            ),
            **dict.fromkeys(
                ("cifar-10-matlab.tar.gz", "cifar-10-matlab.tar"),
                "the Matlab version isn't read; the binary and the Python version are",
            ),
        },
        train=50_000,
        test=10_000,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        folder=".",
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        md5s={"cifar-10-binary.tar.gz": ("c32a1d4ab5d03f1284b67883e8d87530", None)},
    ),
}


NAMES = "mnist-5k", *SOURCES, "generated"


def source_of(name: str) -> Source:
    """Return the source of a data set; ValueError, with the known names, if it has none."""
    if name not in SOURCES:
        raise ValueError(f"data: expected a data set among {', '.join(NAMES)}, found {name!r}")
    return SOURCES[name]


def cache_root() -> Path:
    """Return the user's cache folder of this project."""
    import pooch

    return Path(pooch.os_cache("weight-feedback"))


def absolute(path: Path | str) -> Path:
    """Return a path that stays the same when the current folder changes; DataError if it is none."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a zero byte
        raise DataError(path, None, "the path of a folder", f"{error}", "give another") from error


def _roots(data_dir: Path | None) -> list[Path]:
    if data_dir is not None:
        return [absolute(data_dir)]
    named = os.environ.get(ENVIRONMENT)
    return [*([absolute(named)] if named else []), cache_root()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # no permission, or a name that is too long
        raise unreadable(path, error) from error


def find(name: str, data_dir: Path | None) -> Found:
    """Return the first place that has all files of a data set; complain of every place otherwise."""
    source = source_of(name)
    roots = _roots(data_dir)
    tried = []
    for root in roots:
        for layout, wanted in source.layouts.items():
            place = root / layout
            candidates = [(place / file, place / f"{file}.gz") for file in wanted]
            files = [next(filter(_is_file, pair), None) for pair in candidates]
            present = tuple(file for file in files if file is not None)
            if len(present) == len(wanted):
                return Found(place, present)
            lacks = ", ".join(name for name, file in zip(wanted, files, strict=True) if file is None)
            tried.append(f"{place} (lacks {lacks})" if place.is_dir() else f"{place} (absent)")
    others = {layout for other in SOURCES if other != name for layout in SOURCES[other].layouts} - {"."}
    near = near_misses(source.layouts, roots, others=others, known=source.known)
    raise DataError(
        roots[0],
        None,
        f"the files of {name}",
        f"none of these complete: {'; '.join(tried)}",
        f"{''.join(f'{one}; ' for one in near)}download them with `weight-feedback data fetch {name}`, or name the "
        "folder that has them with "
        f"--data-dir or the environment variable {ENVIRONMENT}",
    )


def download(source: Source, file: str, folder: Path, progress: bool) -> Path:
    """Fetch one file from the first mirror that gives the right one."""
    import pooch

    failures = []
    known = f"md5:{source.md5s[file][0]}"
    for mirror in source.mirrors:
        with _Bar(file, shown=progress) as bar:
            try:
                fetched = pooch.retrieve(mirror + file, known, fname=file, path=folder, progressbar=bar)
            except (OSError, ValueError) as error:  # All errors of requests are of the former kind.
                failures.append(f"{mirror}{file}: {error}")
            else:
                return Path(fetched)
    raise DataError(
        folder / file,
        None,
        f"a download with the hash {known}",
        f"none at any mirror: {'; '.join(failures)}",
        "check the network and the free disk space, or put the file there by hand",
    )


class _Bar:
    """Shows a download with rich, by the attribute and methods that pooch asks of a progress bar."""

    def __init__(self, label: str, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.total = 0
        self._progress = Progress(console=Console(stderr=True), disable=not shown)
        self._task = self._progress.add_task(label)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, count: int) -> None:
        self._progress.update(self._task, total=self.total, advance=count)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
