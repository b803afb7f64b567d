"""What an earlier version wrote is read for ever, with the same values: a file of each format that was released.

The files in ``fixtures/format-N`` were written by the first version with that format (``write_formats.py``
makes them) and are never written anew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import weight_feedback as wf
from helpers.saved_models import CONFIG, WEIGHTS
from weight_feedback.lab.execution import runner
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.store import Store, StoreError, read_record
from weight_feedback.lab.store.weights import read_weights
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook import lockstep
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation, Hearing
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.training.checkpoints import CheckpointError, Header, decode, encode
from weight_feedback.pretrained import PretrainedError, load_pretrained
from write_formats import build

FIRST = Path(__file__).parent / "fixtures" / "format-1"


@pytest.fixture
def study() -> Study:
    return load_study(str(FIRST / "study.toml"))


@pytest.fixture
def store(tmp_path) -> Store:
    """A copy, since a store may be written to."""
    shutil.copytree(FIRST / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def test_results_of_trials(study, store) -> None:
    (_, none), (_, own) = study.trials()
    record = store.read(own)
    assert record.result["step_losses"] == [2.317862033843994, 2.3202264308929443]
    assert record.result["epochs"] == [{"loss": 2.3231710815429687, "correct": 11, "accuracy": 11.0}]
    assert record.result["hearings"][1] == {
        "norm": 1.4143744707107544,
        "drift": 0.0002811518497765064,
        "share": 0.16391393542289734,
    }
    assert record.result["parameters"] == 10050
    assert record.provenance["torch"] == "2.13.0+cpu"
    assert store.read(none).result["hearings"] == []
    assert store.finished(none)
    assert store.finished(own)


def test_weights(study, store) -> None:
    _, (_, own) = study.trials()
    state = read_weights(store.weights(own), store.read(own))
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "conv1.weight": (5, 1, 5, 5),
        "conv1.bias": (5,),
        "conv2.weight": (10, 5, 5, 5),
        "conv2.bias": (10,),
        "fc1.weight": (50, 160),
        "fc1.bias": (50,),
        "fc1.feedback_weight": (50, 2),
        "fc1.signal.summary._extra_state": (),
        "fc1.signal.summary.gain": (),
        "fc2.weight": (10, 50),
        "fc2.bias": (10,),
    }


def test_swaps(study, store) -> None:
    found = {swap.heard: store.read(swap).result for _, swap in study.swaps()}
    assert {heard: (result["accuracy"], result["loss"]) for heard, result in found.items()} == {
        "zeros": (10.0, 2.323896484375),
        "initial": (11.0, 2.323170013427734),
    }


def test_a_study_goes_on_from_an_earlier_versions_results(study, store) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    store.declare(study)
    assert runner.missing(study, store) == []
    found = analyse(study, store)
    assert [result.curves["accuracy"].tolist() for result in found.arms] == [[[10.0]], [[11.0]]]
    assert len(found.swaps) == 2
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before


def test_another_declaration_is_told_apart(study, store) -> None:
    with pytest.raises(StoreError, match="declared otherwise"):
        store.declare(study.model_copy(update={"seeds": 2}))


def test_saved_models() -> None:
    model = load_pretrained(build(), FIRST / "model")
    assert model[0].weight.tolist() == [[0.0, 0.125, 0.25], [0.375, 0.5, 0.625]]
    assert model[2].feedback_weight.tolist() == [[5.0, 5.125, 5.25], [5.375, 5.5, 5.625]]
    assert repr(model[0].signal) == repr(
        wf.Stale(wf.Noise(torch.tensor([1.0, 2.0, 3.0]), redraw=True, seed=5), lag=2)
    )
    assert model[2].signal().tolist() == pytest.approx([0.0981672927737236, 2.2346456050872803, -2.959537982940674])
    assert model(torch.ones(1, 3)).flatten().tolist() == pytest.approx([98.67594146728516, 106.57010650634766])
    # Time goes on from the one step that had been taken.
    for heard in [
        [1.9547617435455322, 1.023386836051941, 3.0218515396118164],
        [1.9547617435455322, 1.023386836051941, 3.0218515396118164],
        [1.4579193592071533, 1.3880841732025146, 3.153996467590332],
        [1.4058263301849365, 1.4396381378173828, 3.1545355319976807],
    ]:
        assert model[0].signal().tolist() == pytest.approx(heard)
        wf.advance(model)


def test_checkpoints() -> None:
    header, tensors = decode((FIRST / "checkpoint.safetensors").read_bytes())
    hearings = [{"norm": 1.0, "drift": 0.0, "share": 0.5}, {"norm": 1.5, "drift": 0.25, "share": 0.75}]
    assert header == Header(
        format=1,
        same={"torch": "2.13.0", "threads": 1},
        epoch=1,
        plain=[
            {
                "epochs": [{"loss": 2.0, "correct": 1, "accuracy": 10.0}],
                "hearings": hearings,
                "diverged": None,
            },
            {"epochs": [], "hearings": hearings[:1], "diverged": 2},
        ],
        started="2026-11-24T09:00:00+00:00",
        seconds=1.5,
        resumed=3,
    )
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "network.0.fc1.weight": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "network.0.fc1.signal.step": 2,
        "network.0.losses": [2.5, 2.25],
        "network.1.losses": [2.5],
    }
    histories, _ = lockstep._as_histories(header.plain, tensors)
    heard = [Hearing(1.0, 0.0, 0.5), Hearing(1.5, 0.25, 0.75)]
    assert histories == [
        History([2.5, 2.25], [Evaluation(2.0, 1, 10.0)], heard, None),
        History([2.5], [], heard[:1], 2),
    ]


# Formats that this version doesn't know


@pytest.mark.parametrize("number", [0, 2, 10**30, "1", None, 1.0, True])
def test_a_result_of_another_format_is_refused(tmp_path, number) -> None:
    (path,) = (FIRST / "store" / "trials").glob("*own*")
    content = json.loads(path.read_bytes())
    (tmp_path / path.name).write_text(json.dumps(content | {"format": number}))
    with pytest.raises(StoreError) as caught:
        read_record(tmp_path / path.name)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("number", [0, 2, 10**30, "1", None, 1.0, True])
def test_a_model_of_another_format_is_refused(tmp_path, number) -> None:
    content = json.loads((FIRST / "model" / CONFIG).read_bytes())
    (tmp_path / CONFIG).write_text(json.dumps(content | {"format": number}))
    shutil.copy(FIRST / "model" / WEIGHTS, tmp_path)
    with pytest.raises(PretrainedError, match=rf"{CONFIG}: format must be "):
        load_pretrained(build(), tmp_path)


@pytest.mark.parametrize("number", [0, 2])
def test_a_checkpoint_of_another_format_is_refused(number) -> None:
    header, tensors = decode((FIRST / "checkpoint.safetensors").read_bytes())
    other = encode(header.model_copy(update={"format": number}), tensors)
    with pytest.raises(CheckpointError, match=rf"expected format 1, found {number}, which this version can't read"):
        decode(other)
