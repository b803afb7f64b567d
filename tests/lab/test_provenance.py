"""Trials of one arm come from one kind of machine and software, unless a mixture is asked for; then it is said."""

from __future__ import annotations

import pytest
import torch

from helpers import made_up_study
from helpers.child_processes import stand_ins
from helpers.studies import compare_networks, study_text
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution.runner import missing, run
from weight_feedback.lab.store.provenance import DECIDING, differences, mixed_surroundings
from weight_feedback.lab.store.store import Record, Store, StoreError
from weight_feedback.lab.training.environment import surroundings

STUDY = compare_networks(seeds=3)
CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path) -> Store:
    """A store with seed 0 of arm plain."""
    store = Store(tmp_path / "tiny")
    run(STUDY, store, arms=["plain"], seeds=1, jobs=1)
    return store


def change(store: Store, **changes: object) -> None:
    """Let the finished trials come from elsewhere; an entry that is None is unknown."""
    for path in store.trials.glob("[!.]*"):
        ((_, trial),) = [pair for pair in STUDY.trials() if store.path(pair[1]) == path]
        record = store.read(trial)
        path.unlink()
        provenance = {k: v for k, v in (record.provenance | changes).items() if v is not None}
        store.write(trial, Record(record.result, provenance))


def test_what_decides_is_what_a_trial_writes_down() -> None:
    assert set(DECIDING) == set(surroundings(CPU))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("torch", "2.0.0"),
        ("threads", 8),
        ("device", "cuda"),
        ("machine", "arm64"),
        ("processor", "another"),
        ("cpu", "NO AVX"),
        ("weight_feedback", "0.0"),
    ],
)
def test_an_arm_from_elsewhere_is_refused(store, monkeypatch, entry, value) -> None:
    change(store, **{entry: value})
    with pytest.raises(StoreError, match=rf"arm plain: its 1 .* \({DECIDING[entry]} {value}, here .*--mixed"):
        run(STUDY, store, jobs=1)
    assert len(missing(STUDY, store)) == 5


def test_other_arms_and_what_is_unknown_or_decides_nothing_are_not(store) -> None:
    change(store, torch="2.0.0")
    assert run(STUDY, store, arms=["pooled"], seeds=1, jobs=1) == 1
    assert run(STUDY, store, seeds=1, jobs=1) == 0  # nothing is added
    change(store, torch=None, processor=None, cpu=None, threads=None, host="another", python="3.0", numpy="1.0")
    assert run(STUDY, store, seeds=2, jobs=1) == 2


def test_a_mixture_is_said(store, capsys, tmp_path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(study_text(STUDY))
    change(store, torch="2.0.0")
    command = ["run", str(path), "--out", str(tmp_path), "--jobs", "1"]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "--mixed" in capsys.readouterr().err
    with stand_ins():
        cli.main([*command, "--mixed"])
    sentence = f"whose bits may differ: torch 2.0.0 (1 trials), {torch.__version__} (5 trials)."
    assert sentence in capsys.readouterr().out


def test_sentences_and_differences() -> None:
    here = {**surroundings(CPU), **made_up_study.PROVENANCE}
    assert mixed_surroundings([here, here, {}]) == []
    assert differences(here, [here, {}, {"torch": here["torch"]}]) == []
    # Two GPUs of one kind are one device.
    gpus = [here | {"device": f"cuda:{i}"} for i in range(2)]
    assert mixed_surroundings(gpus) == []
    assert differences(gpus[0], gpus) == []
    assert differences(here, [*gpus, here]) == ["device cuda, here cpu"]
    others = [here | {"torch": "1"}, here | {"torch": "2"}]
    assert differences(here, others) == [f"torch 1 and 2, here {here['torch']}"]
    assert mixed_surroundings([*others, others[0]]) == [
        "Trials come from different surroundings, whose bits may differ: torch 1 (2 trials), 2 (1 trials)."
    ]
