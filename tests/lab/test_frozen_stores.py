"""Stores that another version wrote are reported, finished, extended and mended as by that version itself.

Those in ``fixtures/parent-stores`` were written by version 0.1.0 when the modules of the lab were still in one
package: a finished study of twelve arms, two that were broken off, with a checkpoint each, and measurements of a
dimension. They are never written anew; of what reports say of them, see `frozen_reports.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from frozen_reports import FINISHED, MEASURE, REPORTED, STORES, copy_stores, report
from helpers.child_processes import stand_ins
from weight_feedback.lab.commands import cli

#: What comes out of everything that is missing in the stores, and where that was.
AFTERWARDS = json.loads((STORES / FINISHED).read_bytes())
#: Of what checkpoints depend on; bits don't.
VERSION = "weight_feedback"
#: As the stores may come from another kind of machine.
RUN = ("--jobs", "1", "--out", ".", "--mixed")


@pytest.fixture(scope="module", autouse=True)
def at_once() -> Iterator[None]:
    with stand_ins():
        yield


@pytest.fixture
def stores(tmp_path, monkeypatch) -> Path:
    """A copy of the stores, in the present folder."""
    copy_stores(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy in which everything that was missing has been run, and more seeds."""
    folder = tmp_path_factory.mktemp("finished")
    copy_stores(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["run", "half.toml", *RUN, "--seeds", "2"])
        cli.main(["run", "subspace.toml", *RUN])
        cli.main([*MEASURE, "--seeds", "3", "--out", ".", "--mixed"])
    return folder


def read(folder: Path, part: str) -> dict[str, dict]:
    """Return parts of the files of what was missing, by their names."""
    return {name: json.loads((folder / name).read_bytes())[part] for name in AFTERWARDS["results"]}


def differing(folder: Path) -> dict[str, tuple]:
    """Return what bits, or the use of checkpoints, depend on, and isn't here as it was there."""
    here = next(iter(read(folder, "provenance").values()))
    return {name: (here[name], there) for name, there in AFTERWARDS["where"].items() if here[name] != there}


def test_reports_say_the_same(stores) -> None:
    expected = {path.relative_to(STORES / REPORTED) for path in (STORES / REPORTED).rglob("*") if path.is_file()}
    found = report()
    assert {*map(Path, found)} == expected
    for name, text in found.items():
        again = f"{name}: if it is changed on purpose, tests/frozen_reports.py writes it anew"
        assert text.encode() == (STORES / REPORTED / name).read_bytes(), again


def test_reports_change_nothing(stores) -> None:
    before = {path: path.read_bytes() for path in stores.rglob("*") if path.is_file()}
    report()
    assert {path: path.read_bytes() for path in before} == before


def test_what_was_broken_off_is_finished(finished) -> None:
    """On any machine; from the checkpoints, where they are this machine's and this version's."""
    assert all((finished / name).is_file() for name in AFTERWARDS["results"])
    went_on = not differing(finished)
    resumed = [part["resumed"] for part in read(finished, "provenance").values() if part.get("resumed")]
    assert resumed == [1, 1] * went_on
    for study in ("half", "subspace"):
        left = [path.suffix for path in (finished / study / "checkpoints").iterdir()]
        assert left == [".unusable-1"] * (not went_on)
        assert not (finished / study / "damaged").exists()


def test_the_bits_are_the_same(finished) -> None:
    if others := {name: both for name, both in differing(finished).items() if name != VERSION}:
        pytest.skip(f"other bits are right where this differs: {others}")
    assert read(finished, "result") == AFTERWARDS["results"]


def test_a_finished_study_is_not_trained_again(finished, capsys, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    for study, trials in {"half": 2, "subspace": 6}.items():
        cli.main(["run", f"{study}.toml", *RUN])
        assert f"{trials} trials, {trials} finished, 0 to run" in capsys.readouterr().out


def test_damaged_files_are_set_aside_and_made_again(finished, tmp_path, capsys, monkeypatch) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    trial, weights, swap = (
        next(Path("half").glob(f"{name}-seed-00000-*"))
        for name in ("trials/mnist-plain", "weights/mnist-plain-own", "swaps/mnist-plain-own")
    )
    before = read(tmp_path, "result")
    content = bytearray(trial.read_bytes())
    content[300] ^= 1
    trial.write_bytes(content)
    weights.write_bytes(weights.read_bytes()[:-1])
    swap.unlink()
    cli.main(["run", "half.toml", *RUN])
    said = capsys.readouterr().out
    for path in (trial, weights):
        aside = Path("half/damaged") / f"{path.stem}.1{path.suffix}"
        assert f"it is now {aside}" in said
        assert aside.is_file()
        assert path.is_file()
    assert read(tmp_path, "result") == before


def test_a_damaged_checkpoint_is_set_aside_and_training_starts_over(stores, finished, capsys) -> None:
    (path,) = Path("half/checkpoints").iterdir()
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    cli.main(["run", "half.toml", *RUN])
    assert "it is damaged; it is now half/checkpoints/" in capsys.readouterr().out
    assert Path(f"{path}.unusable-1").read_bytes() == content
    name = f"half/trials/{path.stem}.json"
    assert json.loads(Path(name).read_bytes())["result"] == read(finished, "result")[name]
