"""README and docs: their code runs, their studies are valid, and their figures are those of the reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from weight_feedback.lab.models import NETWORKS
from weight_feedback.lab.spec import load_study

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", ["README.md", "docs/concepts.md"])
def test_code_runs(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile("\n".join(blocks(page, "python")), page, "exec"), names)
    assert "net" in names


def test_the_study_in_the_docs_is_valid(tmp_path) -> None:
    (text,) = blocks("docs/lab.md", "toml")
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    study = load_study(str(path))
    assert study.name == "mine"
    assert {arm.model for arm in study.arms} <= NETWORKS.keys()


@pytest.mark.parametrize("page", ["README.md", "docs/notebook.md"])
def test_figures_are_those_of_the_reports(page) -> None:
    reports = "\n".join(
        (ROOT / f"docs/results/notebook-{data}/report.md").read_text() for data in ("mnist", "cifar10")
    )
    figures = re.findall(r"\d\d\.\d\d \[[^]]*\]|7\d\.\d\d\b", (ROOT / page).read_text(encoding="utf-8"))
    assert len(figures) >= 3
    for figure in figures:
        assert figure in reports, figure


CONTROLS = ("controls-mnist", "controls-fashion", "controls-mnist-5k")


@pytest.mark.parametrize("page", ["README.md", "docs/controls.md"])
def test_verdicts_are_those_of_the_reports(page) -> None:
    """Each study's two verdicts are quoted whole, in the order of `CONTROLS`."""
    quoted = re.findall(r"^> (own.*)$", (ROOT / page).read_text(encoding="utf-8"), re.M)
    reports = [(ROOT / f"docs/results/{name}/report.md").read_text(encoding="utf-8") for name in CONTROLS]
    assert quoted == [line[2:] for report in reports for line in report.splitlines() if line.startswith("- own")]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_declaration_in_a_report_is_that_of_the_study(name) -> None:
    report = (ROOT / f"docs/results/{name}/report.md").read_text(encoding="utf-8")
    assert f"Declaration: `{load_study(name).declaration()}`" in report
