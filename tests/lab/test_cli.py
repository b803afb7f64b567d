"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields

import pytest

import weight_feedback
from helpers.child_processes import stand_ins
from helpers.studies import compare_networks, compare_signals, study_text
from weight_feedback.lab.commands import cli
from weight_feedback.lab.commands.networks import TRAINING, Train
from weight_feedback.lab.data.catalogue import ENVIRONMENT
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook import names, networks
from weight_feedback.lab.tasks.notebook import timing as planning
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

STUDY = compare_networks(training={"epochs": 2, "batch_size": 250})


#: Commands that take names of arms.
ARMS = ("plan", "run", "report", "plot", "export")


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "no-data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def study(tmp_path) -> str:
    path = tmp_path / "a tiny one.toml"  # a command line must quote it
    path.write_text(study_text(STUDY))
    return str(path)


@pytest.fixture
def no_pictures() -> Iterator[None]:
    with stand_ins():
        yield


def run(capsys, *args: object) -> str:
    cli.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys, *args: object) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(arg) for arg in args])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_the_version_is_said(capsys) -> None:
    assert run(capsys, "--version") == f"weight-feedback {weight_feedback.__version__}\n"
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "--version" in capsys.readouterr().out


def test_match_dimensions_prints_one_row_a_line(capsys) -> None:
    heading, *rows = run(capsys, "match-dimensions", "--a", 160, "--b", 50, "--c", 10).splitlines()
    assert heading.split() == ["dw", "dx", "dx-dw", "m", "n"]
    numbers = [[int(cell) for cell in row.split()] for row in rows]
    assert [22, 26, 4, 31, 25] in numbers
    assert [28, 29, 1, 21, 25] in numbers
    assert all(dx - dw == padding > 0 for dw, dx, padding, _, _ in numbers)
    assert "no solution" in run(capsys, "match-dimensions", "--a", 160, "--b", 47, "--c", 10)
    narrow = run(capsys, "match-dimensions", "--a", 160, "--b", 50, "--c", 10, "--dx", 26, 26, "--m", 31, 31)
    assert narrow.splitlines()[1:] == ["    22     26      4     31     25"]
    assert "a must be at least 1, got 0" in refused(capsys, "match-dimensions", "--a", 0, "--b", 50, "--c", 10)


def test_train_logs_and_keeps_weights(capsys, tmp_path) -> None:
    weights = tmp_path / "net.safetensors"
    out = run(
        capsys, "train", "mnist-pooled", "--seed", 1, "--data", "generated", "--epochs", 2, "--batch-size", 125,
        "--log-interval", 2, "--save-weights", weights, "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    lines = out.splitlines()
    assert [line.split("  loss")[0] for line in lines if "loss" in line and "test" not in line] == [
        f"epoch {epoch} [{seen}/500 ({percent}%)]" for epoch in (1, 2) for seen, percent in ((0, 0), (250, 50))
    ]
    assert [line.split(":")[0] for line in lines if "test loss" in line] == ["epoch 1/2", "epoch 2/2"]
    assert "13,220 parameters" in out
    assert weights.stat().st_size > 4 * 13_220


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "mnist-nope"], "network: expected one of mnist-plain"),
        (["train", "mnist-plain"], "weight-feedback data fetch mnist"),
        (["train", "cifar10-plain", "--data", "generated"], "expected images of shape (3, 32, 32)"),
        (["train", "mnist-plain", "--data", "generated", "--epochs", "0"], "epochs: expected at least 1"),
        (["train", "mnist-plain", "--data", "generated", "--seed", "-1"], "seed: expected at least 0"),
        (["train", "mnist-plain", "--data", "generated", "--device", "quantum"], "device: "),
        *(([name, "quick", "--arms", "own"], "--arms: expected names among") for name in ARMS),
        (["train", "mnist-plain", "--data", "generated", "--epochs", "one"], "one"),
        (["run", "nope"], "no study 'nope'"),
        (["plot", "quick", "--out", "empty"], "no finished trials in empty"),
        (["data", "verify", "mnist"], "expected the files of mnist"),
        (["data", "fetch", "generated"], "needs no download"),
    ],
)
def test_bad_input_is_refused_in_words(capsys, args, message) -> None:
    assert message in refused(capsys, *args)


@pytest.mark.parametrize(
    ("command", "option", "values", "message"),
    [
        ("train mnist-plain", "threads", [0, -1], "expected at least 1"),
        ("train mnist-plain", "threads", [1025, 10**9], "expected at most 1024"),
        ("train mnist-plain", "lr", ["nan", "inf", "-inf"], "expected a finite number"),
        ("plan quick", "jobs", [0, -2], "expected at least 1"),
        ("plan quick", "sd", [0.0, -0.5], "expected more than 0"),
        ("plan quick", "sd", ["nan", "inf"], "expected a finite number"),
        ("run quick", "jobs", [0, -1], "expected at least 1"),
        ("run quick", "seeds", [0, -1], "expected at least 1"),
        ("run quick", "retries", [-1], "expected at least 0"),
        ("run quick", "checkpoint-seconds", [-0.5], "expected at least 0"),
        ("run quick", "checkpoint-seconds", ["nan", "inf"], "expected a finite number"),
        ("calibrate", "studies", [0, -1], "expected at least 1"),
        ("calibrate", "seeds", [1, 0, -3], "expected at least 2"),
        ("calibrate", "effect", ["nan", "inf"], "expected a finite number"),
        ("calibrate", "contrast-seeds", [1, 0], "expected at least 2"),
        ("calibrate", "jobs", [0], "expected at least 1"),
        ("intrinsic-dimension fc", "seeds", [0, -1], "expected at least 1"),
        ("intrinsic-dimension fc", "seeds", [10**9], "expected at most 100000"),
        ("intrinsic-dimension fc", "jobs", [0], "expected at least 1"),
        ("intrinsic-dimension fc", "threshold", ["nan", "inf"], "expected a finite number"),
    ],
)
def test_numbers_out_of_their_bounds_are_refused_before_any_work(
    capsys, tmp_path, monkeypatch, command, option, values, message
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in values:
        said = refused(capsys, *command.split(), f"--{option}", value)
        assert said.strip() == f"error: --{option}: {message}, got {value}"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["merge", "absent"], "expected the folder to copy into, then one or more to copy from; got absent alone"),
        (["plot", "quick", "--arms"], "--arms: expected at least 1 item"),
        (["run", "quick", "--arms"], "--arms: expected at least 1 item"),
        (["calibrate", "--seeds"], "--seeds: expected at least 1 item"),
        (["train", "mnist-plain", "--threads", "x"], "--threads: expected a whole number, got 'x'"),
        (["train", "mnist-plain", "--epochs", "1.5"], "--epochs: expected a whole number, got '1.5'"),
        (["train", "mnist-plain", "--lr", "fast"], "--lr: expected a number, got 'fast'"),
        (["intrinsic-dimension", "fc", "--dimensions", "5", "x"], "--dimensions: expected whole numbers, got 'x'"),
        (
            ["match-dimensions", "--a", "160", "--b", "50", "--c", "10", "--m", "9", "8"],
            "--m: expected LOW HIGH, LOW at most HIGH, got 9 8",
        ),
    ],
)
def test_what_is_missing_or_no_number_is_refused_without_jargon(capsys, args, message) -> None:
    said = refused(capsys, *args)
    assert message in said
    for word in ("pydantic", "class '", "NoneType", "Tuple", "typing", "type=", "Input should"):
        assert word not in said


def test_an_a_a_study_is_looked_at_before_anything_is_simulated(capsys, study) -> None:
    args = ["calibrate", "--studies", 10, "--seeds", 4, "--trained", "--same", study, "--contrast-seeds", 5]
    with pytest.raises(SystemExit):
        cli.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    assert "tiny has 2 arms and 2 seeds, for contrasts of 5" in captured.err
    assert captured.out == ""


def test_original_epochs_are_the_default(capsys, monkeypatch) -> None:
    class Seen(Exception):  # noqa: N818 - it isn't an error
        pass

    def seen(trial, options):
        raise Seen(trial.data, trial.training.epochs)

    monkeypatch.setattr("weight_feedback.lab.training.run.run_trial", seen)
    for network, expected in (("mnist-plain", ("mnist", 6)), ("cifar10-pooled", ("cifar10", 20))):
        with pytest.raises(Seen) as caught:
            cli.main(["train", network])
        assert caught.value.args == expected


def test_a_training_by_hand_has_the_settings_of_any_other() -> None:
    defaults = {field.name: field.default for field in fields(Train)}
    assert {name: defaults[name] for name in TRAINING} == {name: getattr(Training(), name) for name in TRAINING}
    assert tuple(networks.NETWORKS) == names.NETWORKS


def test_run_then_plot(capsys, study, tmp_path) -> None:
    out = run(capsys, "run", study, "--out", tmp_path / "out", "--jobs", 1)
    assert "tiny: 4 trials, 0 finished, 4 to run, 1 side by side" in out
    assert "tiny: 8/8 epochs" in out
    folder = tmp_path / "out" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy.png",
        "accuracy.svg",
        "checkpoints",
        "figures",
        "report.html",
        "report.md",
        "study.json",
        "trials",
    ]
    assert str(folder / "report.html") in out
    assert str(folder / "accuracy.png") in out
    assert "| with plain | 9,950 | 2 |" in (folder / "report.md").read_text()

    again = run(capsys, "run", study, "--out", tmp_path / "out", "--jobs", 1)
    assert "4 finished, 0 to run" in again

    out = run(capsys, "plot", study, "--out", tmp_path / "out", "--arms", "pooled")
    assert (folder / "accuracy-pooled.svg").exists()
    assert "with plain" not in out

    before = {path: path.read_bytes() for path in (folder / "report.html", folder / "report.md")}
    for path in before:
        path.unlink()
    run(capsys, "report", study, "--out", tmp_path / "out")
    assert {path: path.read_bytes() for path in before} == before
    many = ["plain", "pooled"] * 20
    out = run(capsys, "plot", study, "--out", tmp_path / "out", "--arms", *many)
    assert len(list(folder.glob("accuracy-40-arms-*.png"))) == 1
    message = refused(capsys, "plot", study, "--out", tmp_path / "out", "--arms", "other")
    assert "--arms: expected names among plain, pooled, got 'other'" in message


def test_a_declared_study_ends_in_verdicts(capsys, tmp_path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(study_text(compare_signals("none", "own", name="c")))
    out = run(capsys, "run", path, "--out", tmp_path, "--jobs", 1)
    assert "own − none: " in out
    report = (tmp_path / "c" / "report.md").read_text()
    assert "- own − none: " in report
    assert (tmp_path / "c" / "figures" / "forest.png").exists()
    assert "another seed's final z" in out
    path.write_text(path.read_text().replace('"margin" = 1.0', '"margin" = 5.0'))
    assert "declared otherwise" in refused(capsys, "run", path, "--out", tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_some_arms_then_more_seeds(capsys, study, tmp_path) -> None:
    args = ["run", study, "--out", tmp_path, "--jobs", 1]
    assert "tiny: 2 trials, 0 finished, 2 to run" in run(capsys, *args, "--arms", "plain")
    report = tmp_path / "tiny" / "report.md"
    assert (
        f"`weight-feedback run {shlex.quote(study)} --arms plain`" in report.read_text()
    )  # what makes these results
    assert "tiny: 6 trials, 2 finished, 4 to run" in run(capsys, *args, "--seeds", 3)
    assert f"`weight-feedback run {shlex.quote(study)} --seeds 3`" in report.read_text()


@pytest.mark.usefixtures("no_pictures")
def test_failed_trials_are_named(capsys, study, tmp_path, monkeypatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("no luck")

    run(capsys, "run", study, "--out", tmp_path, "--jobs", 1, "--arms", "plain")
    monkeypatch.setattr(type(NOTEBOOK), "run_together", fail)
    out = run(capsys, "run", study, "--out", tmp_path, "--jobs", 1)
    assert out.count("failed: mnist-pooled-seed-0000") == 2
    assert "pooled, seed 1: failed (RuntimeError: no luck); missing from all estimates." in out


@pytest.fixture
def few_steps(monkeypatch) -> None:
    """How long a step takes is said, and not checked."""
    monkeypatch.setattr(planning, "STEPS", 2)


@pytest.mark.usefixtures("few_steps")
def test_plan_says_what_a_study_takes_and_shows(capsys, study) -> None:
    out = run(capsys, "plan", study)
    for part in ("13,220", "4 trials, about", "Nothing is declared"):
        assert part in out
    controls = run(capsys, "plan", "controls-mnist-5k", "--jobs", 2, "--sd", 0.5)
    for part in (
        "own-film",
        "12,550",
        "360 trials",
        "with 2 side by side",
        "Primary contrasts: own − none, own − yoked; final accuracy, equivalent within ±0.5 points",
        "Declaration: 7e2a6e6cf461b078",
        # For 30 pairs, d = 0.5292 at 5 % and 0.5842 at 2.5 % (G*Power's tables; statsmodels agrees).
        "detects a true difference of 0.29 points at Holm's strictest level, of 0.26 at its mildest",
    ):
        assert part in controls
    assert "--sd: expected more than 0, got 0.0" in refused(capsys, "plan", study, "--sd", 0)


@pytest.mark.usefixtures("few_steps")
def test_plan_takes_arms_and_seeds_as_run_does(capsys, study) -> None:
    out = run(capsys, "plan", study, "--arms", "pooled", "--seeds", 3)
    assert "3 trials, about" in out
    assert "9,950" not in out
    declared = ["plan", "controls-mnist-5k", "--seeds", 10, "--sd", 1, "--arms", "none", "own"]
    out = run(capsys, *declared, "yoked")
    assert "Declared are 30 seeds: without all of them there are no verdicts; more are exploratory." in out
    # For 10 pairs, d = 0.9964 at 5 % (G*Power's tables), and 1.1503 at 2.5 %.
    assert "With 10 seeds and 80 % power: detects a true difference of 1.2 points" in out
    assert "of 1 at its mildest" in out
    out = run(capsys, *declared)
    assert "Verdicts need the other arms of the declared contrasts, too: yoked." in out
    assert "power" not in out


@pytest.mark.usefixtures("no_pictures")
def test_merge_and_export(capsys, study, tmp_path) -> None:
    run(capsys, "run", study, "--out", tmp_path / "a", "--jobs", 1)
    merged = run(capsys, "merge", tmp_path / "b" / "tiny", tmp_path / "a" / "tiny")
    assert "4 trials, 0 swaps and 0 weights copied, 0 were there already" in merged
    assert "trials.csv: 8 rows" in run(capsys, "export", study, "--out", tmp_path / "b")
    run(capsys, "export", study, "--out", tmp_path / "b", "--format", "parquet", "--to", tmp_path)
    assert (tmp_path / "trials.parquet").read_bytes().startswith(b"PAR1")
    assert "trials-pooled.csv: 4 rows" in run(capsys, "export", study, "--out", tmp_path / "b", "--arms", "pooled")
    assert "expected the folder of a study" in refused(capsys, "merge", tmp_path / "b", tmp_path / "none")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_trials_can_be_tracked(capsys, study, tmp_path) -> None:
    run(capsys, "run", study, "--out", tmp_path, "--jobs", 1, "--track", "tensorboard")
    assert len(list((tmp_path / "tiny" / "tensorboard").rglob("events.out.tfevents.*"))) == 4


def test_calibrate_prints_shares_with_intervals(capsys) -> None:
    out = run(capsys, "calibrate", "--studies", 50, "--seeds", 8, 12)
    assert "50 simulated studies, true effect 0" in out
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["8", "12"]
    assert all(row.count("[") == 4 for row in rows)


def test_calibrate_on_real_trainings_cuts_seeds_into_contrasts(capsys, tmp_path) -> None:
    path = tmp_path / "same.toml"
    own = {"name": "own", "model": "mnist-plain", "label": "own", "signal": "own"}
    again = {**own, "name": "again", "label": "again", "salt": 1}
    path.write_text(study_text(compare_signals("own", name="same", seeds=7, arms=[own, again], declared=None)))
    args = ["calibrate", "--studies", 10, "--seeds", 4, "--trained", "--same", path, "--out", tmp_path]
    out = run(capsys, *args, "--contrast-seeds", 3, "--jobs", 1)
    assert "2 contrasts of real trainings, same, true effect 0" in out
    analysis = analyse(load_study(str(path)), Store(tmp_path / "same"))
    a, b = (result.curves["accuracy"][:6, -1] for result in analysis.arms)
    x = a - b
    assert f"mean difference {x.mean():+.3f} points, standard deviation {x.std(ddof=1):.3f}" in out
    assert "3 contrasts of real trainings" in run(capsys, *args, "--contrast-seeds", 2, "--jobs", 1)
    assert "1 contrasts of real trainings" in run(capsys, *args, "--contrast-seeds", 7, "--jobs", 1)
    said = refused(capsys, *args, "--contrast-seeds", 8)
    assert "the seeds of at least one contrast" in said


def test_data_list_and_verify(capsys) -> None:
    listed = run(capsys, "data", "list")
    for line in ("mnist-5k", "no: weight-feedback data fetch cifar10", "70,000"):
        assert line in listed
    seen = run(capsys, "data", "verify", "generated")
    assert "training images [500, 1, 28, 28], test images [100, 1, 28, 28]" in seen


@pytest.mark.parametrize(
    "command",
    [
        ["train"],
        ["plan"],
        ["run"],
        ["report"],
        ["plot"],
        ["merge"],
        ["export"],
        ["calibrate"],
        ["intrinsic-dimension"],
        ["match-dimensions"],
        ["data", "verify"],
        ["data", "fetch"],
    ],
)
def test_help_has_examples(capsys, command) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    assert f"For example:\n    weight-feedback {' '.join(command)}" in capsys.readouterr().out
