"""Epoch checkpoints as files: what is read is what was written, or it is refused."""

from __future__ import annotations

import functools
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from helpers.interrupted_trials import STEPS, TRAINING, bits, cut, few_images, make
from helpers.lockstep_training import trained
from weight_feedback.lab.data import datasets
from weight_feedback.lab.tasks.base import PlainTrial
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.building import build_cohort
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial
from weight_feedback.lab.training import checkpoints, states
from weight_feedback.lab.training.checkpoints import Checkpointer, CheckpointError, Header, decode, encode
from weight_feedback.lab.training.context import TrialContext


@pytest.fixture(autouse=True)
def data(monkeypatch) -> datasets.Dataset:
    few = few_images()
    monkeypatch.setattr(datasets, "load", lambda *_: few)
    return few


SMALL = Header(
    same={"settings": "0123456789abcdef", "threads": 1},
    epoch=2,
    plain=[{"epochs": [{"loss": 1.5, "correct": 3}], "diverged": None}, {"epochs": [], "diverged": 1}],
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


def sealed(metadata: dict[str, str]) -> bytes:
    """A file with a right digest, whatever is in it."""
    content = save({"x": torch.zeros(1)}, metadata | {"sha256": "0" * 64})
    place = checkpoints._DIGEST.search(content)
    return checkpoints._with_digest(content, place, checkpoints.hashlib.sha256(content).hexdigest())


TEXT = SMALL.model_dump_json(exclude={"plain"})[:-1] + ',"histories":[]}'


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
        ({"checkpoint": TEXT.replace(',"histories":[]', "")}, "header: histories: needed, but missing"),
    ],
)
def test_what_is_no_checkpoint_is_refused(metadata, message) -> None:
    assert decode(sealed({"checkpoint": TEXT}))[0].epoch == 2
    with pytest.raises(CheckpointError, match=message):
        decode(sealed(metadata))


@functools.cache
def yoked_pair() -> Lockstep:
    """Two yoked networks after two epochs."""
    one = make("yoked", training={"cohort": 2, "epochs": 2})
    lockstep = fresh_pair(one)
    trained(lockstep)
    return lockstep


def fresh_pair(one: NetworkTrial) -> Lockstep:
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
    fresh = fresh_pair(make("yoked", training={"cohort": 2}))
    (plain, tensors), before = yoked_pair().state(), bits(fresh)
    assert name in tensors or name == "more"
    tensors |= {name: change(tensors.get(name))} if change else {}
    if not change:
        del tensors[name]
    with pytest.raises(ValueError, match=f"{re.escape(name)}: {message}"):
        fresh.restore(2, plain, tensors)
    assert (fresh.epoch, fresh.histories, bits(fresh)) == (0, [History(), History()], before)


def test_restoring_changes_all_tensors_and_nothing_else_is_among_them() -> None:
    pair, fresh = yoked_pair(), fresh_pair(make("yoked", training={"cohort": 2}))
    plain, whole = pair.state()
    others = {name: tensor + 1 for name, tensor in pair.tensors().items()}
    # What is heard may be anything; what is trained can't be NaN.
    others["donor.0.fc1.signal.summary.gain"].fill_(torch.nan)
    fresh.restore(2, plain, whole | others)
    assert fresh.histories == pair.histories
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
    fresh = fresh_pair(make("yoked", training={"cohort": 2}))
    plain, tensors = yoked_pair().state()
    changed = {}
    if field == "step_losses":
        changed = {"network.1.losses": torch.tensor(value, dtype=torch.float64)}
    else:
        plain[1][field] = value
    with pytest.raises(ValueError, match=f"history 1: {found}"):
        fresh.restore(2, plain, tensors | changed)


def test_more_or_fewer_networks_or_epochs_than_there_can_be_are_refused() -> None:
    fresh = fresh_pair(make("yoked", training={"cohort": 2}))
    plain, tensors = yoked_pair().state()
    one = {name: tensor for name, tensor in tensors.items() if name != "network.1.losses"}
    for epoch, some, named in ((0, plain, tensors), (4, plain, tensors), (2, plain[:1], one)):
        with pytest.raises(
            ValueError, match=rf"expected 2 histories of 1 to 3 epochs, found {len(some)} of {epoch}"
        ):
            fresh.restore(epoch, some, named)
    fresh.restore(2, plain, tensors)
    assert fresh.histories == yoked_pair().histories


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain[1].update(diverged=0.5), r"histories: 1\.diverged: .*got 0\.5"),
        (lambda plain: plain[1].update(more=1), r"histories: 1\.more: "),
        (lambda plain: plain[0]["epochs"][1].pop("loss"), r"histories: 0\.epochs\.1\.loss: needed, but missing"),
        (lambda plain: plain[0]["hearings"][2].update(drift="0.5"), r"histories: 0\.hearings\.2\.drift: .*'0\.5'"),
        (lambda plain: plain.append([]), r"histories: 2: "),
    ],
)
def test_what_are_no_histories_is_refused(change, message) -> None:
    fresh = fresh_pair(make("yoked", training={"cohort": 2}))
    plain, tensors = yoked_pair().state()
    change(plain)
    with pytest.raises(ValueError, match=message):
        fresh.restore(2, plain, tensors)


@pytest.mark.parametrize(
    "losses",
    [
        None,
        torch.zeros(6),
        torch.zeros(6, 1, dtype=torch.float64),
        torch.tensor([0.0] * 5 + [torch.nan], dtype=torch.float64),
    ],
)
def test_losses_that_cannot_be_are_refused(losses) -> None:
    fresh = fresh_pair(make("yoked", training={"cohort": 2}))
    plain, tensors = yoked_pair().state()
    tensors["network.1.losses"] = losses
    if losses is None:
        del tensors["network.1.losses"]
    with pytest.raises(
        ValueError, match=r"network\.1\.losses: expected a vector of finite numbers in torch.float64"
    ):
        fresh.restore(2, plain, tensors)


def test_nan_is_possible_where_training_has_diverged(data) -> None:
    settings = TRAINING.model_copy(update={"lr": 1e30})
    diverged, again = (Lockstep([build_arm(make(), STEPS)], data, settings, [2]) for _ in range(2))
    trained(diverged)
    assert diverged.tensors()["network.0.fc1.weight"].isnan().any()
    again.restore(diverged.epoch, *diverged.state())
    assert (again.histories, bits(again)) == (diverged.histories, bits(diverged))


# Training of tasks of one's own


def plateau() -> dict:
    """A state whose best loss is infinite."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser).state_dict()


@pytest.mark.parametrize(
    "state",
    [
        *(math.inf, -math.inf, -0.0, 2**70, True, None, "ä", [], {}, ()),
        {"a tensor": "state"},
        {"a number": "nan", "more": [{"pairs": 1}, {"a tuple": 2}, {"an array": 3}]},
        {1: "one", "1": "a text", (1, (2, "x")): None, 0.5: {"a number": 1}},
        (1, [2, (3,)], {"inner": ({4: 5},)}),
        np.random.default_rng(3).bit_generator.state,
        plateau(),
    ],
    ids=repr,
)
def test_plain_states_are_read_as_they_were_written(state) -> None:
    assert through_a_file(state) == state
    assert repr(through_a_file([state])) == repr([state])


def test_tensors_and_arrays_are_read_as_they_were_written() -> None:
    shared = torch.arange(6.0).view(2, 3)
    tensors = {
        "a.b": shared.T,
        "a": {"b": shared[0], 1: torch.tensor(2), "1": torch.ones(2, dtype=torch.bfloat16)},
        "none": torch.zeros(2, 0),
    }
    read = through_a_file(tensors)
    assert repr(read) == repr(tensors)
    arrays = [np.array(3.5), np.arange(6, dtype=np.uint8).reshape(2, 3).T, np.array([True]), np.array([math.nan])]
    for found, expected in zip(through_a_file(arrays), arrays, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    assert math.isnan(through_a_file(math.nan))
    assert (
        repr(through_a_file([np.float32(0.5), np.int64(3), np.float32("inf"), np.True_])) == "[0.5, 3, inf, True]"
    )
    with pytest.raises(
        TypeError, match=r"state\.a\.0: expected tensors, arrays and plain values in a state, got set"
    ):
        states.flatten({"a": [{1}]})


def through_a_file(state: object) -> object:
    plain, tensors = states.flatten(state)
    header, tensors = decode(encode(SMALL.model_copy(update={"plain": plain}), tensors))
    return states.unflatten(header.plain, tensors)


@pytest.mark.parametrize(
    "plain",
    [
        {"a tensor": "x"},
        {"a tensor": []},
        {"an array": {}},
        {"pairs": 1},
        {"pairs": [[1]]},
        {"pairs": [[[], 1]]},
        {"a tuple": None},
        {"a number": "x"},
        {"a number": []},
    ],
    ids=repr,
)
def test_what_is_no_state_is_refused(plain) -> None:
    with pytest.raises(ValueError, match=r"."):
        states.unflatten([plain], {})


def context_at(path: Path) -> TrialContext:
    checkpointer = Checkpointer(path, 0, {}, pytest.fail)
    trial = PlainTrial(path="tasks:own", values={}, seed=3)
    return TrialContext(trial, None, torch.device("cpu"), None, None, checkpointer, ["accuracy"])


def test_streams_go_on_however_often_training_is_interrupted_before_they_are_asked_for_again(tmp_path) -> None:
    def train(one: TrialContext, last: int = 4) -> list[float]:
        drawn = []
        for epoch in one.epochs(4):
            if epoch > last:  # interrupted, once the epoch before it is kept
                break
            one.report(accuracy=epoch / 4)
            one.diagnose(drift=math.nan)
            if epoch in (1, 4):
                drawn += [float(torch.rand((), generator=one.stream("noise"))), one.rng("order").random()]
        return drawn

    whole = context_at(tmp_path / "whole")
    drawn = train(whole)
    parts = []
    for last in (1, 2, 3, 4):
        parts += train(one := context_at(tmp_path / "parts"), last)
    assert parts == drawn
    assert len(set(drawn)) == 4
    assert repr(one.finish(None)) == repr(whole.finish(None))


def test_each_purpose_has_a_stream_of_its_own(tmp_path) -> None:
    one = context_at(tmp_path / "checkpoint")
    purposes = [("a", "b"), ("a/b",), ("a", 1), ("a", "1"), ("a",)]
    assert len({float(torch.rand((), generator=one.stream(*names))) for names in purposes}) == len(purposes)
    assert len({one.rng(*names).random() for names in purposes}) == len(purposes)
    assert one.stream("a") is one.stream("a")
    assert one.rng("a") is one.rng("a")
