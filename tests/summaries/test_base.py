from __future__ import annotations

import copy
import inspect
import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import weight_feedback as wf
from helpers import cases
from weight_feedback import summaries
from weight_feedback.registry import SUMMARIES

each_summary = pytest.mark.parametrize("case", cases.SUMMARIES, ids=cases.ids(cases.SUMMARIES))
each_seeded = pytest.mark.parametrize("case", cases.SEEDED, ids=cases.ids(cases.SEEDED))


def wiped(summary: wf.Summary) -> wf.Summary:
    """The module after to_empty, in the worst case: memory full of rubbish."""
    summary.to_empty(device="cpu")
    for buffer in summary.buffers():
        buffer.fill_(math.nan if buffer.is_floating_point() else 77)
    return summary


def test_every_summary_is_in_the_registry_and_among_the_cases() -> None:
    exported = (getattr(summaries, name) for name in summaries.__all__)
    concrete = {
        kind
        for kind in exported
        if isinstance(kind, type) and issubclass(kind, wf.Summary) and kind not in (wf.Summary, wf.Projection)
    }
    assert concrete == set(SUMMARIES.values()) == {type(case.make(0)) for case in cases.SUMMARIES}
    for name, kind in SUMMARIES.items():
        assert kind.kind == name
        assert getattr(wf, kind.__name__) is kind
        assert kind.settings.keys() == inspect.signature(kind).parameters.keys()


@each_summary
def test_size_and_names(case: cases.SummaryCase) -> None:
    summary, weights = case.bound()
    assert summary(*weights).shape == (case.k,)
    assert summary.out_features == case.k
    assert summary.padding == case.padding
    assert summary.names == case.names[: len(case.shapes)]
    assert summary.shapes == case.shapes
    assert f"out_features={case.k}" in repr(summary)
    assert case.names[0] in repr(summary)
    assert "unbound" in repr(case.make(0))


@each_summary
def test_agrees_with_naive_version(case: cases.SummaryCase) -> None:
    summary, weights = case.bound()
    for shift in (0.0, 1.7):  # also on weights other than those it was bound to
        moved = [weight + shift for weight in weights]
        expected = case.naive(summary, [weight.numpy() for weight in moved])
        np.testing.assert_allclose(summary(*moved).numpy(), expected, rtol=1e-12, atol=1e-12)


@each_summary
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 1e-1)]
)
def test_follows_dtype(case: cases.SummaryCase, dtype: torch.dtype, tolerance: float) -> None:
    cast, weights = case.bound(torch.float64)
    cast = cast.to(dtype)
    z = cast(*[weight.to(dtype) for weight in weights])
    exact, _ = case.bound(torch.float64)
    assert z.dtype == dtype
    torch.testing.assert_close(z.double(), exact(*weights), rtol=tolerance, atol=tolerance)


@each_summary
def test_bound_to_float32(case: cases.SummaryCase) -> None:
    single, weights = case.bound(torch.float32)
    assert single(*weights).dtype == torch.float32
    assert all(buffer.dtype in (torch.float32, torch.int8) for buffer in single.buffers())  # signs are bytes
    exact, exact_weights = case.bound(torch.float64)
    torch.testing.assert_close(single(*weights).double(), exact(*exact_weights), rtol=1e-5, atol=1e-5)
    assert single.double()(*exact_weights).dtype == torch.float64


@each_summary
def test_follows_to_meta(case: cases.SummaryCase) -> None:
    summary, weights = case.bound()
    z = summary.to("meta")(*[weight.to("meta") for weight in weights])
    assert z.is_meta
    assert z.shape == (case.k,)


@each_summary
def test_bound_to_meta_then_made_real(case: cases.SummaryCase) -> None:
    expected, weights = case.bound()
    meta = {name: weight.to("meta") for name, weight in case.weights().items()}
    if "calibrated" in case.name:
        with pytest.raises(
            ValueError, match=r"norm unknown \(they are on the meta device\); initialise them first"
        ):
            case.make(0).bind(meta)
        return
    summary = wiped(case.make(0).bind(meta))
    if hasattr(summary, "reset_parameters"):
        summary.reset_parameters()
    assert torch.equal(summary(*weights), expected(*weights))


@each_summary
def test_gradient(case: cases.SummaryCase) -> None:
    summary, weights = case.bound()
    inputs = [weight.requires_grad_() for weight in weights]
    assert torch.autograd.gradcheck(summary, inputs)


@each_summary
def test_forward_changes_nothing(case: cases.SummaryCase) -> None:
    summary, weights = case.bound()
    before = [tensor.clone() for tensor in [*summary.buffers(), *weights]]
    first = summary(*weights)
    for training in (True, False):
        assert torch.equal(summary.train(training)(*weights), first)
    assert all(map(torch.equal, before, [*summary.buffers(), *weights]))


@each_summary
def test_bound_once(case: cases.SummaryCase) -> None:
    summary, _ = case.bound()
    with pytest.raises(RuntimeError, match=r"is bound to fc1\.weight"):
        summary.bind(case.weights())


@each_summary
def test_nothing_to_read(case: cases.SummaryCase) -> None:
    with pytest.raises(ValueError, match="at least one tensor to read, got none"):
        case.make(0).bind({})
    weights = case.weights()
    weights["empty"] = torch.zeros(3, 0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"can't read empty: it is empty, with shape \[3, 0\]"):
        case.make(0).bind(weights)


@each_summary
def test_usable_after_failed_bind(case: cases.SummaryCase) -> None:
    expected, weights = case.bound()
    summary = case.make(0)
    with pytest.raises(ValueError, match="empty"):
        summary.bind({"fc1.weight": torch.empty(0)})
    assert torch.equal(summary.bind(case.weights())(*weights), expected(*weights))


@each_summary
def test_copies_keep_z(case: cases.SummaryCase) -> None:
    summary, weights = case.bound()
    expected = summary(*weights)
    file = io.BytesIO()
    torch.save(summary, file)
    file.seek(0)
    for other in (copy.deepcopy(summary), torch.load(file, weights_only=False)):
        assert torch.equal(other(*weights), expected)
        assert other.names == summary.names


@each_summary
def test_state_dict_carries_the_seed(case: cases.SummaryCase) -> None:
    summary, weights = case.bound(seed=1)
    # Bound to weights of its own, as a model is that was initialised otherwise.
    other = case.make(2).bind(case.weights(seed=9))
    other.load_state_dict(summary.state_dict())
    assert torch.equal(other(*weights), summary(*weights))
    assert sum(torch.as_tensor(value).numel() for value in summary.state_dict().values()) <= 2


@each_summary
def test_reset_after_to_empty(case: cases.SummaryCase) -> None:
    summary, weights = case.bound(seed=1)
    expected, state = summary(*weights), copy.deepcopy(summary.state_dict())
    wiped(summary)
    if hasattr(summary, "reset_parameters"):
        summary.reset_parameters()
    if "gain" in state:  # a calibrated factor is a measurement: it comes from the state_dict alone
        summary.load_state_dict(state)
    assert torch.equal(summary(*weights), expected)


def z_of(case: cases.SummaryCase, seed: int, weights: dict[str, Tensor]) -> Tensor:
    return case.make(seed).bind(weights)(*weights.values())


@each_seeded
def test_same_seed_same_bits(case: cases.SummaryCase) -> None:
    weights = case.weights()
    first = z_of(case, 1, weights)
    torch.manual_seed(5)  # the global generator plays no part
    assert torch.equal(z_of(case, 1, weights), first)
    assert not torch.isclose(z_of(case, 2, weights), first).any()


def drawn(summary: wf.Summary) -> list[torch.Tensor]:
    """The random parts of a summary: all buffers but the factor."""
    parts = [buffer for name, buffer in summary.named_buffers() if name != "gain"]
    assert parts
    return [part.float() if part.dtype == torch.int8 else part for part in parts]


@each_seeded
def test_other_names_other_bits(case: cases.SummaryCase) -> None:
    weights = case.weights()
    renamed = {f"other.{name}": weight for name, weight in weights.items()}
    first, other = case.make(1).bind(weights), case.make(1).bind(renamed)
    assert not any(map(torch.equal, drawn(first), drawn(other)))


@each_seeded
def test_dtype_does_not_change_the_draw(case: cases.SummaryCase) -> None:
    single, double = case.bound(torch.float32)[0], case.bound(torch.float64)[0]
    assert all(map(torch.equal, drawn(single), [part.float() for part in drawn(double)]))


def test_base_class_is_abstract() -> None:
    with pytest.raises(NotImplementedError):
        wf.Summary().bind({"w": torch.ones(1)})
    with pytest.raises(NotImplementedError):
        wf.Summary()(torch.ones(1))
