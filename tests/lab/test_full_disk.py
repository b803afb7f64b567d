"""A disk that is full: every command says which file it was, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.child_processes import stand_ins
from helpers.made_up_study import STUDY, fill
from helpers.studies import document
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution import runner
from weight_feedback.lab.store.store import Store

ROOM = "No space left on device): free some space, or choose another folder, then try again"
KEPT = "The results themselves are as they were; "
TO = "`weight-feedback report` and `plot` write to another folder with --to DIR"


@pytest.fixture
def results(tmp_path, monkeypatch) -> Iterator[Path]:
    """Finished trials of a study, in a current folder in which nothing more can be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    settings = STUDY.model_dump(mode="json", exclude_none=True)
    for arm in settings["arms"]:
        arm["label"] = arm["name"]
    Path("study.toml").write_text(document(settings).replace("}, {", "},\n{"))
    fill(Store(Path("results") / STUDY.name))
    with stand_ins():
        yield tmp_path


def full(monkeypatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def refused(capsys, args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(args.split())
    assert caught.value.code == 2
    return capsys.readouterr().err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize(
    ("command", "file", "what_next"),
    [
        ("report study.toml --to there", "there/accuracy.png", f"{KEPT}{TO}"),
        ("report study.toml", "results/made-up/accuracy.png", f"{KEPT}{TO}"),
        ("plot study.toml --to there", "there/accuracy.png", f"{KEPT}{TO}"),
        ("export study.toml --to there", "there/trials.csv", f"{KEPT}--to DIR writes elsewhere"),
        (
            "merge there results/made-up",
            "there/declaration.json",
            "What was copied stays; the same command copies the rest",
        ),
    ],
)
def test_what_is_made_of_results(results, capsys, monkeypatch, command, file, what_next) -> None:
    full(monkeypatch)
    said, further = refused(capsys, command).splitlines()
    assert said.startswith(file)
    assert said.endswith(f": can't write this file ({ROOM}")
    assert further == what_next


def test_weights_that_were_asked_for_are_named_before_training(results, capsys, monkeypatch) -> None:
    full(monkeypatch)
    command = "train mnist-plain --data generated --epochs 1 --save-weights there/net.safetensors"
    assert refused(capsys, command) == f"there/net.safetensors: can't write this file ({ROOM}"


def test_a_run_says_what_else_to_give(results, capsys, monkeypatch) -> None:
    full(monkeypatch)
    monkeypatch.setattr(runner, "refuse_other_data", lambda *_: None)  # made-up results are of made-up data
    said = refused(capsys, "run study.toml --seeds 9 --jobs 1 --mixed")
    assert said.startswith("results/made-up: results can't be kept here: ")
    assert said.endswith(f"({ROOM} (--out)")


def test_a_command_that_goes_on_where_it_was_says_so(results, capsys, monkeypatch) -> None:
    command = "intrinsic-dimension lenet --data generated --dimensions 5 --epochs 1 --seeds 1 --jobs 1"
    cli.main(command.split())
    capsys.readouterr()
    monkeypatch.setattr(Store, "probe", lambda _: None)
    full(monkeypatch)
    said, further = refused(capsys, command).splitlines()
    assert said == f"results/intrinsic-dimension-lenet-generated/accuracy.png: can't write this file ({ROOM}"
    assert further == f"What is finished is kept. To go on: weight-feedback {command}"


def test_files_that_are_not_written_whole_have_the_same_advice(results, capsys, monkeypatch) -> None:
    mkdir = os.mkdir

    def refuse(path: object, *args: object, **kwargs: object) -> None:
        if "progress" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(runner, "refuse_other_data", lambda *_: None)
    said, further = refused(capsys, "run study.toml --seeds 9 --jobs 1 --mixed").splitlines()[-2:]
    assert said.endswith(": No space left on device; free some space, or choose another folder, then try again")
    assert "results/made-up/progress" in said
    assert further.startswith("What is finished is kept. To go on: weight-feedback run study.toml")
