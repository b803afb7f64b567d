"""What several commands take: names of arguments, and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from weight_feedback.lab.spec import builtin_studies

OUT = Path("results")
STUDIES = ", ".join(builtin_studies())

StudyName = Annotated[
    Positional[str],
    arg(metavar="STUDY", help=f"A TOML file, or a built-in study: {STUDIES}."),
]
DataDir = Annotated[
    Path | None,
    arg(
        metavar="DIR",
        help="Folder with data files; default: $WEIGHT_FEEDBACK_DATA, then the user cache.",
    ),
]
Out = Annotated[Path, arg(metavar="DIR", help="Folder that holds the results, one folder a study.")]
To = Annotated[
    Path | None,
    arg(metavar="DIR", help="Folder for report and pictures; default: the study's, among the results."),
]
Arms = Annotated[tuple[str, ...] | None, arg(metavar="ARM [ARM …]", help="Names of some arms; default: all.")]
Jobs = Annotated[int | None, arg(metavar="INT", help="Trials side by side; default: one a core.")]
Workers = Annotated[
    int | None,
    arg(metavar="INT", help="The same as --jobs; default: as many as the cluster has workers, or one a core."),
]
Device = Annotated[str, arg(metavar="NAME", help="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
Cuda = Annotated[bool, arg(help="--no-cuda trains on the CPU even where there is a GPU.")]


def agreed_jobs(jobs: int | None, workers: int | None) -> int | None:
    """Return how many trials run side by side, by whichever name that was given.

    Args:
        jobs: by one name.
        workers: by the other.

    Raises:
        ValueError: both are given, and they differ, or one is too small.
    """
    for name, value in (("--jobs", jobs), ("--workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if jobs is not None and workers is not None and jobs != workers:
        raise ValueError(f"--jobs {jobs} and --workers {workers} contradict each other; they are the same")
    return workers if jobs is None else jobs


def choose(device: str, cuda: bool) -> str:
    """Return the device that two arguments name.

    Args:
        device: a name, or ``auto``.
        cuda: whether a GPU may be taken.

    Raises:
        ValueError: the two contradict each other.
    """
    if not cuda and device.startswith("cuda"):
        raise ValueError(f"--no-cuda and --device {device} contradict each other")
    return device if cuda or device != "auto" else "cpu"
