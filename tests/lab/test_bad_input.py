"""What happens with bad input, as the documentation's table says, row by row; what is finished is never lost."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.child_processes import may_fork
from weight_feedback import lab
from weight_feedback.lab.commands import cli

pytestmark = may_fork

SCRIPT = """
import torch
from weight_feedback import lab

def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
    state = torch.nn.Linear(1, 1)
    for epoch in trial.epochs(2, state=state):
        trial.report(error=shift + trial.rng("noise", str(shift)).normal())
        # here
    return {}

study = lab.Study(
    name="bad", title="Bad", task=train, seeds=4, arms={"plain": {}, "shifted": {"shift": 1.0}},
    metrics={"error": lab.Metric("", better="lower"), "size": lab.Metric("", better="lower")},
    declared=lab.Declared(primary=[("shifted", "plain")], margin=0.1),
)
"""
#: Row of the table to: what to put in place of what, what is said, and how many of eight trials are finished.
ROWS: dict[str, tuple[tuple[str, str], str, int]] = {
    "the module or the function isn't there": (
        ("task=train", 'task="nowhere:train"'),
        "task: 'nowhere:train' can't be imported: No module named 'nowhere'",
        0,
    ),
    "the file raises an error when it is imported": (
        ("import torch", "import torch\nx = 1 / 0"),
        "bad.py: it can't be imported; it raised:",
        0,
    ),
    "a setting has a wrong name": (
        ('{"shift": 1.0}', '{"shft": 1.0}'),
        "arms.1.shft: there is no such field, got 1.0; did you mean shift?",
        0,
    ),
    "a setting has a wrong type": (
        ('{"shift": 1.0}', '{"shift": "1"}'),
        "arms.1.shift: expected a number, got '1'",
        0,
    ),
    "two arms have equal settings": (
        ('{"shift": 1.0}', '{"shift": 0.0}'),
        "arms: each must have other settings, but 'plain' and 'shifted' train the same",
        0,
    ),
    "two arms do the same": (
        ('error=shift + trial.rng("noise", str(shift))', 'error=trial.rng("noise")'),
        "arms differ: plain and shifted gave the same numbers, seed by seed",
        8,
    ),
    "no metric is ever reported": (
        ("trial.report(error=", "dict(error="),
        "ValueError: expected the task to report metrics (error, size), got none",
        0,
    ),
    "the judged metric is never reported": (
        ("trial.report(error=", "trial.report(size="),
        "shifted − plain: verdict withheld: 4 of 4 pairs are missing, more than 5 %.",
        8,
    ),
    "a metric has another name": (
        ("trial.report(error=", "trial.report(eror="),
        "ValueError: expected metrics among error, size, as the study names them, got 'eror'",
        0,
    ),
    "a metric is no number": (
        ("# here", "trial.report(error='low')"),
        "TypeError: error: expected a number, got str",
        0,
    ),
    "a metric is NaN or infinite": (
        ("# here", "trial.report(error=float('nan') if trial.seed == 1 else 0.5 + shift)"),
        "plain, seed 1: diverged at epoch 1, where error is nan; counts as a missing pair.",
        8,
    ),
    "a metric is reported after the last epoch": (
        ("return {}", "trial.report(error=shift)"),
        "verdict withheld: all 4 differences are 1, and without any spread nothing is known of others.",
        8,
    ),
    "some trials report other metrics": (
        ("# here", "trial.report(size=1.0) if trial.seed else None"),
        "bad",
        8,
    ),
    "the loop over epochs is left early": (("# here", "break"), "shifted − plain: ", 8),
    "a second loop over epochs": (
        ("return {}", "list(trial.epochs(2))"),
        "RuntimeError: trial.epochs: expected one loop over epochs in a trial, got a second one",
        0,
    ),
    "a state that can't be saved": (
        ("state=state", "state=object()"),
        "TypeError: trial.epochs: state: expected an object with state_dict() and load_state_dict(), got object",
        0,
    ),
    "a lambda": (
        ("task=train", "task=lambda trial: {}"),
        "task: expected the name of a task, or a function with a name, got <function <lambda>",
        0,
    ),
    "a setting without an annotation": (
        ("shift: float = 0.0", "shift=0.0"),
        "task: bad:train: expected an annotation of the setting 'shift'",
        0,
    ),
    "a trial raises an error": (
        ("# here", "assert trial.seed != 2, 'no data'"),
        "plain, seed 2: failed (AssertionError: no data); missing from all estimates.",
        6,
    ),
    "a trial ends its process": (
        ("# here", "import os; trial.seed == 2 and os._exit(3)"),
        "its process died (exit code 3): something in it called os._exit, or the like, 3 times",
        6,
    ),
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield Path("bad.py")
    sys.modules.pop("bad", None)


@pytest.mark.parametrize("row", ROWS)
def test_what_happens_is_what_the_table_says(written, capsys, row) -> None:
    (old, new), said, finished = ROWS[row]
    assert old in SCRIPT
    written.write_text(SCRIPT.replace(old, new))
    with suppress(SystemExit):
        cli.main(["run", "bad.py", "--jobs", "1"])
    told = capsys.readouterr()
    assert said in (told.out + told.err).replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in told.out
    assert len(list(Path("results/bad/trials").glob("[!.]*.json"))) == finished


def test_a_file_that_was_edited_is_refused_and_its_results_stay(written, capsys) -> None:
    written.write_text(SCRIPT)
    cli.main(["run", "bad.py", "--jobs", "1"])
    kept = {path: path.read_bytes() for path in Path("results/bad/trials").iterdir()}
    sys.modules.pop("bad")
    written.write_text(SCRIPT.replace("epochs(2", "epochs(1 + 1"))
    with pytest.raises(SystemExit):
        cli.main(["run", "bad.py", "--jobs", "1", "--seeds", "5"])
    assert "expected the code that its results come from" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in kept} == kept
    cli.main(["report", "bad.py"])  # what is there is shown


def test_what_cannot_be_digested_is_refused(monkeypatch) -> None:
    thing = object()

    def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        return {"error": float(thing is None)}

    train.__module__ = "nowhere"
    with pytest.raises(ValueError, match="is a object, which can't be digested"):
        lab.Study(name="bad", title="Bad", task=train, seeds=2, arms={"plain": {}, "shifted": {"shift": 1.0}})


def test_the_table_has_these_rows() -> None:
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text("utf-8").partition("## Bad input")[2]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", page.partition("\n## ")[0], re.M)
    assert {name for name, _ in rows} >= {*ROWS}
    spans = {name: re.findall(r"`([^`]*)`", what) for name, what in rows}
    told = {name: [span for span in found if len(span) > 12] for name, found in spans.items()}
    for name, (_, said, _) in ROWS.items():
        for quoted in told[name]:
            assert quoted in said or said in quoted, name
