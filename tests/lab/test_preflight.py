"""Preflight says what is wrong with a training before it is compared, and nothing of a training that is right."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.child_processes import may_fork
from helpers.own_training import study as own_study
from weight_feedback import lab
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution import preflight as module
from weight_feedback.lab.execution.preflight import preflight
from weight_feedback.lab.store.checks import Check, read_checks, write_checks
from weight_feedback.lab.store.store import Damaged
from weight_feedback.lab.study.scripts import load_script
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.training.evaluations import watch_evaluations

pytestmark = may_fork
NAMES = [
    "repeatable",
    "seeds differ",
    "arms differ",
    "streams",
    "resumes",
    "evaluating changes nothing",
    "trials leave nothing",
    "metrics",
    "the metric moves",
]


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> None:
    """Let fresh processes import what is in this file."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])


def of(train: Callable[..., Any], **changes: Any) -> Study:
    fields = {
        "name": "checked",
        "title": "Checked",
        "task": train,
        "seeds": 4,
        "arms": {"plain": {}, "shifted": {"shift": 1.0}},
        "metrics": {"error": lab.Metric("", "lower")},
    }
    return Study(**{**fields, **changes})


def found(train: Callable[..., Any], **changes: Any) -> dict[str, Check]:
    return {check.name: check for check in preflight(of(train, **changes), device="cpu")}


def verdicts(checks: dict[str, Check]) -> dict[str, str]:
    """Return the verdicts of those that didn't pass."""
    return {name: check.verdict for name, check in checks.items() if check.verdict != "passed"}


class Counter:
    """A state of its own."""

    def __init__(self) -> None:
        self.value = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]


def fine(trial: lab.Context, *, shift: float = 0.0) -> None:
    count = Counter()
    for _ in trial.epochs(5, count=count):
        count.value += float(trial.rng("noise").normal()) + random.random() + shift
        trial.report(error=count.value)


def test_a_training_that_is_right_passes() -> None:
    checks = found(fine)
    assert [*checks] == NAMES
    assert verdicts(checks) == {"evaluating changes nothing": "not tried"}
    assert checks["streams"].said == "shared by the arms of a seed: noise"


def test_networks_that_are_trained_as_usual_pass() -> None:
    checks = {check.name: check for check in preflight(own_study(workers=2), device="cpu")}
    assert verdicts(checks) == {"evaluating changes nothing": "not tried"}
    assert checks["streams"].said == "shared by the arms of a seed: data, order, noise"


def never_the_same(trial: lab.Context, *, shift: float = 0.0) -> None:
    for _ in trial.epochs(3):
        trial.report(error=shift + int.from_bytes(os.urandom(4), "big"))


def without_the_seed(trial: lab.Context, *, shift: float = 0.0) -> None:
    for epoch in trial.epochs(3):
        trial.report(error=shift + epoch)


def without_the_setting(trial: lab.Context, *, shift: float = 0.0) -> None:
    for _ in trial.epochs(3):
        trial.report(error=trial.rng("noise").normal())


def unnamed_state(trial: lab.Context, *, shift: float = 0.0) -> None:
    total = 0.0
    for _ in trial.epochs(3):
        total += trial.rng("noise").normal() + shift
        trial.report(error=total)


def a_loop_of_its_own(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
    return {"error": shift + trial.rng("noise").normal()}


def that_never_moves(trial: lab.Context, *, shift: float = 0.0) -> None:
    start = trial.rng("noise").normal()
    for _ in trial.epochs(3):
        trial.report(error=start + shift)


def that_diverges(trial: lab.Context, *, shift: float = 0.0) -> None:
    for epoch in trial.epochs(3):
        trial.report(error=math.nan if epoch == 2 else trial.rng("noise").normal() + shift)


def with_streams_apart(trial: lab.Context, *, shift: float = 0.0) -> None:
    for _ in trial.epochs(3):
        drawn = trial.rng("noise").normal(size=2 if shift else 1).sum()
        drawn += trial.rng("more").normal() if shift else 0
        trial.report(error=drawn)


def without_streams(trial: lab.Context, *, shift: float = 0.0) -> None:
    for _ in trial.epochs(3):
        trial.report(error=random.random() + shift)


LEFT = [0.0]


def leaving_something(trial: lab.Context, *, shift: float = 0.0) -> None:
    LEFT[0] += 1
    for _ in trial.epochs(3):
        trial.report(error=trial.rng("noise").normal() + shift + LEFT[0])


def that_returns_another(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
    for _ in trial.epochs(3):
        trial.report(error=trial.rng("noise").normal() + shift)
    return {"final": 1.0}


@pytest.mark.parametrize(
    ("train", "verdict", "name", "said"),
    [
        (
            never_the_same,
            "failed",
            "repeatable",
            r"other numbers the second time \(error after epoch 1: \d.* and \d",
        ),
        (without_the_seed, "failed", "seeds differ", "nothing depends on the seed"),
        (without_the_setting, "noted", "arms differ", "plain and shifted gave the same numbers, seed by seed"),
        (unnamed_state, "failed", "resumes", r"went on to other numbers \(error after epoch 2: "),
        (a_loop_of_its_own, "not tried", "resumes", "a trial that is killed starts over"),
        (that_never_moves, "failed", "the metric moves", "error was the same after both epochs, in both arms"),
        (that_diverges, "failed", "metrics", "a trial diverged at epoch 2, where error is nan"),
        (with_streams_apart, "noted", "streams", "drawn from differently: noise; in shifted alone: more"),
        (without_streams, "noted", "streams", "no named stream"),
        (leaving_something, "noted", "trials leave nothing", "such as a global or a cache"),
    ],
)
def test_what_is_wrong_is_said(train, verdict, name, said) -> None:
    check = found(train)[name]
    assert check.verdict == verdict
    assert re.search(said, check.said)


DRAWN_AT_IMPORT = """
    import random
    from weight_feedback import lab

    DRAWN = [{0}]

    def train(trial: lab.Context, *, shift: float = 0.0) -> None:
        first = {1}
        for _ in trial.epochs(3):
            trial.report(error=trial.rng("noise").normal() + shift + first)

    study = lab.Study(
        name="drawn", title="Drawn", task=train, seeds=2, arms={{"plain": {{}}, "shifted": {{"shift": 1.0}}}},
        metrics={{"error": lab.Metric("", better="lower")}},
    )
"""


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize(
    ("drawn", "used"),
    [
        ("object(), random.random()", "DRAWN[1]"),
        ("str(i) for i in range(50)", "[int(text) for text in {*DRAWN}][0]"),
    ],
    ids=["drawn at import", "order of a set"],
)
def test_what_differs_between_processes_is_not_repeatable(tmp_path, monkeypatch, short, drawn, used) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "drawn_at.py").write_text(textwrap.dedent(DRAWN_AT_IMPORT.format(drawn, used)))
    try:
        checks = {one.name: one for one in preflight(load_script(str(tmp_path / "drawn_at.py")), short=short)}
    finally:
        sys.modules.pop("drawn_at")
    assert checks["repeatable"].verdict == "failed"
    assert "error after epoch 1" in checks["repeatable"].said


def only_returned(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
    for _ in trial.epochs(3):
        pass
    return {"error": shift}


def coarse(trial: lab.Context, *, shift: float = 0.0) -> None:
    count = Counter()
    for _ in trial.epochs(3, count=count):
        count.value += trial.rng("noise").normal() + shift
        trial.report(error=1.0)


def test_what_says_nothing_yet_is_no_fault() -> None:
    checks = found(only_returned)
    assert {checks[name].verdict for name in ("seeds differ", "arms differ")} == {"not tried"}
    checks = found(coarse)
    assert {checks[name].verdict for name in ("seeds differ", "arms differ")} == {"passed"}


def test_metrics_that_come_later_are_noted() -> None:
    metrics = {"error": lab.Metric("", "lower"), "final": lab.Metric("", "lower")}
    check = found(that_returns_another, metrics=metrics)["metrics"]
    assert check.verdict == "noted"
    assert check.said.startswith("final: not reported so far (reported: error)")


def evaluated(eval_first: bool, layer: Callable[[], nn.Module]) -> Callable[..., None]:
    def train(trial: lab.Context, *, shift: float = 0.0) -> None:
        net = nn.Sequential(nn.Linear(2, 4), layer(), nn.Linear(4, 1))
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        for _ in trial.epochs(3, net=net, optimiser=optimiser):
            net.train()
            optimiser.zero_grad()
            net(torch.rand(8, 2, generator=trial.stream("data"))).square().mean().backward()
            optimiser.step()
            if eval_first:
                net.eval()
            with torch.inference_mode():
                trial.report(error=net(torch.ones(4, 2)).mean() + shift)

    return train


@pytest.mark.parametrize(
    ("eval_first", "layer", "verdict", "said"),
    [
        (True, lambda: nn.BatchNorm1d(4), "passed", "changed no buffer"),
        (
            False,
            lambda: nn.BatchNorm1d(4),
            "noted",
            "changed 1.num_batches_tracked, 1.running_mean, 1.running_var",
        ),
        (True, lambda: nn.Dropout(0.5), "passed", "drew nothing at random"),
        (False, lambda: nn.Dropout(0.5), "noted", "drew random numbers, as dropout in training mode does"),
    ],
    ids=["norm, eval", "norm, train", "dropout, eval", "dropout, train"],
)
def test_evaluating_that_changes_what_is_trained_is_seen(eval_first, layer, verdict, said) -> None:
    check = found(evaluated(eval_first, layer))["evaluating changes nothing"]
    assert check.verdict == verdict
    assert said in check.said


def test_watching_ends_and_survives_errors() -> None:
    class Failing(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    net = nn.BatchNorm1d(2)
    with watch_evaluations() as seen, torch.no_grad():
        with pytest.raises(ValueError, match="no"):
            Failing()(torch.ones(2, 2))
        net(torch.ones(2, 2))
    assert (seen.number, seen.changed) == (2, {"running_mean", "running_var", "num_batches_tracked"})
    with torch.no_grad():
        net(torch.ones(2, 2))
    assert seen.number == 2


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a task of your own; notebook is built in"):
        preflight(lab.load_study("quick"))
    with pytest.raises(ValueError, match="a study of at least two arms"):
        preflight(of(fine, arms={"plain": {}}))


def test_what_the_task_raises_is_raised() -> None:
    class OwnError(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} of {b}")

    def failing(trial: lab.Context, *, shift: float = 0.0) -> None:
        raise OwnError(1, 2)

    with pytest.raises(RuntimeError, match="OwnError: 1 of 2"):
        preflight(of(failing), device="cpu")


def test_its_cost_is_said_and_the_short_form_costs_little(monkeypatch) -> None:
    said: list[str] = []
    assert len(preflight(of(fine), device="cpu", tell=said.append)) == len(NAMES)
    assert said[0].startswith("preflight: 11 more epochs of plain and shifted, about ")
    short = preflight(of(fine), device="cpu", short=True, tell=said.append)
    assert [check.name for check in short] == [name for name in NAMES if name in {one.name for one in short}]
    assert len(short) == 5
    same = {check.name: check for check in preflight(of(without_the_setting), device="cpu", short=True)}
    assert same["arms differ"].verdict == "noted"  # it may be too early
    monkeypatch.setattr(module, "SHORT_SECONDS", 0.0)
    assert preflight(of(fine), device="cpu", short=True, tell=said.append) == []
    assert said[-1].startswith("preflight: left out, since an epoch takes ")


FAULTY = """
    import os
    from weight_feedback import lab

    def train(trial: lab.Context, *, shift: float = 0.0) -> None:
        for epoch in trial.epochs(2):
            trial.report(error=int.from_bytes(os.urandom(2), "big") / 2**16 + shift)

    study = lab.Study(
        name="faulty", title="Faulty", task=train, seeds=6, arms={"plain": {}, "shifted": {"shift": 1.0}},
        metrics={"error": lab.Metric("", better="lower")},
        declared=lab.Declared(primary=[("shifted", "plain")], margin=0.1),
    )
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "faulty.py").write_text(textwrap.dedent(FAULTY))
    yield lab.Store("results/faulty")
    sys.modules.pop("faulty", None)


def test_what_failed_stays_in_the_report(faulty, capsys) -> None:
    cli.main(["preflight", "faulty.py", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "Faulty: preflight" in out
    assert "failed" in out
    kept = read_checks(faulty.folder)
    assert [check.name for check in kept.checks] == NAMES
    assert {check.name for check in kept.failed} == {"repeatable", "resumes"}
    cli.main(["run", "faulty.py", "--jobs", "1"])
    out = capsys.readouterr().out
    assert "makes more" not in out  # this code has had a longer one, whose checks stay
    assert len(read_checks(faulty.folder).checks) == len(NAMES)
    assert "Not repeatable, by a preflight: the same arm and seed gave other numbers" in out
    for name in ("report.md", "report.html"):
        assert "Not repeatable, by a preflight" in (faulty.folder / name).read_text()
    assert "faulty: 2 arms × 6 seeds" in (faulty.folder / "report.html").read_text()
    cli.main(["run", "faulty.py", "--jobs", "1"])
    capsys.readouterr()
    # Of other code it says nothing.
    write_checks(faulty.folder, "0" * 64, kept.checks)
    cli.main(["report", "faulty.py"])
    assert "Not repeatable" not in (faulty.folder / "report.md").read_text()


def test_a_task_that_raises_is_said_and_run_nevertheless(faulty, capsys) -> None:
    path = faulty.folder.parents[1] / "faulty.py"
    path.write_text(path.read_text().replace("for epoch in", "raise ValueError('no data')\n    for epoch in"))
    with pytest.raises(SystemExit):
        cli.main(["run", "faulty.py", "--jobs", "1"])
    said = capsys.readouterr()
    assert "preflight: ValueError: no data" in said.out
    assert "all 12 trials that were run failed:" in said.err
    assert "Their tracebacks are in results/faulty/failures" in said.err
    with pytest.raises(SystemExit):
        cli.main(["preflight", "faulty.py"])
    said = capsys.readouterr().err
    assert "error: preflight: ValueError: no data" in said
    assert "in train" in said  # its traceback


def test_each_check_that_can_fail_is_said_in_words() -> None:
    for name in NAMES:
        if name not in ("streams", "trials leave nothing"):  # which are noted at most
            warning = Check(name=name, verdict="failed", said="so").warning
            assert warning.endswith(", by a preflight: so.")
            assert (": failed" in warning) == (name == "metrics")


def test_a_damaged_file_is_named(tmp_path) -> None:
    write_checks(tmp_path, "0", (Check(name="a", verdict="passed", said="b"),))
    assert json.loads((tmp_path / "preflight.json").read_text())["checks"][0]["name"] == "a"
    (tmp_path / "preflight.json").write_text("{}")
    with pytest.raises(Damaged, match="expected what a preflight found; the file is damaged: remove it"):
        read_checks(tmp_path)


def test_a_preflight_changes_no_result(tmp_path) -> None:
    kept = []
    for checked in (False, True):
        store = lab.Store(tmp_path / str(checked))
        if checked:
            preflight(of(fine), device="cpu")
        lab.run(of(fine), store, jobs=1, seeds=1)
        kept.append([store.read(trial).result for _, trial in of(fine).trials(seeds=1)])
    assert kept[0] == kept[1]
    assert len({json.dumps(one) for one in itertools.chain(*kept)}) == 2
    assert np.isfinite(kept[0][0]["metrics"]["error"]).all()
