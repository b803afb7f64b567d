"""Epoch checkpoints as files: what is read is what was written, or it is refused."""

from __future__ import annotations

import copy
import functools
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from helpers.interrupted_trials import STEPS, TRAINING, bits, cut, few_images, make
from weight_feedback.lab.data import datasets
from weight_feedback.lab.study.trials import Trial
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation, Hearing
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.task import build_cohort
from weight_feedback.lab.training import checkpoints
from weight_feedback.lab.training.checkpoints import CheckpointError, Header, decode, encode
from weight_feedback.lab.training.loop import train


@pytest.fixture(autouse=True)
def data(monkeypatch) -> datasets.Dataset:
    few = few_images()
    monkeypatch.setattr(datasets, "load", lambda *_: few)
    return few


SMALL = Header(
    same={"settings": "0123456789abcdef", "threads": 1},
    epoch=2,
    histories=(
        History([0.1, 0.2], [Evaluation(1.5, 3, 30.0)] * 2, [Hearing(1.0, 0.0, 0.5)] * 3),
        History([], [], [], diverged=1),
    ),
    started="2026-01-01T00:00:00+00:00",
    seconds=12.5,
    resumed=1,
)
SMALL_TENSORS = {"network.0.x": torch.tensor([1.0, -2.0]), "network.0.signal.step": torch.tensor(3)}


def test_what_is_read_is_what_was_written() -> None:
    strided = torch.arange(6.0).view(2, 3).T
    header, tensors = decode(encode(SMALL, SMALL_TENSORS | {"a": strided[0], "b": strided}))
    assert header == SMALL
    assert tensors.keys() == {*SMALL_TENSORS, "a", "b"}
    assert torch.equal(tensors["b"], strided)
    assert torch.equal(tensors["a"], strided[0])
    assert all(torch.equal(tensors[name], tensor) for name, tensor in SMALL_TENSORS.items())


def test_every_truncation_and_every_flipped_bit_is_noticed() -> None:
    content = encode(SMALL, SMALL_TENSORS)
    for length in range(len(content)):
        with pytest.raises(CheckpointError, match="damaged"):
            decode(content[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        decode(content + b"\0")
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError, match="damaged"):
            decode(bytes(changed))


def test_a_damaged_checkpoint_of_a_trial_is_noticed(tmp_path) -> None:
    path = tmp_path / "checkpoint"
    cut(make("yoked", training={"cohort": 2}), path)
    content, generator = path.read_bytes(), random.Random(0)
    for _ in range(500):
        changed = bytearray(content[: generator.choice([len(content), generator.randrange(len(content))])])
        place = generator.randrange(8 * len(changed) or 1)
        if len(changed) == len(content):
            changed[place // 8] ^= 1 << place % 8
        with pytest.raises(CheckpointError, match="damaged"):
            decode(bytes(changed))


def test_what_is_written_has_the_form_of_the_released_format() -> None:
    content = (Path(__file__).parents[1] / "fixtures/format-1/checkpoint.safetensors").read_bytes()
    assert len(encode(*decode(content))) == len(content)


def sealed(metadata: dict[str, str], tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    """A file with a right digest, whatever is in it."""
    content = save(tensors or {"x": torch.zeros(1)}, metadata | {"sha256": "0" * 64})
    place = checkpoints._DIGEST.search(content)
    return checkpoints._with_digest(content, place, checkpoints.hashlib.sha256(content).hexdigest())


TEXT = SMALL.model_dump_json(exclude={"histories": True})[:-1] + ',"histories":[]}'


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "expected a checkpoint, found something else .*'checkpoint'"),
        ({"checkpoint": "{"}, "expected a checkpoint, found something else"),
        ({"checkpoint": "[" * 100_000}, "expected a checkpoint, found something else .*Recursion"),
        ({"checkpoint": "[]"}, "expected a checkpoint, found something else"),
        ({"checkpoint": "{}"}, "expected a checkpoint, found something else .*'format'"),
        (
            {"checkpoint": TEXT.replace('"format":1', '"format":2')},
            "expected format 1, found 2, which this version",
        ),
        ({"checkpoint": TEXT.replace('"format":1', '"format":"1"')}, "expected format 1, found '1', which this"),
        (
            {"checkpoint": TEXT.replace('"epoch":2', '"epoch":0')},
            "header: epoch: .*expected at least 1, got 0",
        ),
        ({"checkpoint": TEXT.replace('"epoch":2', '"epoch":2.0')}, "header: epoch: .*whole number, got 2.0"),
        ({"checkpoint": TEXT.replace("12.5", "NaN")}, "header: seconds: .*finite number, got nan"),
        ({"checkpoint": TEXT.replace("12.5", "-1")}, "header: seconds: expected at least 0, got -1"),
        (
            {"checkpoint": TEXT.replace('"resumed":1', '"resumed":-1')},
            "header: resumed: expected at least 0, got -1",
        ),
        ({"checkpoint": TEXT.replace("{", '{"more":1,', 1)}, "header: more: there is no such field, got 1"),
        ({"checkpoint": TEXT.replace("[]", '[{"diverged":0.5}]')}, r"header: histories\.0\.diverged: .*got 0\.5"),
        ({"checkpoint": TEXT.replace("[]", "[{}]")}, r"network\.0\.losses: expected a vector .*found None"),
    ],
)
def test_what_is_no_checkpoint_is_refused(metadata, message) -> None:
    assert decode(sealed({"checkpoint": TEXT}))[0].epoch == 2
    with pytest.raises(CheckpointError, match=message):
        decode(sealed(metadata))


@pytest.mark.parametrize(
    "losses", [torch.zeros(2), torch.zeros(2, 2, dtype=torch.float64), torch.tensor([1, torch.nan]).double()]
)
def test_losses_that_cannot_be_are_refused(losses) -> None:
    said = {"checkpoint": TEXT.replace("[]", "[{}]")}
    with pytest.raises(CheckpointError, match=r"network\.0\.losses: expected a vector of finite numbers"):
        decode(sealed(said, {"network.0.losses": losses}))


@functools.cache
def yoked_pair() -> Lockstep:
    """Two yoked networks after two epochs."""
    one = make("yoked", training={"cohort": 2, "epochs": 2})
    lockstep = fresh_pair(one)
    train(lockstep)
    return lockstep


def fresh_pair(one: Trial) -> Lockstep:
    models, donors = build_cohort(one.cohort(), STEPS, torch.device("cpu"))
    return Lockstep(models, datasets.load("generated"), one.training, [2, 3], donors)


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.flatten()[-1] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("donor.1.fc1.weight", None, r"expected torch.float32 \[50, 160\], found nothing"),
        ("more", lambda _: torch.zeros(1), r"expected nothing, found torch.float32 \[1\]"),
        ("network.0.fc2.bias", lambda x: x[:9], r"expected torch.float32 \[10\], found torch.float32 \[9\]"),
        ("network.1.start", lambda x: x.double(), r"expected torch.float32 \[8\], found torch.float64 \[8\]"),
        ("network.0.conv1.weight", with_nan, "expected numbers, found NaN in training that hasn't diverged"),
        ("donor.1.momentum_buffer.stacks.fc1_weight", with_nan, "expected numbers, found NaN"),
    ],
)
def test_tensors_of_other_networks_are_refused_and_nothing_is_changed(name, change, message) -> None:
    trained, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    tensors, before = trained.tensors(), bits(fresh)
    assert name in tensors or name == "more"
    tensors |= {name: change(tensors.get(name))} if change else {}
    if not change:
        del tensors[name]
    with pytest.raises(ValueError, match=f"{re.escape(name)}: {message}"):
        fresh.restore(2, trained.histories, tensors)
    assert (fresh.epoch, bits(fresh)) == (0, before)


def test_restoring_changes_all_tensors_and_nothing_else_is_among_them() -> None:
    trained, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    others = {name: tensor + 1 for name, tensor in trained.tensors().items()}
    # What is heard may be anything; what is trained can't be NaN.
    others["donor.0.fc1.signal.summary.gain"].fill_(torch.nan)
    fresh.restore(2, trained.histories, others)
    assert bits(fresh) == {name: tensor.contiguous().numpy().tobytes() for name, tensor in others.items()}


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        (
            "step_losses",
            [0.1] * 5,
            r"expected 6 losses and \(2, 3\) evaluations and hearings, found 5 and \(2, 3\)",
        ),
        ("epochs", [], r"expected 6 losses and \(2, 3\) evaluations and hearings, found 6 and \(0, 3\)"),
        ("hearings", [], r"expected 6 losses and \(2, 3\) evaluations and hearings, found 6 and \(2, 0\)"),
        ("diverged", 2, r"expected 2 losses and \(0, 1\) evaluations and hearings, found 6 and \(2, 3\)"),
        ("diverged", 6, r"expected 6 losses and \(1, 2\) evaluations and hearings, found 6 and \(2, 3\)"),
        ("diverged", 7, "expected a step from 1 to 6 at which it diverged, found 7"),
        ("diverged", 0, "expected a step from 1 to 6 at which it diverged, found 0"),
    ],
)
def test_histories_that_cannot_be_are_refused(field, value, found) -> None:
    trained, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    histories = copy.deepcopy(trained.histories)
    setattr(histories[1], field, value)
    with pytest.raises(ValueError, match=f"history 1: {found}"):
        fresh.restore(2, histories, trained.tensors())
    for epoch, some in ((0, trained.histories), (4, trained.histories), (2, trained.histories[:1])):
        with pytest.raises(
            ValueError, match=rf"expected 2 histories of 1 to 3 epochs, found {len(some)} of {epoch}"
        ):
            fresh.restore(epoch, some, trained.tensors())
    fresh.restore(2, trained.histories, trained.tensors())


def test_nan_is_possible_where_training_has_diverged(data) -> None:
    settings = TRAINING.model_copy(update={"lr": 1e30})
    diverged, again = (Lockstep([build_arm(make(), STEPS)], data, settings, [2]) for _ in range(2))
    train(diverged)
    assert diverged.tensors()["network.0.fc1.weight"].isnan().any()
    again.restore(diverged.epoch, diverged.histories, diverged.tensors())
    assert bits(again) == bits(diverged)
