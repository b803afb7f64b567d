"""What reports say of the stores in ``fixtures/parent-stores``, for `test_frozen_stores.py` to compare with.

``python tests/frozen_reports.py`` writes it anew, when a report is changed on purpose.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from weight_feedback.lab.commands import cli

STORES = Path(__file__).parent / "fixtures" / "parent-stores"
#: In it: what reports say, and what comes out when all is finished.
REPORTED, FINISHED = "reported", "finished.json"
MEASURE = (
    *("intrinsic-dimension", "lenet", "--data", "generated", "--epochs", "2", "--lr", "0.1", "--threshold", "10.8"),
    *("--jobs", "1", "--dimensions", "5", "40"),
)
#: Commands that train nothing.
REPORTS = (
    *(("report", f"{study}.toml") for study in ("twelve", "half", "subspace")),
    ("export", "twelve.toml"),
    (*MEASURE, "--seeds", "2"),
)
#: Files that depend on what is in the stores alone, and not on what draws pictures.
KEPT = (
    *("twelve/report.md", "twelve/report.html", "twelve/trials.csv", "twelve/figures/*.csv"),
    *("half/report.md", "subspace/report.md", "intrinsic-dimension-lenet-generated/report.md"),
)


def copy_stores(folder: Path) -> None:
    """Copy study files and stores into a folder that is there."""
    ignored = shutil.ignore_patterns(REPORTED, FINISHED)
    shutil.copytree(STORES, folder, ignore=ignored, dirs_exist_ok=True)


def report() -> dict[str, str]:
    """Report and export the stores in the present folder; return what is in the files, by their names."""
    for command in REPORTS:
        cli.main([*command, "--out", "."])
    return {str(path): plain(path) for pattern in KEPT for path in sorted(Path().glob(pattern))}


def plain(path: Path) -> str:
    """Return a file's text.

    Without scripts, styles and their digests, which are the same in every page; and with figures' numbers rounded,
    since their last digits aren't the same on every machine.
    """
    text = path.read_bytes().decode()
    if path.suffix == ".html":
        text = re.sub(r"(<(script|style)\b[^>]*>).*?(</\2>)", r"\1\3", text, flags=re.DOTALL)
        text = re.sub(r"'sha256-[^']*'", "'sha256'", text)
    if path.parent.name == "figures":
        text = re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda found: str(round(float(found[0]), 9) + 0.0), text)
    return text


def main() -> None:
    goal = STORES / REPORTED
    with tempfile.TemporaryDirectory() as folder:
        copy_stores(Path(folder))
        os.chdir(folder)
        found = report()
    shutil.rmtree(goal, ignore_errors=True)
    for name, text in found.items():
        path = goal / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


if __name__ == "__main__":
    main()
