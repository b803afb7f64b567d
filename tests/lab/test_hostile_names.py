"""Titles, labels and other texts that try to be more: refused where that can do harm, and else shown as text.

What a browser makes of them, `test_browser.py` sees.
"""

from __future__ import annotations

import csv
import html
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from helpers.made_up_study import PROVENANCE, STUDY, fill, record
from helpers.studies import BASE, document
from weight_feedback.lab.commands.terminal import print_table
from weight_feedback.lab.report.export import export
from weight_feedback.lab.report.figures import figures, save
from weight_feedback.lab.report.markdown import arm_cells, failures, markdown
from weight_feedback.lab.report.page import page
from weight_feedback.lab.report.plots import plot_means
from weight_feedback.lab.statistics.analysis import Analysis, analyse
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError, load_study
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Training

HARMLESS = [
    "<script>window.canary=1</script><img src=x onerror=window.canary=1>",
    "</script></title></style><!-- --> ]]> &lt;b&gt; & <?xml?>",
    '"onmouseover="window.canary=1" x=\'{{7*7}}\' ${canary} #{x} %s {0}',
    r"$\frac{1}{0}$ \alpha $$ \[x\] $\oops{",
    "=1+1+cmd|' /C calc'!A0",
    "+1",
    "-1+1",
    "@SUM(1)",
    "\uff1d1+1",
    "../../etc/passwd",
    r"..\..\x:y|nul",
    "_hidden",
    "| a | b | `code` ](http://x) ![x](y) [x][y] **b** # <http://x>",
    "[bold red]x[/] [/bold] [link=http://x] :smile: :warning:",
    "🧠👩‍🔬 e\u0301 重み\u200b\u00ad",
    "עברית اللغة العربية",
    "\\n \\x1b[31m \\",
    "x" * 80,
]
REFUSED = {
    "a line end": "a\nb",
    "a carriage return": "a\rb",
    "a tab": "\ta",
    "a zero": "a\0",
    "an escape": "\x1b]0;title\x07",
    "a C1 control": "\x9b31m",
    "a delete": "\x7f",
    "a line separator": "a\u2028b",
    "a right-to-left override": "abc\u202egpj.exe",
    "an isolate": "\u2067a",
    "no character": "a\uffff",
}


# The study file


def with_texts(title: str, label: str) -> str:
    return document({**BASE, "title": title, "arms": [{**BASE["arms"][0], "label": label}, BASE["arms"][1]]})


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_made_harmless_is_refused(tmp_path, text) -> None:
    path = tmp_path / "study.toml"
    for field, content in (("title", with_texts(text, "a")), ("arms.0.label", with_texts("a", text))):
        path.write_text(content)
        with pytest.raises(StudyError) as caught:
            load_study(str(path))
        message = str(caught.value)
        assert f"{field}: expected one line of text, without control characters and marks that turn " in message
        assert re.search(r"got '\\\S+' as character \d+$", message)
        assert message.isprintable()


@pytest.mark.parametrize("text", HARMLESS)
def test_every_other_text_is_allowed(tmp_path, text) -> None:
    path = tmp_path / "study.toml"
    path.write_text(with_texts(text, text), encoding="utf-8")
    study = load_study(str(path))
    assert (study.title, study.arms[0].label) == (text, text)


def test_half_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="title"):
        Study.model_validate({**BASE, "title": "\ud800"})


def test_long_texts_are_refused_in_short(tmp_path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(with_texts("a", "x" * 600))
    with pytest.raises(StudyError, match=r"arms.0.label: expected at most 80 characters, got 'x+\.\.\.x+'$"):
        load_study(str(path))


@given(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,63}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,63}", fullmatch=True),
)
def test_names_make_files_of_the_store_and_no_others(name, model) -> None:
    trial = NetworkTrial(data=name, training=Training(), model=model, signal="own-gradient", summary=Projected(k=2),
                  conditioning="film", salt=1000, seed=2**31 - 1)  # fmt: skip
    store = Store(Path("results") / name)
    swap = Swap(trial=trial, heard="initial")
    for path in (store.path(trial), store.path(swap), store.weights(trial)):
        assert path.parent.parent == store.folder
        assert ".." not in path.parts
        # A temporary file has 38 characters more.
        assert len(path.name.encode()) + 38 < 255


# Where texts are shown


@pytest.fixture(scope="module", params=range(0, len(HARMLESS), 4))
def found(request, tmp_path_factory) -> Analysis:
    """Four of the texts at once: as labels, and one as the title."""
    texts = (HARMLESS + HARMLESS)[request.param : request.param + 4]
    arms = tuple(arm.model_copy(update={"label": text}) for arm, text in zip(STUDY.arms, texts, strict=True))
    study = STUDY.model_copy(update={"arms": arms, "title": texts[0]})
    store = Store(tmp_path_factory.mktemp("study"))
    return analyse(study, fill(store, study))


def labels(found: Analysis) -> list[str]:
    return [arm.label for arm in found.study.arms]


def test_pictures_of_the_first_kind(found, tmp_path, recwarn) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    curves = {result.arm.label: result.curves["accuracy"] for result in found.arms}
    plot_means(curves, found.study.title, found.study.title, [svg, png])
    assert png.read_bytes().startswith(b"\x89PNG")
    root = ET.fromstring(svg.read_text("utf-8"))
    assert {element.tag.rpartition("}")[2] for element in root.iter()}.isdisjoint(
        {"script", "image", "a", "foreignObject"}
    )
    # Each text is drawn as it is, letter by letter, and kept in a comment, in which XML allows no two hyphens.
    comments = re.findall(r"<!-- (.*?) -->", svg.read_text("utf-8"), re.DOTALL)
    for text in (*labels(found), found.study.title):
        assert any(loose(text) == loose(html.unescape(comment)) for comment in comments), text
    assert len(recwarn) == 0


def loose(text: str) -> str:
    """Leave out what XML's comments can't hold."""
    return re.sub(r"[^\w]", "", text)


def test_pictures_of_the_second_kind(found, tmp_path) -> None:
    (curves,) = (figure for figure in figures(found) if figure.name == "curves")
    _, svg, _ = save(curves, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.csv", "curves.png", "curves.svg"]
    kinds = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg.read_text("utf-8")).iter()}
    assert kinds <= {
        "svg",
        "g",
        "path",
        "text",
        "tspan",
        "rect",
        "line",
        "title",
        "desc",
        "defs",
        "clipPath",
        "style",
    }


def test_numbers_beside_pictures_hold_names_alone(found) -> None:
    for figure in figures(found):
        texts = {cell for row in figure.values for cell in row if isinstance(cell, str)}
        verdicts = {"", "equivalent", "better", "worse", "undecided", "withheld"}
        assert (
            texts
            <= {arm.name for arm in found.study.arms} | set(found.study.kind.interventions.values()) | verdicts
        )


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parts(text: str) -> tuple[list[list[str]], set[str]]:
    """Return the cells of all tables, row by row, and the kinds of all parts, of a text in Markdown."""
    rows: list[list[str]] = []
    kinds, before = set(), ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        kinds |= {token.type, *(child.type for child in token.children or ())}
        if token.type == "tr_open":
            rows.append([])
        if before in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in token.children or ()))
        before = token.type
    return rows, kinds


def test_the_report_in_markdown(found) -> None:
    rows, kinds = parts(markdown(found, "command", {}))
    shown = [row[0] for row in rows]
    for text in labels(found):
        assert " ".join(text.split()) in shown
    assert {len(row) for row in rows} == {5, 6, 10}
    assert kinds.isdisjoint({"html_inline", "html_block", "link_open", "image", "fence", "em_open", "strong_open"})


def test_the_page(found) -> None:
    text = page(found, figures(found), "command")
    text.encode()
    for label in labels(found):
        assert (
            f'<th scope="row">{html.escape(label).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}</th>'
            in text
        )
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"<(img|script|b>|a href=\"http)", body)
    assert text.count("</script>") == 3


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_exports(found, tmp_path, kind) -> None:
    store = fill(Store(tmp_path / "store"), found.study)
    export(found.study, store, tmp_path / "table", kind)
    if kind == "parquet":
        assert set(pd.read_parquet(tmp_path / "table")["label"]) == set(labels(found))
        return
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table").read_text("utf-8"), newline="")))
    assert {row["label"].removeprefix("'") for row in rows} == set(labels(found))
    for row in rows:
        assert not any(cell.startswith(tuple("=+-@\t\r\n\uff1d")) for cell in row.values() if not is_number(cell))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal(found, terminal) -> None:
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=terminal, width=4000, legacy_windows=False)
    print_table(console, found.study.title, *arm_cells(found.study, found.arms))
    printed = buffer.getvalue()
    # Colours and bold alone.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed) if terminal else printed
    assert "\x1b" not in plain
    for text in labels(found):
        assert text in plain


# Texts from elsewhere: why a trial failed, and what other people's results say of their origin

FOREIGN = "\x1b[2J <b>|x|</b> \udcff\u202e=1"


@pytest.fixture
def strange(tmp_path) -> Analysis:
    store = Store(tmp_path)
    for arm, trial in STUDY.trials():
        made = record(trial, arm.name)
        if (arm.name, trial.seed) == ("own", 0):
            store.fail(trial, f"OSError: {FOREIGN}\nand more")
        else:
            strings = {name: f"{value} {FOREIGN}" for name, value in PROVENANCE.items() if isinstance(value, str)}
            store.write(trial, Record(made.result, {**made.provenance, **strings, "host": f"={FOREIGN}"}))
    return analyse(STUDY, store)


def test_reasons_and_origins_are_text(strange, tmp_path) -> None:
    (reason,) = (sentence for sentence in failures(strange) if "OSError" in sentence)
    assert reason.isprintable()
    text = markdown(strange, "command", {})
    assert text.replace("\n", "").isprintable()
    assert parts(text)[1].isdisjoint({"html_inline", "html_block"})
    html_text = page(strange, figures(strange), "command")
    html_text.encode()
    assert "\x1b" not in html_text
    assert "<b>" not in html_text
    export(STUDY, Store(tmp_path), tmp_path / "t.csv", "csv")
    assert set(pd.read_csv(tmp_path / "t.csv")["host"].str[:2]) == {"'="}
    export(STUDY, Store(tmp_path), tmp_path / "t.parquet", "parquet")


def test_a_mixture_of_surroundings_is_said_and_is_text(tmp_path) -> None:
    store = fill(Store(tmp_path))
    analysis = analyse(STUDY, store)
    assert "different surroundings" not in markdown(analysis, "c", {}) + page(analysis, [], "c")
    trial = STUDY.trial(STUDY.arms[0], 0)
    store.path(trial).unlink()
    made = record(trial, "none")
    store.write(trial, Record(made.result, {**made.provenance, "torch": f"3.0 {FOREIGN}"}))
    analysis = analyse(STUDY, store)
    for text in (markdown(analysis, "c", {}), page(analysis, [], "c")):
        text.encode()
        assert (
            "Trials come from different surroundings, whose bits may differ: torch 2.13.0 (31 trials), 3.0 " in text
        )
        assert "<b>" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize("command", ["run a`b`.toml", "run ``` <b>|", "run `", "run a\nb", "run \x1b[2J\udcff"])
def test_a_command_is_code_whatever_it_is(strange, command) -> None:
    tokens = MarkdownIt("commonmark").parse(markdown(strange, command, {}))
    codes = [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]
    assert command.encode("unicode_escape").decode() in codes
