"""The report's page: whole, the same each time, in need of nothing else, and closed to whatever names contain."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

from helpers.made_up_study import SEEDS, STUDY, fill
from helpers.studies import change_arm
from weight_feedback.lab.report.figures import figures
from weight_feedback.lab.report.page import TEMPLATES, page
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study

COMMAND = "weight-feedback run made-up"
VOID = {"meta", "input", "br", "link", "img"}


class Outline(HTMLParser):
    """Collects elements and texts outside of scripts and styles, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def render(store: Store, study: Study = STUDY, seeds: int = SEEDS) -> str:
    analysis = analyse(study, fill(store, study, seeds))
    return page(analysis, figures(analysis), COMMAND)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_the_page_says_everything(tmp_path) -> None:
    store = Store(tmp_path)
    html = render(store)
    found = outline(html)
    text = re.sub(r"\s+", " ", found.text)
    analysis = analyse(STUDY, store)
    for part in (
        "Made up",
        *analysis.sentences,
        "Differences of final accuracy",
        "No trial failed or diverged.",
        STUDY.declaration(),
        COMMAND,
        "2.13.0",
        "10,050",
        "own − none; own − yoked",
    ):
        assert part in text, part
    charts = [attrs["id"] for tag, attrs in found.elements if attrs.get("class") == "chart"]
    assert charts == ["forest", "curves", "differences", "swaps", "z_norm", "z_drift", "z_share"]
    assert ("html", {"lang": "en"}) in found.elements
    headings = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))
    assert "Exploratory" not in text


def test_the_same_trials_give_the_same_page(tmp_path) -> None:
    assert render(Store(tmp_path / "a")) == render(Store(tmp_path / "b"))


def test_nothing_is_fetched(tmp_path) -> None:
    found = outline(render(Store(tmp_path)))
    assert not [
        attrs
        for _, attrs in found.elements
        if {"src", "href", "data", "action"} & attrs.keys() and attrs.get("href") != "#verdicts"
    ]
    (policy,) = (attrs["content"] for _, attrs in found.elements if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_policy_lets_in_what_was_written_here(tmp_path) -> None:
    html = render(Store(tmp_path))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    allowed = {kind: re.findall(f"{kind}-src ([^;]*);", policy) for kind in ("script", "style")}
    found = {kind: re.findall(f"<{kind}>(.*?)</{kind}>", html, re.S) for kind in allowed}
    for kind, parts in found.items():
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert allowed[kind] == [" ".join(f"'sha256-{digest}'" for digest in digests)]
    assert found["style"] == [(TEMPLATES / "report.css").read_text("utf-8")]
    library, script = found["script"]
    assert script == (TEMPLATES / "report.js").read_text("utf-8")
    assert "vegaEmbed" in library


def test_names_are_text(tmp_path) -> None:
    name = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"><b>&amp;{{7*7}}'
    arms = tuple(arm.model_copy(update={"label": f"{arm.name}{name}"}) for arm in STUDY.arms)
    study = STUDY.model_copy(update={"arms": arms, "title": name})
    html = render(Store(tmp_path / "hostile"), study)
    plain, found = outline(render(Store(tmp_path / "plain"))), outline(html)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert f"own{name}" in found.text
    (data,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html, re.S)
    assert not re.search("[<>&]", data)
    assert f"own{name}" in str(json.loads(data))


def test_an_extension_is_marked_as_exploratory(tmp_path) -> None:
    text = re.sub(r"\s+", " ", outline(render(Store(tmp_path), seeds=SEEDS + 2)).text)
    assert f"Exploratory: {SEEDS + 2} seeds" in text
    assert f"declared with {SEEDS} seeds; more were added later" in text


def test_settings_tell_arms_apart_that_differ_in_their_salt_alone(tmp_path) -> None:
    study = STUDY.model_copy(update={"arms": (*STUDY.arms[:3], change_arm(STUDY.arms[3], salt=7))})
    text = outline(render(Store(tmp_path), study)).text
    assert "model mnist-plain, signal own, conditioning concat, salt 7" in text
    assert "model mnist-plain, signal yoked, conditioning concat, salt 0" in text


def cells(html: str) -> list[list[str]]:
    """The rows of the table of settings."""
    (body,) = re.findall(r"<caption>Settings of the study</caption>.*?<tbody>(.*?)</tbody>", html, re.S)
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall("<tr>.*?</tr>", body)
    ]


def test_settings_are_all_there_whether_a_study_declares_something_or_not(tmp_path) -> None:
    plain = STUDY.model_copy(update={"declared": None})
    shows, decides = cells(render(Store(tmp_path / "plain"), plain)), cells(render(Store(tmp_path / "declared")))
    rows = dict(shows)
    assert len(rows) == len(shows)
    assert (rows["task"], rows["data"], rows["seeds"]) == ("notebook", "generated", "0 to 7")
    trial = STUDY.trial(STUDY.arms[3], 0)
    for prefix, settings in (("training", trial.training), ("summary", trial.summary)):
        for name, value in settings.model_dump(mode="json", exclude_none=True).items():
            assert rows[f"{prefix}.{name}"] == (value if isinstance(value, str) else json.dumps(value))
    assert rows["arm none"] == "model mnist-plain, signal none, conditioning concat, salt 0"
    assert rows["arm own"] == "model mnist-plain, signal own, conditioning concat, salt 0"
    assert list(rows)[-4:] == [f"arm {arm.name}" for arm in STUDY.arms]
    # A declaration adds what it says, and takes nothing away.
    assert [row for row in decides if row not in shows] == [
        ["primary contrasts", "own − none; own − yoked"],
        ["outcome", "final accuracy"],
        ["margin of equivalence", "±0.5 points"],
        ["confidence", "0.95"],
        ["error rate", "of each family of claims"],
    ]
    assert [row for row in decides if row in shows] == shows
    unsummarised = plain.model_copy(
        update={
            "settings": {name: value for name, value in plain.settings.items() if name != "summary"},
            "arms": plain.arms[:1],
        }
    )
    rows = cells(render(Store(tmp_path / "unsummarised"), unsummarised))
    assert [row for row in shows if not row[0].startswith("summary.")][:-3] == rows


def test_other_states_of_a_study(tmp_path) -> None:
    plain = STUDY.model_copy(update={"declared": None})
    assert "shows and doesn't decide" in outline(render(Store(tmp_path / "plain"), plain)).text
    store = fill(Store(tmp_path / "waiting"))
    trial = STUDY.trial(STUDY.arms[3], 0)
    store.path(trial).unlink()
    analysis = analyse(STUDY, store)
    assert "No verdicts yet: 1 trials" in outline(page(analysis, figures(analysis), COMMAND)).text
    store.fail(trial, "MemoryError: <no room>")
    analysis = analyse(STUDY, store)
    text = outline(page(analysis, figures(analysis), COMMAND)).text
    assert "failed (MemoryError: <no room>)" in text
    assert "verdict withheld" in text
