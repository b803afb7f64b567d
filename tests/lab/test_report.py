"""Tables and the report in Markdown: what they say, and that nothing in a study file can spoil them."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.child_processes import stand_ins
from helpers.made_up_study import ACCURACY, LOSS, SEEDS, STUDY, fill, record
from helpers.studies import change, document
from weight_feedback.lab.commands.cli import main
from weight_feedback.lab.report.markdown import arm_cells, contrast_cells, failures, interval, markdown, swap_cells
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.statistics.estimates import Interval
from weight_feedback.lab.store.store import Store

COMMAND = "weight-feedback run made-up"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_cells_of_arms(store) -> None:
    arms = analyse(STUDY, fill(store)).arms
    headings, rows = arm_cells(STUDY, arms)
    assert headings == [
        "arm",
        "parameters",
        "seeds",
        "final accuracy, %",
        "best accuracy (optimistic), %",
        "final test loss, nats",
    ]
    assert [row[:3] for row in rows] == [
        [f"{name} | <b>", parameters, "8"]
        for name, parameters in zip(
            ("none", "constant", "yoked", "own"), ("9,950", "10,050", "10,050", "10,050"), strict=True
        )
    ]
    assert rows[3][3].startswith(f"{ACCURACY[3, :SEEDS, -1].mean():.2f} [")
    assert rows[3][4].startswith(f"{ACCURACY[3, :SEEDS].max(axis=1).mean():.2f} [")
    assert rows[3][5].startswith(f"{LOSS[3, :SEEDS, -1].mean():.4f} [")
    assert arm_cells(STUDY, arms, means=False) == (headings, [[*row[:3], "–", "–", "–"] for row in rows])


def test_the_best_value_is_that_of_the_judged_metric(store) -> None:
    declared = STUDY.declared.model_copy(update={"metric": "loss"})
    study = STUDY.model_copy(update={"declared": declared})
    headings, rows = arm_cells(study, analyse(study, fill(store, study)).arms)
    assert headings[3:] == ["final accuracy, %", "final test loss, nats", "best test loss (optimistic), nats"]
    assert rows[3][5].startswith(f"{LOSS[3, :SEEDS].min(axis=1).mean():.4f} [")


def test_a_single_epoch_has_no_best_one(store) -> None:
    study = change(STUDY, training={"epochs": 1})
    headings, rows = arm_cells(study, analyse(study, fill(store, study)).arms)
    assert headings == ["arm", "parameters", "seeds", "final accuracy, %", "final test loss, nats"]
    assert {len(row) for row in rows} == {5}


def test_intervals_are_shown_where_there_are_any() -> None:
    assert interval(Interval(-1.25, -2.0, 3.0), 1) == "−1.2 [−2.0, 3.0]"
    assert interval(Interval(1.0, np.nan, np.nan), 2) == "1.00"
    assert interval(Interval(-0.0001, -0.004, 0.004), 2) == "0.00 [0.00, 0.00]"
    assert interval(Interval(np.nan, np.nan, np.nan), 2) == "–"


def test_cells_of_contrasts_leave_blank_what_cannot_be_said(store, tmp_path) -> None:
    headings, rows = contrast_cells(analyse(STUDY, fill(store)).contrasts, "nats")
    assert headings[3] == "difference, nats"
    assert rows[0][:3] == ["own − none", "yes", "8"]
    study = STUDY.model_copy(update={"seeds": 1})
    _, (first, *_) = contrast_cells(analyse(study, fill(Store(tmp_path / "single"), study, 1)).contrasts)
    assert first[4:8] == ["–", "–", "–", "–"]
    assert first[9] == "–"


def test_cells_of_swaps(store) -> None:
    headings, rows = swap_cells(analyse(STUDY, fill(store)))
    assert headings == ["arm", "evaluated under", "seeds", "accuracy, %", "change, points"]
    assert [row[:3] for row in rows] == [
        ["own", "z = 0", "8"],
        ["own", "its initial z", "8"],
        ["own", "another seed's final z", "8"],
    ]
    assert rows[0][4].startswith("−2.350 [")


def test_markdown_is_whole_and_harmless(store) -> None:
    study = STUDY.model_copy(update={"declared": None})
    text = markdown(analyse(study, fill(store, study)), COMMAND, {"means": "accuracy.png"})
    assert r"| none \| &lt;b> | 9,950 | 8 |" in text
    for part in ("# Made up", "](accuracy.png)", f"`{COMMAND}`", "learning rate 0.01", "torch 2.13.0"):
        assert part in text
    assert "Declaration" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\n\n# b\r\nc", "a # b c"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("![x](http://x)", r"![x]\(http://x)"),
        ("`a` \\| b", r"\`a\` \\\| b"),
    ],
)
def test_names_are_text_in_markdown(store, name, shown) -> None:
    arms = (STUDY.arms[0].model_copy(update={"label": name}), *STUDY.arms[1:])
    study = STUDY.model_copy(update={"title": name, "arms": arms})
    lines = markdown(analyse(study, fill(store, study)), COMMAND, {}).splitlines()
    assert lines[0] == f"# {shown}"
    assert any(line.startswith(f"| {shown} | 9,950 |") for line in lines)


def test_the_report_of_a_declared_study_begins_with_its_verdicts(store) -> None:
    analysis = analyse(STUDY, fill(store, seeds=SEEDS + 2))
    text = markdown(analysis, COMMAND, {"means": "accuracy.png", "forest": "figures/forest.png"})
    assert text.splitlines()[2:4] == [f"- {sentence}" for sentence in analysis.sentences]
    for part in (
        "](accuracy.png)",
        "](figures/forest.png)",
        f"`{STUDY.declaration()}`",
        "±0.5 points",
        "| constant − none | no | 8 |",
        "| constant − none | no | 10 |",
        "Exploratory, with 10 seeds, of which 8 were declared",
        "| own | z = 0 | 8 |",
    ):
        assert part in text


def test_failures_are_said_one_by_one(store) -> None:
    fill(store)
    trial = next(trial for arm, trial in STUDY.trials() if arm.name == "own")
    store.path(trial).unlink()
    store.fail(trial, "MemoryError: no <room>\nTraceback …")
    analysis = analyse(STUDY, store)
    assert failures(analysis) == ["own, seed 0: failed (MemoryError: no <room>); missing from all estimates."]
    assert "- own, seed 0: failed (MemoryError: no &lt;room>)" in markdown(analysis, COMMAND, {})


def test_divergences_are_said_with_what_they_count_as(store) -> None:
    fill(store)
    trial = STUDY.trial(STUDY.arms[3], 1)
    store.path(trial).unlink()
    store.write(trial, record(trial, "own", epochs=2))
    said = "own, seed 1: diverged at step 17; counts as accuracy of 10 % from then on."
    assert failures(analyse(STUDY, store)) == [said]


def test_some_arms_are_shown_with_the_verdicts_of_all(store) -> None:
    whole = analyse(STUDY, fill(store, seeds=SEEDS + 2))
    some = analyse(STUDY, store, arms=["own", "none", "own"])
    assert [result.arm.name for result in some.arms] == ["none", "own"]
    between = [row for row in whole.contrasts if {row.a, row.b} == {"own", "none"}]
    assert some.contrasts == between
    assert [row.verdict for row in some.contrasts] == [whole.contrasts[0].verdict]
    # Alone, a contrast would have smaller p-values: Holm's correction is of two.
    assert some.contrasts[0].judged.flip_p > some.contrasts[0].estimate.flip_p
    assert len(some.exploratory) == 1
    assert {swap.arm for swap in some.swaps} == {"own"}
    assert len(some.provenance) == 2 * SEEDS
    said = (
        "Shown: some arms (none, own), of 4. Verdicts and adjusted p-values are those of the whole declared family"
    )
    assert some.choice.startswith(said)
    assert whole.choice == ""
    assert analyse(STUDY, store, arms=["constant"]).contrasts == []
    with pytest.raises(ValueError, match="arms: expected names among none, constant, yoked, own, got 'nobody'"):
        analyse(STUDY, store, arms=["nobody"])


def test_a_report_of_some_arms_stands_beside_that_of_all(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "made-up.toml").write_text(document(STUDY.model_dump(mode="json", exclude_none=True)))
    folder = tmp_path / "results" / "made-up"
    fill(Store(folder))
    with stand_ins():
        main(["report", "made-up.toml"])
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        capsys.readouterr()
        main(["report", "made-up.toml", "--arms", "own", "none"])
    out = capsys.readouterr().out
    assert "Shown: some arms (none, own), of 4." in out
    assert "own − none: " in out
    assert "yoked" not in out
    assert {path: path.read_bytes() for path in before} == before
    new = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in before}
    assert {"report-own-none.html", "report-own-none.md", "accuracy-own-none.png"} <= new
    assert {name.partition("/")[0] for name in new if "/" in name} == {"figures-own-none"}
    text = (folder / "report-own-none.md").read_text(encoding="utf-8")
    assert "Shown: some arms (none, own), of 4. Verdicts" in text
    assert "figures-own-none/forest.png" in text
    assert "| yoked" not in text
    assert "Made by: `weight-feedback run made-up.toml`\n" in text  # of which the verdicts need all arms
    assert "Shown: some arms (none, own), of 4. Verdicts" in (folder / "report-own-none.html").read_text("utf-8")
