"""The command on dimensions: what it trains, prints, writes and refuses."""

from __future__ import annotations

import pytest

from helpers.made_up_study import PROVENANCE
from helpers.studies import change
from weight_feedback.lab.commands import cli
from weight_feedback.lab.commands.dimensions import NETWORKS, IntrinsicDimension
from weight_feedback.lab.report.dimension import markdown, sentence
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.statistics.dimension import estimate
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.tasks.base import Metric
from weight_feedback.lab.tasks.intrinsic import training
from weight_feedback.lab.tasks.intrinsic.training import build
from weight_feedback.lab.tasks.notebook.networks import count_parameters

SMALL = ["intrinsic-dimension", "lenet", "--data", "generated", "--epochs", "2", "--threshold", "50"]
ACCURACY = Metric("%", "higher", digits=2)
#: Final accuracy of made-up measurements.
FINAL = {3: 20.0, 10: 40.0, 100: 60.0}


@pytest.fixture
def trained(monkeypatch) -> list:
    """Which measurements were asked for; what comes out of them is made up."""
    asked = []

    def made_up(trial) -> None:
        one = trial.settings
        asked.append(one)
        for epoch in trial.epochs(one.epochs):
            trial.report(accuracy=99.0 if epoch < one.epochs else FINAL[one.subspace.dimensions] + one.seed)
        trial.keep("parameters", 7)
        trial.keep("coordinates", "0" * 64)

    monkeypatch.setattr(training, "train", made_up)
    return asked


def command(capsys, *args: object) -> str:
    cli.main([*map(str, args)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys, *args: object) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([*map(str, args)])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_it_trains_draws_and_reports_and_goes_on_where_it_was(capsys, tmp_path, monkeypatch, trained) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    args = [*SMALL, "--dimensions", 100, 3, 10, "--seeds", 2, "--jobs", 1, "--out", tmp_path]
    out = command(capsys, *args)
    name = "intrinsic-dimension-lenet-generated"
    assert f"{name}: 6 trials, 0 finished, 6 to run, 1 side by side" in out
    assert f"{name}: 12/12 epochs" in out
    folder = tmp_path / name
    kept = ["accuracy.png", "accuracy.svg", "checkpoints", "report.md", "study.json", "trials"]
    assert sorted(path.name for path in folder.iterdir()) == kept
    report = (folder / "report.md").read_text()
    # The last epoch counts, not the best one. Means of 40.5 and 60.5, of 10 and 100: met at 10^(1 + 9.5/20).
    said = (
        "Least dimensions with 50 % test accuracy: 30 [28, 32] (95 % bootstrap interval, 2 seeds for each number)."
    )
    assert said in out
    assert f"- {said}\n" in report
    assert "| dimensions | seeds | final accuracy % | monotone fit % | seeds, sorted % |" in report
    assert "| 100 | 2 | 60.50 [54.15, 66.85] | 60.50 | 60.00, 61.00 |" in report
    about = "fingerprint b802ac9182e6d4e7, what this version makes up"
    assert f"- Data: generated ({about}); 2 epochs, batches of 128, Adam with" in report
    assert "learning rate 0.01, projection count." in report
    assert f"data: generated ({about})\n" in out
    assert (
        "`weight-feedback intrinsic-dimension lenet --data generated --dimensions 100 3 10 --seeds 2 --epochs 2 "
        "--threshold 50`"
    ) in report
    assert "Published" not in report
    assert [(one.subspace.dimensions, one.seed) for one in trained] == [
        (d, s) for s in (0, 1) for d in (3, 10, 100)
    ]

    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert "6 finished, 0 to run" in command(capsys, *args)
    assert {path: path.read_bytes() for path in before} == before
    assert "9 trials, 6 finished, 3 to run" in command(capsys, *args, "--seeds", 3)
    assert "6 trials, 0 finished, 6 to run" in command(capsys, *args, "--lr", 0.1)


def test_the_defaults_are_fixed() -> None:
    for name, network in NETWORKS.items():
        asked = [trial for _, trial in IntrinsicDimension(network=name)._study().trials()]
        assert {one.subspace.dimensions for one in asked} == {*network.dimensions}
        assert len(asked) == 3 * len(network.dimensions)
        assert {(one.data, one.epochs, one.lr, one.batch_size) for one in asked} == {("mnist", 10, 0.01, 128)}
        assert count_parameters(build(name, 0)) == network.parameters
        assert network.published in network.dimensions


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({}, True), ({"threshold": 80.0}, False), ({"data": "mnist-5k"}, False), ({"projection": "dense"}, True)],
)
def test_what_is_published_is_shown_beside_what_is_comparable(changes, shown) -> None:
    published = IntrinsicDimension(network="fc", **changes).published
    assert published == (("Li et al. 2018", 750) if shown else None)


def test_the_report_says_what_is_published_and_what_it_was_made_with(tmp_path) -> None:
    measured = estimate({3: [1.0], 5: [2.0, 3.0]})
    several = sentence(measured, ACCURACY, "test accuracy")
    assert several.endswith(": > 5 [> 5, > 5] (95 % bootstrap interval, 1 to 2 seeds for each number).")
    study, store = change(IntrinsicDimension(network="fc")._study(), title="T | T", seeds=1), Store(tmp_path)
    versions = PROVENANCE | {"weight_feedback": "1", "torch": "2", "python": "3", "seconds": 1.0}
    for number, (_, one) in enumerate(study.trials()):
        result = {"measurement": one.settings(), "data": "0" * 64, "parameters": 7, "accuracy": [9.0] * one.epochs}
        store.write(one, Record(result | {"coordinates": ""}, versions | ({} if number else {"torch": "4"})))
    text = markdown(measured, analyse(study, store), "c", ("Some | body", 7500))
    assert "# T \\| T\n" in text
    assert f"- {several}\n" in text
    assert "- Published (Some \\| body): 7,500.\n" in text
    assert "- Data: mnist (fingerprint 0000000000000000, not the published files); 10 epochs, batches of" in text
    assert "bits may differ: torch 2 (6 trials), 4 (1 trials)" in text
    assert "With: weight-feedback 1, torch 2 and 4, Python 3" in text
    assert sentence(estimate({3: [99.0]}), ACCURACY, "x").endswith(": < 3 (1 seed for each number).")


def test_a_training_that_fails_is_said_and_the_others_count(capsys, tmp_path, monkeypatch, trained) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made_up, fails = training.train, {(3, 1)}

    def fail(trial) -> None:
        if (trial.settings.subspace.dimensions, trial.seed) in fails:
            raise RuntimeError("no luck")
        made_up(trial)

    monkeypatch.setattr(training, "train", fail)
    args = [*SMALL, "--dimensions", 3, 100, "--seeds", 2, "--jobs", 1, "--out", tmp_path]
    out = command(capsys, *args)
    said = "3, seed 1: failed (RuntimeError: no luck); missing from all estimates."
    assert out.count(said) == 1
    folder = tmp_path / "intrinsic-dimension-lenet-generated"
    report = (folder / "report.md").read_text()
    assert f"- {said}\n" in report
    assert "| 3 | 1 | 20.00 | 20.00 | 20.00 |" in report
    assert "1 to 2 seeds for each number" in report

    fails.clear()
    assert "4 trials, 3 finished, 1 to run" in command(capsys, *args)
    assert "| 3 | 2 | 20.50 [14.15, 26.85] | 20.50 | 20.00, 21.00 |" in (folder / "report.md").read_text()
    assert len(trained) == 4

    fails.update((d, seed) for d in (3, 100) for seed in (0, 1))
    folder = tmp_path / "none" / folder.name
    assert f"no finished trials in {folder}; the same command tries them again" in refused(
        capsys, *args, "--out", tmp_path / "none"
    )
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", 0], "--seeds: expected at least 1, got 0"),
        (["--threshold", 0], "--threshold: expected a percentage above 0, at most 100, got 0.0"),
        (["--threshold", 101], "at most 100, got 101.0"),
        (["--dimensions", 0], "dimensions: expected at least 1"),
        (["--dimensions", 44427], "--dimensions: must be at most the network's 44426 parameters, got 44427"),
        (["--epochs", 0], "epochs: expected at least 1"),
        (["--data", "nope"], "expected a data set among"),
        (["--jobs", 0], "jobs: expected at least 1, got 0"),
        (["--dimensions"], "--dimensions: expected at least one number"),
    ],
)
def test_bad_input_is_refused_in_words(capsys, tmp_path, trained, args, message) -> None:
    assert message in refused(capsys, *SMALL, "--out", tmp_path, *args)
    assert trained == []
