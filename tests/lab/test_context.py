"""What a task is given of a trial: streams, epochs that are resumed to the same bits, and what it may report."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from weight_feedback.lab.tasks.base import Measured, PlainTrial
from weight_feedback.lab.training.checkpoints import Checkpointer, Header, decode, encode
from weight_feedback.lab.training.context import TrialContext
from weight_feedback.lab.training.states import flatten, unflatten

METRICS = ("error", "size")


class Cut(Exception):  # noqa: N818 - an interruption, not an error
    """Training is cut short here."""


def context(path: Path | None = None, seed: int = 3, **options: Any) -> TrialContext:
    trial = PlainTrial(path="a:B", values={}, seed=seed)
    checkpointer = Checkpointer(path, 0, {"settings": "0"}, options.pop("note", pytest.fail))
    return TrialContext(trial, None, torch.device("cpu"), None, None, checkpointer, METRICS, **options)


def cut_after(epoch: int) -> Callable[[int, Mapping[str, float]], None]:
    def cut(finished: int, _: Mapping[str, float]) -> None:
        if finished == epoch:
            raise Cut

    return cut


def with_dropout(trial: TrialContext, epochs: int = 4) -> dict[str, Any]:
    """Train with everything that is random: PyTorch's, NumPy's and Python's own state, a stream and a generator."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimiser = torch.optim.Adam(net.parameters(), 0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 2)
    noise, drawn = trial.stream("noise"), trial.rng("data")
    for _ in trial.epochs(epochs, net=net, optimiser=optimiser, scheduler=scheduler):
        x = torch.randn(16, 4, generator=noise) + float(drawn.normal()) + random.random() + np.random.random()  # noqa: NPY002
        optimiser.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimiser.step()
        scheduler.step()
        trial.report(error=loss)
        trial.diagnose(rate=optimiser.param_groups[0]["lr"])
    return {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("epochs", [(1,), (2,), (1, 2, 3), (4,)])
def test_training_that_is_cut_short_goes_on_to_the_same_bits(tmp_path, epochs) -> None:
    whole = context()
    expected = with_dropout(whole), whole.finish(None)
    for epoch in epochs:
        with pytest.raises(Cut):
            with_dropout(context(tmp_path / "checkpoint", on_epoch=cut_after(epoch)))
    resumed = context(tmp_path / "checkpoint")
    assert (with_dropout(resumed), resumed.finish(None)) == expected


def test_seeds_and_epochs_have_random_states_of_their_own() -> None:
    def draws(trial: TrialContext) -> list[tuple[float, float, float]]:
        return [
            (float(torch.rand(())), float(np.random.random()), random.random())  # noqa: NPY002
            for _ in trial.epochs(3)
        ]

    assert draws(context()) == draws(context())
    assert len({*draws(context()), *draws(context(seed=4))}) == 6


def test_streams_are_the_same_each_time_and_differ_by_name_and_seed() -> None:
    def numbers(one: TrialContext, *names: str | int) -> tuple[float, float]:
        return float(torch.rand((), generator=one.stream(*names))), float(one.rng(*names).random())

    assert numbers(context(), "a", 1) == numbers(context(), "a", 1)
    assert len({numbers(context(), "a"), numbers(context(), "b"), numbers(context(seed=4), "a")}) == 3
    one = context()
    assert one.stream("a") is one.stream("a")
    assert one.rng("a") is one.rng("a")


def test_a_stream_that_is_asked_for_later_goes_on_as_well(tmp_path) -> None:
    def train(trial: TrialContext) -> list[float]:
        found = []
        for _ in trial.epochs(3):
            found.append(float(torch.rand((), generator=trial.stream("late"))))
            found.append(float(trial.rng("late").random()))
        return found

    whole = train(context())
    with pytest.raises(Cut):
        train(context(tmp_path / "c", on_epoch=cut_after(2)))
    assert train(context(tmp_path / "c")) == whole[4:]


def test_a_state_that_cannot_be_loaded_is_said_and_training_starts_over(tmp_path) -> None:
    def train(trial: TrialContext, size: int) -> Tensor:
        net, other = nn.Linear(2, 1), nn.Linear(size, 1)
        with torch.no_grad():
            net.weight.fill_(1.0)
        for _ in trial.epochs(2, net=net, other=other):
            with torch.no_grad():
                net.weight.add_(1.0)
        return net.weight.detach()

    with pytest.raises(Cut):
        train(context(tmp_path / "c", on_epoch=cut_after(1)), 2)
    notes: list[str] = []
    assert train(context(tmp_path / "c", note=notes.append), 3).tolist() == [[3.0, 3.0]]
    assert "other: its state can't be loaded: RuntimeError" in notes[0]
    assert "training starts over" in notes[0]


def test_other_names_of_states_are_no_way_to_go_on(tmp_path) -> None:
    def train(trial: TrialContext, **nets: nn.Module) -> None:
        for _ in trial.epochs(2, **nets):
            pass

    with pytest.raises(Cut):
        train(context(tmp_path / "c", on_epoch=cut_after(1)), net=nn.Linear(1, 1))
    notes: list[str] = []
    train(context(tmp_path / "c", note=notes.append), model=nn.Linear(1, 1))
    assert "expected states of ['model'], found those of ['net']" in notes[0]


def test_what_was_reported_makes_the_curves() -> None:
    one = context()
    for epoch in one.epochs(2):
        one.report(error=1 / epoch)
        one.diagnose(rate=0.5)
    one.keep("parameters", 3)
    assert one.finish({"size": 8}) == Measured(
        {"error": [1.0, 0.5], "size": [None, 8.0]}, 2, diagnostics={"rate": [0.5, 0.5]}
    )
    assert one.kept == {"parameters": 3}
    assert one.finish({"error": 0.25}).curves["error"] == [1.0, 0.25]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ends_the_curves(value) -> None:
    one = context()
    for error in (1.0, value, 3.0):
        one.report(error=error, size=1.0)
    found = one.finish({"size": 9.0})
    assert found.curves == {"error": [1.0], "size": [1.0]}
    assert found.diverged == f"epoch 2, where error is {value}"
    assert context().finish({"error": value}).diverged == f"epoch 1, where error is {value}"


def test_wrong_use_is_refused() -> None:
    one = context()
    with pytest.raises(ValueError, match="expected metrics among error, size, as the study names them, got 'eror'"):
        one.report(eror=1.0)
    with pytest.raises(ValueError, match="got 'eror'"):
        one.finish({"eror": 1.0})
    for value in ("much", None, torch.zeros(2), [1.0]):
        with pytest.raises(TypeError, match="error: expected a number, got "):
            one.report(error=value)
    for value in (object(), math.nan, {"a": [math.inf]}, {1, 2}):
        with pytest.raises(ValueError, match=r"trial\.keep: thing: expected what JSON can hold, but: "):
            one.keep("thing", value)
    with pytest.raises(TypeError, match="expected the task to return metrics by name, got float"):
        one.finish(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected the task to report metrics \(error, size\), got none"):
        one.finish(None)
    with pytest.raises(
        TypeError, match=r"net: expected an object with state_dict\(\) and load_state_dict\(\), got int"
    ):
        one.epochs(1, net=3)
    with pytest.raises(ValueError, match=r"trial.epochs: expected at least 1, got 0"):
        next(one.epochs(0))
    assert list(one.epochs(1)) == [1]
    with pytest.raises(RuntimeError, match="expected one loop over epochs"):
        next(one.epochs(1))


def test_the_log_and_the_heartbeat_are_heard() -> None:
    lines: list[Any] = []
    epochs: list[Any] = []
    one = context(on_log=lines.append, on_epoch=lambda *now: epochs.append(now))
    for epoch in one.epochs(2):
        one.log(f"in {epoch}")
        one.report(error=float(epoch))
    assert lines == ["in 1", "in 2"]
    assert epochs == [(1, {"error": 1.0}), (2, {"error": 2.0})]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ARRAYS = hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64, np.bool_]), hnp.array_shapes(min_dims=0))
LEAVES = PLAIN | ARRAYS | ARRAYS.map(torch.from_numpy)
KEYS = st.text() | st.integers() | st.sampled_from(["a tensor", "an array", "pairs", "a tuple"])
STATES: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        LEAVES
        | st.lists(STATES, max_size=3)
        | st.lists(STATES, max_size=3).map(tuple)
        | st.dictionaries(KEYS, STATES, max_size=3)
    )
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return type(a) is type(b) and bool(a == b)


@given(STATES)
def test_any_state_comes_back_from_a_file(state) -> None:
    plain, tensors = flatten(state)
    header = Header(same={}, epoch=1, plain=plain, started="", seconds=0.0, resumed=0)
    again, read = decode(encode(header, tensors))
    assert same(unflatten(again.plain, read), state)


@pytest.mark.parametrize("state", [object(), {"a": [{1, 2}]}, {"f": len}])
def test_what_is_no_state_is_refused(state) -> None:
    with pytest.raises(TypeError, match=r"^state.*: expected tensors, arrays and plain values in a state, got"):
        flatten(state)


def test_a_tensor_that_is_missing_is_said() -> None:
    plain, _ = flatten({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected a state and its tensors, found something else"):
        unflatten(plain, {})
