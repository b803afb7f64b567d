"""Tasks that aren't built in go all the way: they run, die, resume, merge, are judged, shown and exported."""

from __future__ import annotations

import html
import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import weight_feedback.lab
from helpers.child_processes import stand_ins
from helpers.fake_tasks import SECONDS, THREE
from helpers.recording_watcher import Watched
from weight_feedback import lab
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution.progress import Progress, ProgressFiles
from weight_feedback.lab.execution.trackers import make_tracker, metrics
from weight_feedback.lab.report.export import rows
from weight_feedback.lab.statistics.outcomes import study_outcome
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError, load_study
from weight_feedback.lab.tasks.base import PlainTrial
from weight_feedback.lab.training.run import Options, run_trial

ENGINE = ("training", "execution", "store", "statistics", "report")
#: Words of the notebook's networks, which the engine doesn't know.
ITS_WORDS = re.compile(r"convnet|fc1|images?\b|labels\b|accurac", re.IGNORECASE)


def regression(**changes: Any) -> Study:
    fields = {
        "name": "regression",
        "title": "A regression",
        "task": "helpers.linear_regression:REGRESSION",
        "seeds": 3,
        "arms": {"plain": {}, "ridge": {"ridge": 0.3}},
    }
    return Study.model_validate({**fields, **changes})


def seconds(**changes: Any) -> Study:
    fields = {
        "name": "seconds",
        "title": "How long it takes",
        "task": "helpers.fake_tasks:SECONDS",
        "seeds": 12,
        "arms": {"before": {}, "after": {"slower": -0.5}},
        "declared": {"primary": [["after", "before"]], "margin": 0.2},
    }
    return Study.model_validate({**fields, **changes})


def three(**changes: Any) -> Study:
    fields = {
        "name": "three",
        "title": "Three metrics",
        "task": "helpers.fake_tasks:THREE",
        "seeds": 6,
        "arms": {"a": {}, "b": {"shift": 0.25}},
        "declared": {
            "primary": [["b", "a"]],
            "margin": 0.1,
            "metric": "test_loss",
            "outcome": "at-best-of",
            "of": "validation_loss",
        },
    }
    return Study.model_validate({**fields, **changes})


def test_the_engine_knows_no_word_of_its_tasks() -> None:
    package = Path(weight_feedback.lab.__file__).parent
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for name in ENGINE
        for path in sorted((package / name).rglob("*"))
        if path.suffix in (".py", ".html", ".js", ".css")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if ITS_WORDS.search(line)
    ]
    assert found == []


def test_a_task_in_numpy_runs_and_is_judged(tmp_path) -> None:
    study, store = regression(), Store(tmp_path)
    assert lab.run(study, store, jobs=1) == 6
    record = store.read(study.trial(study.arms[1], 2))
    assert record.result["trial"] == {
        "task": "helpers.linear_regression:REGRESSION",
        "settings": {"lr": 0.1, "ridge": 0.3, "epochs": 5},
        "seed": 2,
    }
    assert len(record.result["metrics"]["error"]) == 5
    analysis = lab.analyse(study, store)
    for arm, result in zip(study.arms, analysis.arms, strict=True):
        curves = [store.read(study.trial(arm, seed)).result["metrics"]["error"] for seed in range(3)]
        np.testing.assert_array_equal(result.curves["error"], curves)
    assert lab.run(study, store, jobs=1) == 0


def test_the_same_settings_give_the_same_bits_whatever_was_interrupted(tmp_path) -> None:
    trial = regression().trial(regression().arms[1], 4)
    whole = run_trial(trial, Options(threads=1)).result
    path = tmp_path / "checkpoint"

    class Cut(Exception):  # noqa: N818
        pass

    for last in (1, 2, 4):

        def interrupt(epoch: int, _: object, last: int = last) -> None:
            if epoch == last:
                raise Cut

        with pytest.raises(Cut):
            run_trial(trial, Options(checkpoint=path, checkpoint_seconds=0, threads=1, on_epoch=interrupt))
    record = run_trial(trial, Options(checkpoint=path, checkpoint_seconds=0, threads=1))
    assert record.result == whole
    assert record.provenance["resumed"] == 3


def test_killed_trials_go_on_where_they_were(tmp_path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    study = regression(task="helpers.fake_tasks:MORTAL", seeds=1, marks=str(marks))
    store = Store(tmp_path / "out")
    with pytest.warns(UserWarning, match="its process died"):
        lab.run(study, store, jobs=2, checkpoint_seconds=0)
    for arm, trial in study.trials():
        record = store.read(trial)
        assert record.provenance["resumed"] >= 1
        plain = regression(seeds=1)
        expected = run_trial(plain.trial(plain.choose([arm.name]) and arm, trial.seed), Options(threads=1)).result
        assert record.result["metrics"] == expected["metrics"]
    assert len(list(marks.iterdir())) == 2


def test_results_of_two_machines_are_merged_and_read_without_the_task(tmp_path) -> None:
    study = three()
    for part in ("1/2", "2/2"):
        lab.run(study, Store(tmp_path / part[0]), jobs=1, shard=lab_shard(part))
    merged = merge(tmp_path / "both", [tmp_path / "1", tmp_path / "2"])
    assert merged.trials == 12
    command = [sys.executable, "-c", REPORT, str(tmp_path / "both")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "b − a: worse" in said
    assert (tmp_path / "both" / "report.html").exists()


#: Without the folder of the tasks.
REPORT = """
import sys
import tomllib
sys.path = [path for path in sys.path if not path.rstrip("/").endswith("tests")]
from weight_feedback.lab.commands.cli import main
main(["report", sys.argv[1]])
main(["export", sys.argv[1]])
assert not any(name.startswith("helpers") or name == "torch" for name in sys.modules)
"""


def lab_shard(text: str) -> Any:
    from weight_feedback.lab.study.shards import parse_shard

    return parse_shard(text)


def test_what_lies_with_results_can_be_reported_and_not_run(tmp_path) -> None:
    study, store = seconds(), Store(tmp_path / "seconds")
    lab.run(study, store, jobs=1)
    known = load_study(str(store.folder))
    assert known == study.fill_in()
    assert [trial.key() for _, trial in known.trials()] == [trial.key() for _, trial in study.trials()]
    assert all(isinstance(trial, PlainTrial) for _, trial in known.trials())
    with pytest.raises(ValueError, match="seconds: was read from its results, whose task isn't imported"):
        lab.run(known, store, jobs=1)
    kept = store.folder / "study.json"
    for content in ("[]", "{", "{}", kept.read_text().replace("true", "false")):
        kept.write_text(content)
        with pytest.raises(StudyError, match="not a study as it lies with results"):
            load_study(str(store.folder))


def shown(text: str) -> str:
    """What is said of a study, without statistics' own percentages and without the library that draws."""
    text = html.unescape(text)
    text = re.sub(r"<script>.*?</script>|<style>.*?</style>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    return re.sub(r"[\d.]+ % ((Student's t |bootstrap )?intervals?|power|for )|most \d+ %|own \d+ %", "", text)


#: Of accuracies of images, in which every study was measured once.
FOREIGN = re.compile(r"accurac|points\b|%|digits|epoch loss|networks?\b|hears?\b|chance\b", re.IGNORECASE)


def everything_said(study: Study, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Run and report a study; return all texts that come of it."""
    lab.run(study, Store(out / study.name), jobs=1)
    with stand_ins():
        for command in ("report", "plot", "export"):
            cli.main([command, str(out / study.name)])
    folder = out / study.name
    said = {"terminal": capsys.readouterr().out}
    for path in (*folder.glob("report.*"), *folder.glob("figures/*.csv"), folder / "trials.csv"):
        said[path.name] = shown(path.read_text("utf-8"))
    return said


def test_a_study_of_seconds_speaks_of_seconds_alone(tmp_path, capsys) -> None:
    said = everything_said(seconds(arms={"before": {}, "after": {"slower": -0.5}}), tmp_path, capsys)
    assert {"report.md", "report.html", "values.csv", "forest.csv", "differences.csv", "trials.csv"} <= said.keys()
    for name, text in said.items():
        lines = [line for line in text.splitlines() if FOREIGN.search(shown(line))]
        assert lines == [], name
    verdict = r"after − before: better .*: difference −0\.\d+ s \(95 % interval −0\.\d+ to −0\.\d+; adjusted p"
    assert re.search(verdict, said["terminal"])
    assert "final seconds, s" in said["report.md"]
    assert "difference, s" in said["report.md"]
    assert "±0.2 s" in said["report.html"]
    assert sorted(path.name for path in (tmp_path / "seconds").glob("seconds.*")) == ["seconds.png", "seconds.svg"]


def test_lower_is_better_where_a_metric_says_so(tmp_path) -> None:
    store = Store(tmp_path)
    lab.run(seconds(), store, jobs=1)
    (contrast,) = lab.analyse(seconds(), store).contrasts
    assert (contrast.kind, contrast.estimate.mean < 0) == ("better", True)
    other = seconds(name="other", declared=None, metrics={"seconds": {"unit": "s", "better": "higher"}})
    assert other.reported["seconds"].better == "higher"


@pytest.mark.parametrize(("diverged", "counted"), [(None, "as a missing pair"), (60.0, "as seconds of 60 s")])
def test_what_is_not_finite_diverged_and_counts_as_the_study_says(tmp_path, diverged, counted) -> None:
    metric = {"unit": "s", "better": "lower", **({} if diverged is None else {"diverged": diverged})}
    study = seconds(metrics={"seconds": metric}, arms={"before": {}, "after": {"slower": 1.0, "stuck_from": 10}})
    store = Store(tmp_path)
    lab.run(study, store, jobs=1)
    analysis = lab.analyse(study, store)
    after = analysis.arms[1]
    assert after.diverged == dict.fromkeys((10, 11), "epoch 1, where seconds is inf")
    expected = [np.nan, np.nan] if diverged is None else [diverged] * 2
    np.testing.assert_array_equal(after.curves["seconds"][10:, 0], expected)
    (contrast,) = analysis.contrasts
    assert contrast.estimate.missing == (2 if diverged is None else 0)
    assert ("2 of 12 pairs are missing" in contrast.verdict) == (diverged is None)
    with stand_ins():
        cli.main(["report", str(tmp_path)])
    assert f"after, seed 11: diverged at epoch 1, where seconds is inf; counts {counted}" in (
        (tmp_path / "report.md").read_text("utf-8")
    )


def test_three_metrics_of_which_one_is_missing_in_some_trials(tmp_path, capsys) -> None:
    study = three()
    said = everything_said(study, tmp_path, capsys)
    analysis = lab.analyse(study, Store(tmp_path / "three"))
    a, b = analysis.arms
    assert np.isnan(a.curves["memory"][:, -1]).tolist() == [False, False, True] * 2
    assert a.facts == {"parameters": 7}
    np.testing.assert_array_equal(a.diagnostics["size"], [[np.nan, 1.0, 2.0, 3.0, 4.0]] * 6)
    np.testing.assert_array_equal(a.diagnostics["gap"], [[np.nan, 1.0, np.nan, 1.0, 1.0]] * 6)
    best = a.curves["validation_loss"].argmin(axis=1)
    assert set(best) == {1}
    (contrast,) = analysis.contrasts
    differences = b.curves["test_loss"][:, 1] - a.curves["test_loss"][:, 1]
    assert [*contrast.differences.values()] == pytest.approx(differences)
    assert contrast.kind == "worse"
    assert analysis.outcome.title == "test_loss at the epoch of the best validation_loss"
    assert "(4 of 6)" in said["report.md"]
    assert "best test_loss (optimistic), nats" in said["report.html"]
    table = pd.read_csv(tmp_path / "three" / "trials.csv")
    assert table[table["memory"].notna()]["epoch"].tolist() == [4] * 8
    assert table["test_loss"].notna().all()
    assert {"size", "parameters", "shift"} <= set(table)
    assert set(rows(study, Store(tmp_path / "three"))["epoch"]) == {1, 2, 3, 4}


def test_a_trial_that_stops_early_keeps_its_last_values(tmp_path, monkeypatch) -> None:
    def run(_: object, trial: lab.Context) -> None:
        for epoch in trial.epochs(5):
            trial.report(test_loss=1 / epoch, validation_loss=1.0, memory=1.0)
            if epoch == 3 + trial.seed % 2:
                break

    monkeypatch.setattr(type(THREE), "run", run)
    lab.run(three(seeds=2), Store(tmp_path), jobs=1)
    (a, _) = lab.analyse(three(seeds=2), Store(tmp_path)).arms
    expected = [[1, 1 / 2, 1 / 3, 1 / 3, 1 / 3], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 4]]
    np.testing.assert_allclose(a.curves["test_loss"], expected)
    table = rows(three(seeds=2), Store(tmp_path))
    assert table[table["test_loss"].notna()].groupby(["arm", "seed"])["epoch"].max().tolist() == [3, 4, 3, 4]


def test_progress_counts_the_epochs_that_are_known_beforehand(tmp_path, monkeypatch) -> None:
    watcher = Watched()
    lab.run(three(seeds=1), Store(tmp_path / "three"), jobs=1, watcher=watcher)
    assert watcher.begun == [(2, 2, 8, 1)]
    assert watcher.standings[-1] == Progress(epochs=8, running=0, done=2, failed=0)

    def run(_: object, trial: lab.Context) -> None:
        for epoch in trial.epochs(7):  # which no setting says
            trial.report(seconds=epoch)

    monkeypatch.setattr(type(SECONDS), "run", run)
    log = (tmp_path / "counted").open("a", buffering=1)  # trials have processes of their own
    monkeypatch.setattr(ProgressFiles, "count", lambda _, __, epochs: log.write(f"{epochs}\n"))
    lab.run(seconds(seeds=1), Store(tmp_path / "seconds"), jobs=1, watcher=watcher)
    assert watcher.begun[1] == (2, 2, 2, 1)
    log.close()
    assert (tmp_path / "counted").read_text().split() == ["1"] * 14


def test_what_is_reported_now_and_then_keeps_its_epochs(tmp_path, monkeypatch) -> None:
    def run(_: object, trial: lab.Context) -> dict[str, float]:
        for epoch in trial.epochs(10):
            for step in range(3):
                trial.report(validation_loss=float(abs(epoch - 5) + step))  # of which the last counts
            if epoch % 5 == 0:
                trial.report(test_loss=float(epoch))
        return {"memory": 1.0}

    monkeypatch.setattr(type(THREE), "run", run)
    study = three(seeds=2, epochs=10)
    lab.run(study, Store(tmp_path), jobs=1)
    (a, _) = lab.analyse(study, Store(tmp_path)).arms
    nan = math.nan
    np.testing.assert_array_equal(a.curves["test_loss"][0], [nan] * 4 + [5.0] * 5 + [10.0])
    np.testing.assert_array_equal(a.curves["validation_loss"][0], [abs(epoch - 5) + 2 for epoch in range(1, 11)])
    np.testing.assert_array_equal(a.curves["memory"][0], [nan] * 9 + [1.0])
    assert study_outcome(study).of(a.curves).tolist() == [5.0, 5.0]
    table = rows(study, Store(tmp_path))
    assert table[table["test_loss"].notna()]["epoch"].unique().tolist() == [5, 10]
    with stand_ins():
        cli.main(["report", str(tmp_path)])


def test_a_report_without_any_pair_is_written(tmp_path) -> None:
    declared = {"primary": [["b", "a"]], "margin": 1.0, "metric": "memory", "outcome": "area"}
    lab.run(three(declared=declared), Store(tmp_path), jobs=1)
    with stand_ins():
        cli.main(["report", str(tmp_path)])
    assert "6 of 6 pairs are missing" in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize(("scale", "said"), [(1e-12, "3.003e−12"), (1e12, "3002750000000")])
def test_numbers_of_any_size_are_shown(tmp_path, monkeypatch, scale, said) -> None:
    monkeypatch.setattr(type(SECONDS), "run", lambda _, trial: {"seconds": scale * (3 + trial.seed / 2000)})
    study = seconds(declared=None)
    lab.run(study, Store(tmp_path), jobs=1)
    with stand_ins():
        cli.main(["report", str(tmp_path)])
    assert said in (tmp_path / "report.md").read_text("utf-8")


def test_contrasts_of_what_trials_lack_are_withheld(tmp_path) -> None:
    study = three(declared={"primary": [["b", "a"]], "margin": 1.0, "metric": "memory"})
    lab.run(study, Store(tmp_path), jobs=1)
    (contrast,) = lab.analyse(study, Store(tmp_path)).contrasts
    assert contrast.kind == "withheld"
    assert "2 of 6 pairs are missing" in contrast.verdict


def test_trackers_are_told_of_metrics_by_their_names(tmp_path) -> None:
    study, store = three(seeds=1), Store(tmp_path / "out")
    lab.run(study, store, jobs=1, tracker=make_tracker("tensorboard", tmp_path / "events"))
    told = list(metrics(study, store.read(study.trial(study.arms[0], 0))))
    assert [(name, step) for name, step, _ in told if name == "metrics/test_loss"] == [
        ("metrics/test_loss", step) for step in (1, 2, 3, 4)
    ]
    assert {name for name, *_ in told} == {
        *(f"metrics/{name}" for name in THREE.metrics),
        "diagnostics/size",
        "diagnostics/gap",
    }
    gaps = [(step, value) for name, step, value in told if name == "diagnostics/gap"]
    assert gaps == [(1, 1.0), (3, 1.0), (4, 1.0)]
    assert len(list((tmp_path / "events").rglob("events*"))) == 2


def test_plans_of_what_a_task_knows(capsys, tmp_path) -> None:
    from weight_feedback.lab.execution.planning import plan

    (before, after) = plan(seconds())
    assert (before.seconds, before.parameters, after.trials) == (0.5, None, 12)
    # A task that doesn't say is timed.
    assert all(0 < one.seconds < 100 for one in plan(regression()))
    assert {one.parameters for one in plan(regression())} == {None}


def test_declarations_know_task_settings_and_what_the_judged_metric_means() -> None:
    known = {
        study.declaration()
        for study in (
            seconds(),
            seconds(task="helpers.fake_tasks:THREE", arms={"before": {}, "after": {"shift": 1.0}}),
            seconds(arms={"before": {}, "after": {"slower": -0.6}}),
            seconds(metrics={"seconds": {"unit": "s", "better": "higher"}}),
            seconds(metrics={"seconds": {"unit": "ms", "better": "lower"}}),
            seconds(metrics={"seconds": {"unit": "s", "better": "lower", "diverged": 60.0}}),
        )
    }
    assert len(known) == 6
    labelled = seconds(metrics={"seconds": {"unit": "s", "better": "lower", "label": "time", "digits": 1}})
    assert labelled.declaration() == seconds().declaration()
    spelt_out = seconds(stuck_from=1000, arms={"before": {"slower": 0.0}, "after": {"slower": -0.5}})
    assert spelt_out.declaration() == seconds().declaration()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"faster": 1.0}, "b": {}}}, "arms.0.faster"),
        ({"arms": {"a": {"slower": "1"}, "b": {}}}, "arms.0.slower"),
        ({"slower": "1"}, "slower"),
        ({"arms": {"a": {}, "b": {"slower": 0.0}}}, "'a' and 'b' train the same"),
        ({"task": "helpers.fake_tasks:NOTHING"}, "can't be imported: .*NOTHING"),
        ({"task": "helpers.nothing:X"}, "can't be imported: No module named"),
        ({"task": "helpers.fake_tasks:Seconds"}, "to be a task or a function, found type"),
        ({"task": "seconds"}, "expected notebook, intrinsic-dimension, or module:object"),
        (
            {"declared": {"primary": [["after", "before"]], "margin": 0.2, "metric": "minutes"}},
            "expected one of seconds",
        ),
    ],
)
def test_wrong_settings_are_refused_where_they_are(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        seconds(**changes)


def test_arms_that_used_other_data_are_not_compared(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        type(SECONDS), "fingerprint", lambda _, trial, __: {f"data-{trial.values['slower']:g}": "ab"}
    )
    lab.run(seconds(), Store(tmp_path), jobs=1)
    (contrast,) = lab.analyse(seconds(), Store(tmp_path)).contrasts
    assert contrast.kind == "withheld"
    assert "come from different data or code (data--0.5 ab against data-0 ab)" in contrast.verdict


def test_other_code_is_not_mixed(tmp_path, monkeypatch) -> None:
    store = Store(tmp_path)
    for fingerprint in ("ab", "cd"):
        monkeypatch.setattr(type(SECONDS), "fingerprint", lambda *_, it=fingerprint: {"code": it})
        if fingerprint == "ab":
            lab.run(seconds(), store, jobs=1, arms=["before"])
    with pytest.raises(ValueError, match="expected the code that its results come from, found other code"):
        lab.run(seconds(), store, jobs=1)


def test_a_failure_keeps_its_traceback(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(type(SECONDS), "run", fail)
    study, store = seconds(seeds=1), Store(tmp_path)
    with pytest.warns(UserWarning, match="failed: .*ZeroDivisionError: by zero"):
        lab.run(study, store, jobs=1)
    reason = store.failure(study.trial(study.arms[0], 0))
    assert reason.startswith("ZeroDivisionError: by zero\n")
    assert "in fail" in reason
    assert json.loads(next((tmp_path / "failures").iterdir()).read_bytes())["trial"]["seed"] == 0


def test_the_task_of_the_documentation_runs(tmp_path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8")
    function, task = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(function)
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "fast − slow: better on this task, over its seeds: difference −1." in done.stdout
    names: dict[str, Any] = {}
    exec(task, names)
    assert names["DELAY"].metrics["seconds"].better == "lower"
    (metric,) = re.findall(r"```toml\n(\[metrics.*?)```", page, re.DOTALL)
    assert set(tomllib.loads(metric)["metrics"]["error"]) <= set(lab.Metric._fields)
