"""The published studies, judged anew from the differences in their reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from weight_feedback.lab.spec import load_study
from weight_feedback.lab.verdicts import estimate, verdicts

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["controls-mnist", "controls-fashion", "controls-mnist-5k", "subspace-mnist-5k"])
def test_published_verdicts_stand(name) -> None:
    declared = load_study(name).declared
    html = (DOCS / "results" / name / "report.html").read_text("utf-8")
    content = json.loads(
        re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)[1]
    )
    dots = next(figure for figure in content if figure["name"] == "differences")["spec"]["data"]["values"]
    names = [f"{a} − {b}" for a, b in declared.primary]
    pairs = {name: np.array([dot["value"] for dot in dots if dot["name"] == name]) for name in names}
    found = verdicts(
        {name: estimate(x, np.zeros(len(x)), declared.margin) for name, x in pairs.items()}, declared.margin
    )
    published = re.findall(r'<p class="verdict \w+"><strong>(\w+)</strong> (\w+ − \w+):', html)
    assert [(verdict.kind, name) for name, verdict in found.items()] == published
    if name != "subspace-mnist-5k":
        text = (DOCS / "controls.md").read_text("utf-8")
        for contrast, verdict in found.items():
            assert f"> {verdict.sentence(*contrast.split(' − '))}\n" in text
