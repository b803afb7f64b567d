"""README and docs: their code runs, their studies are valid, and their figures are those of the reports.

Fenced blocks, ```` ```python ````, run here; those of the how-to pages section by section, each after the block of
their index, and skipped where a package that they import isn't installed. What can't run at all belongs into a
directive, ```` ```{code-block} python ````, which looks the same on the page. So does what has to stand in a file,
as studies have: its caption is the file's name.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import importlib.util
import json
import pkgutil
import re
import sys
import types
import warnings
from pathlib import Path

import nbformat
import pytest
import torch

import weight_feedback as wf
from weight_feedback import lab
from weight_feedback.lab.execution.preflight import preflight
from weight_feedback.lab.statistics.verdicts import Verdict, estimate, verdicts
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook.networks import NETWORKS
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

ROOT = Path(__file__).parents[1]


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def blocks(page: str, language: str) -> list[str]:
    return fenced((ROOT / page).read_text(encoding="utf-8"), language)


@pytest.mark.parametrize("page", ["docs/concepts.md", "docs/intrinsic-dimension.md"])
def test_code_runs(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile("\n".join(blocks(page, "python")), page, "exec"), names)
    assert "net" in names


# Studies


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the files of a page into a folder, from which modules are imported."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and tmp_path in Path(sys.modules[name].__file__).parents:
            del sys.modules[name]


def named(page: str) -> dict[str, str]:
    """The files on a page: blocks whose caption is a name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^```{code-block} \w+\n:caption: (\S+)\n\n(.*?)^```", text, re.M | re.S))


def fit(study: lab.Study) -> list[str]:
    """Make a preflight, and return what doesn't pass."""
    return [check.name for check in preflight(study) if check.verdict not in ("passed", "not tried")]


def test_the_readmes_code_runs(write) -> None:
    attach, compare = blocks("README.md", "python")
    write({"attach.py": attach, "compare.py": compare})
    importlib.import_module("attach")
    assert fit(importlib.import_module("compare").study) == []


def test_the_studies_of_the_how_to_run(write) -> None:
    files = named("docs/how-to/compare.md")
    assert [*files] == ["mine.py", "widths.py", "mine.toml"]
    write(files)
    study = importlib.import_module("mine").study
    page = (ROOT / "docs/how-to/compare.md").read_text(encoding="utf-8")
    assert fit(study) == []
    assert f"Declaration: {study.declaration()}." in " ".join(page.split())
    assert fit(importlib.import_module("widths").study) == []
    trusted = lab.load_study("mine.toml", trust=True)
    assert trusted.trial(trusted.arms[0], 0).values == {"dropout": 0.0, "epochs": 5}
    with pytest.raises(ValueError, match="--trust"):
        lab.load_study("mine.toml")


def test_the_tasks_of_the_docs_run(write) -> None:
    regression, delay = blocks("docs/tasks.md", "python")
    write({"regression.py": regression, "delays.py": delay})
    assert fit(importlib.import_module("regression").study) == []
    assert isinstance(importlib.import_module("delays").DELAY, lab.Task)


# Recipes


def sections(page: str) -> dict[str, str]:
    """The code of a page, by the heading that it stands under."""
    _, *parts = re.split(r"^## (.*)\n", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)
    code = {
        heading: "\n".join(fenced(text, "python")) for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: text for heading, text in code.items() if text}


HOW_TO = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/how-to").glob("*.md") if path.stem != "index")
RECIPES = [pytest.param(page, heading, id=heading) for page in HOW_TO for heading in sections(page)]
# Known of other packages, whose warnings aren't for us to heed.
NOISE = [
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, "'pin_memory' argument is set as true but no accelerator is found"),
    (UserWarning, ".*does not have many workers"),
    (DeprecationWarning, "`torch.jit.script` is deprecated"),
]


@pytest.fixture
def tidy():
    """Whatever a recipe leaves behind in the process is put right."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if "accelerate" in sys.modules:
        state = sys.modules["accelerate.state"]
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


@pytest.mark.parametrize(("page", "heading"), RECIPES)
def test_recipe_runs(page, heading, tmp_path, monkeypatch, tidy) -> None:
    code = "\n".join(["".join(blocks("docs/how-to/index.md", "python")), sections(page)[heading]])
    tree = ast.parse(code)
    needed = {name.partition(".")[0] for name in imported(tree)}
    if absent := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {absent}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # This backend runs the graphs that are found, and needs neither a C++ compiler nor its time.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    if "init_process_group" in code:  # what torchrun sets, for one process
        alone = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
        for name, value in alone.items():
            monkeypatch.setenv(name, str(value))
    # A module of its own, so that classes in it can be found again.
    module = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, "recipe", module)
    try:
        with warnings.catch_warnings():
            for kind, message in NOISE:
                warnings.filterwarnings("ignore", message, kind)
            exec(compile(tree, f"{page}: {heading}", "exec"), vars(module))
    finally:
        vars(module).clear()
        # A DDP that outlives its process group ends its thread with the GIL held, which that may need.
        gc.collect()


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(ROOT / "docs/weight-net.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 10
    kept = [cell.id for cell in cells if cell.outputs or cell.execution_count is not None]
    assert kept == [], "clear these cells' outputs: the build of the documentation makes them anew"


def messages() -> list[str]:
    """Every text in the library's code, with … for what varies."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(wf.__file__).parent.rglob("*.py")]
    texts = []
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            texts.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant):
            texts.append(str(node.value))
    return texts


def test_the_messages_among_the_gotchas_are_the_librarys() -> None:
    page = (ROOT / "docs/gotchas.md").read_text(encoding="utf-8").partition("## Messages")[2]
    quoted = re.findall(r"^\| `(.*?)` \|", page, re.M)
    assert len(quoted) > 40
    texts = messages()
    assert [message for message in quoted if not any(message in text for text in texts)] == []


# References to PyTorch


def torch_names() -> list[str]:
    lines = (ROOT / "docs/torch_names.txt").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def test_the_names_that_are_linked_to_exist() -> None:
    assert torch_names() == sorted({*torch_names()})
    for name in torch_names():
        assert pkgutil.resolve_name(name) is not None


def linked() -> list[tuple[str, str]]:
    """Where each ``torch.…`` stands in single backticks, which make a link."""
    sources = [*Path(wf.__file__).parent.rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    found = []
    for path in sources:
        text = path.read_text(encoding="utf-8")
        # In pages code blocks are none of it; in code, whatever stands in double backticks.
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S) if path.suffix == ".md" else text
        names = re.findall(r"(?<!`)`~?(torch(?:\.\w+)+)(?:\(.*?\))?`(?!`)", text)
        found += [(path.name, name) for name in names]
    return found


def test_whatever_is_linked_to_is_listed() -> None:
    assert ("layers.py", "torch.nn.Conv2d") in linked()
    assert ("works-with.md", "torch.autocast") in linked()
    missing = [place for place in linked() if place[1] not in torch_names()]
    assert missing == [], "add these names to docs/torch_names.txt, or use double backticks in a docstring"


def test_what_is_said_to_be_tested_is_in_the_table() -> None:
    """The how-to pages link to rows by the name of a test."""
    table = (ROOT / "docs/works-with.md").read_text(encoding="utf-8")
    named = [name for page in HOW_TO for name in re.findall(r"\(#(test_\w+)\)", (ROOT / page).read_text())]
    assert len(named) > 10
    assert [name for name in named if f"::{name}`" not in table] == []


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_the_study_in_the_docs_is_valid(tmp_path) -> None:
    (text,) = blocks("docs/lab.md", "toml")
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    study = load_study(str(path))
    assert study.name == "mine"
    assert {study.trial(arm, 0).model for arm in study.arms} <= NETWORKS.keys()


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


def judged_anew(name: str) -> dict[str, Verdict]:
    """The verdicts on the differences in a published report; its sentences are of the version that wrote it."""
    html = (ROOT / f"docs/results/{name}/report.html").read_text(encoding="utf-8")
    content = json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.S)[1])
    dots = next(figure for figure in content if figure["name"] == "differences")["spec"]["data"]["values"]
    declared = load_study(name).declared
    pairs = {
        f"{a} − {b}": [dot["value"] for dot in dots if dot["name"] == f"{a} − {b}"] for a, b in declared.primary
    }
    margin = declared.margin
    found = verdicts({pair: estimate(x, [0.0] * len(x), margin) for pair, x in pairs.items()}, margin)
    published = re.findall(r'<p class="verdict \w+"><strong>(\w+)</strong> (\w+ − \w+):', html)
    assert [(verdict.kind, pair) for pair, verdict in found.items()] == published
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/controls.md"])
def test_verdicts_are_those_of_the_reports(page) -> None:
    """Each study's two verdicts are quoted whole, in the order of `CONTROLS`."""
    quoted = re.findall(r"^> (own.*)$", (ROOT / page).read_text(encoding="utf-8"), re.M)
    found = [judged_anew(name) for name in CONTROLS]
    assert quoted == [
        verdict.sentence(*pair.split(" − "), "points", NOTEBOOK.scope)
        for study in found
        for pair, verdict in study.items()
    ]


def test_the_verdicts_in_a_subspace_stand() -> None:
    assert [verdict.kind for verdict in judged_anew("subspace-mnist-5k").values()] == ["equivalent", "equivalent"]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_declaration_in_a_report_is_that_of_the_study(name) -> None:
    report = (ROOT / f"docs/results/{name}/report.md").read_text(encoding="utf-8")
    assert f"Declaration: `{load_study(name).declaration()}`" in report


def test_dimensions_are_those_of_the_reports() -> None:
    page = (ROOT / "docs/intrinsic-dimension.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| .* \| (\S+) \| (\S+ \[.*\]) \| `(.* intrinsic-dimension (\w+)(?: --epochs (\d+) .*)?)` \|$",
        page,
        re.M,
    )
    assert [row[3:] for row in rows] == [("fc", ""), ("fc", "100"), ("lenet", ""), ("lenet", "100")]
    for published, estimated, command, network, epochs in rows:
        folder = ROOT / "docs/results" / (f"{epochs}-epochs" if epochs else "") / f"intrinsic-dimension-{network}"
        report = (folder / "report.md").read_text(encoding="utf-8")
        assert f"Least dimensions with 90 % test accuracy: {estimated} (95 % bootstrap interval, 3 seeds" in report
        assert f"- Published (Li et al. 2018): {published}.\n" in report
        assert f"- Made by: `{command}`\n" in report
