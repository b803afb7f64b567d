"""The page on packages: its picture shows today's contracts and imports, and the files that it names are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
LAB = ROOT / "src" / "weight_feedback" / "lab"


def test_the_picture_is_up_to_date() -> None:
    code = "import packages; print(packages.shown())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "docs", check=True, capture_output=True, text=True
    )
    with Image.open(ROOT / "docs" / "packages.png") as picture:
        assert picture.text["Description"] == ran.stdout.strip(), "run `python docs/packages.py`"


def test_the_files_that_the_page_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z]+/)+(?:[a-z]+\.[a-z]+)?)`", text)) - {"docs/packages.py"}
    assert len(named) > 25
    for name in named:
        assert (LAB / name).exists() or (LAB.parent / name).exists() or (ROOT / name).exists(), name
