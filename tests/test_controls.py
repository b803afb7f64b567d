"""The signals that stand in for the network's own weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import weight_feedback as wf
from helpers import cases, reference

# Signals that hold z


def test_zeros_and_received() -> None:
    for kind in (wf.Zeros, wf.Received):
        assert kind(3)().tolist() == [0, 0, 0]
        assert kind(3, dtype=torch.float64, device=torch.device("meta"))().dtype == torch.float64
        with pytest.raises(ValueError, match=f"{kind.__name__}: out_features must be .* at least 1, got 0"):
            kind(0)


def test_received_copies() -> None:
    signal = wf.Received(2)
    z = torch.tensor([1.0, 2.0], requires_grad=True)
    signal.receive(z * 1)
    with torch.no_grad():
        z.zero_()
    assert signal().tolist() == [1, 2]
    assert not signal().requires_grad
    signal.receive(torch.tensor([3.0, 4.0], dtype=torch.float64))
    assert signal().dtype == torch.float32
    assert signal().tolist() == [3, 4]
    for wrong in (torch.zeros(3), torch.zeros(1), torch.zeros(1, 2), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"Received.receive: z must be a vector of shape \[2\], got \["):
            signal.receive(wrong)


def test_constant_copies() -> None:
    z = torch.tensor([1.0, 2.0], requires_grad=True)
    signal = wf.Constant(z)
    with torch.no_grad():
        z.zero_()
    assert signal().tolist() == [1, 2]
    assert not signal().requires_grad
    assert set(signal.state_dict()) == {"z"}


@pytest.mark.parametrize("kind", [wf.Constant, wf.Noise])
@pytest.mark.parametrize("shape", [(), (0,), (1, 3)])
def test_not_a_vector(kind, shape) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: z must be a vector of shape"):
        kind(torch.zeros(shape))


# Noise

TARGET = torch.tensor([0.5, -2.0, 3.0, 1.0, 0.25, 1.0, 1.0], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("padding", [0, 2])
def test_noise_matches(padding: int) -> None:
    signal = wf.Noise(TARGET, padding=padding, seed=3)
    heard, fill = TARGET.detach().split([7 - padding, padding])
    for _ in range(5):
        z = signal()[: 7 - padding]
        assert float(z.mean()) == pytest.approx(float(heard.mean()), rel=1e-13)
        assert float(z.std(correction=0)) == pytest.approx(float(heard.std(correction=0)), rel=1e-13)
        assert float(z.norm()) == pytest.approx(float(heard.norm()), rel=1e-13)
        assert not torch.isclose(z, heard).any()
        assert torch.equal(signal()[7 - padding :], fill)
        signal.advance()


def test_noise_is_gaussian() -> None:
    z = wf.Noise(torch.linspace(-1, 1, 4001, dtype=torch.float64))()
    z = (z - z.mean()) / z.std(correction=0)
    # Kurtosis 3, with variance 24/n.
    assert abs(z.pow(4).mean() - 3) < 5 * math.sqrt(24 / z.numel())


def test_noise_redrawn_or_not() -> None:
    redrawn, fixed = wf.Noise(TARGET), wf.Noise(TARGET, redraw=False)
    seen = []
    for _ in range(4):
        seen.append(redrawn().clone())
        assert torch.equal(fixed(), seen[0])
        redrawn.advance()
        fixed.advance()
    assert all(not torch.isclose(a, b).any() for i, a in enumerate(seen) for b in seen[:i])
    redrawn.reset_parameters()
    assert torch.equal(redrawn(), seen[0])


def test_noise_goes_on_with_the_seed_that_was_saved() -> None:
    saved, loaded = wf.Noise(TARGET, seed=1), wf.Noise(TARGET, seed=2)
    loaded.load_state_dict(saved.state_dict())
    saved.advance()
    loaded.advance()
    assert torch.equal(loaded(), saved())


def test_noise_depends_on_seed_and_step_alone() -> None:
    one, same, other = (wf.Noise(TARGET, seed=seed) for seed in (1, 1, 2))
    for _ in range(3):
        torch.rand(1)
        assert torch.equal(one(), same())
        assert not torch.isclose(one(), other()).any()
        for signal in (one, same, other):
            signal.advance()


def test_noise_of_one_number() -> None:
    signal = wf.Noise(torch.tensor([4.0, 1.0]), padding=1)
    signal.advance()
    assert signal().tolist() == [4, 1]


def test_noise_on_other_default_device() -> None:
    with torch.device("meta"):
        signal = wf.Noise(TARGET, seed=3)
    assert torch.equal(signal(), wf.Noise(TARGET, seed=3)())


@pytest.mark.parametrize("padding", [-1, 7])
def test_noise_errors(padding: int) -> None:
    with pytest.raises(ValueError, match=f"Noise: padding must lie from 0 to 6, got {padding}"):
        wf.Noise(TARGET, padding=padding)


# Clock


@pytest.mark.parametrize(("k", "max_period", "amplitude"), [(6, 10_000.0, 1.0), (5, 50.0, 0.5), (1, 7.0, 2.0)])
def test_clock_is_the_position_encoding(k: int, max_period: float, amplitude: float) -> None:
    signal = wf.Clock(k, max_period=max_period, amplitude=amplitude, dtype=torch.float64)
    for step in range(12):
        expected = reference.clock(step, k, max_period, amplitude)
        np.testing.assert_allclose(signal().numpy(), expected, rtol=1e-12, atol=1e-12)
        signal.advance()


def test_clock_amplitude() -> None:
    signal = wf.Clock(8, amplitude=math.sqrt(2), dtype=torch.float64)
    for _ in range(5):
        assert float(signal().square().mean().sqrt()) == pytest.approx(1, rel=1e-14)
        signal.advance()


def test_clock_errors() -> None:
    with pytest.raises(ValueError, match=r"Clock: max_period must be positive, got 0"):
        wf.Clock(2, max_period=0)
    with pytest.raises(ValueError, match="Clock: out_features must be"):
        wf.Clock(0)


# Stale


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_stale_is_exactly_late(lag: int) -> None:
    model = cases.network()
    wf.attach(model, "2", signal=wf.Stale(wf.OwnWeights(cases.reads(model), wf.DenseProjection(4)), lag))
    seen = []
    for step in range(4 * lag + 7):
        seen.append(model[2].signal.signal().clone())
        assert torch.equal(model[2].signal(), seen[max(step - lag, 0)])
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        wf.advance(model)
    assert f"lag={lag}" in repr(model[2].signal)


def test_stale_follows_the_signal_inside() -> None:
    clock, stale = wf.Clock(4), wf.Stale(wf.Clock(4), lag=2)
    for step in range(8):
        assert torch.equal(stale(), clock())
        if step >= 2:
            clock.advance()
        stale.signal.advance()
        stale.advance()
    stale.signal.reset_parameters()
    stale.reset_parameters()
    assert torch.equal(stale(), wf.Clock(4)())
    assert stale.step == 0


def test_stale_has_the_reads_of_the_signal_inside_and_no_gradient() -> None:
    model = cases.network()
    signal = wf.Stale(wf.OwnWeights(cases.reads(model), wf.Moments(), detach=False), lag=1)
    assert [read.name for read in signal.reads] == ["0.weight", "2.weight"]
    signal.advance()
    assert not signal().requires_grad


@pytest.mark.parametrize("lag", [0, -1])
def test_stale_errors(lag: int) -> None:
    with pytest.raises(ValueError, match=f"Stale: lag must be at least 1 step, got {lag}"):
        wf.Stale(wf.Zeros(2), lag)


# What is drawn ahead

START = wf.Clock(4).state_dict()


@pytest.mark.parametrize("make", [lambda: wf.Noise(TARGET, padding=2, seed=3), lambda: wf.Clock(5, max_period=9)])
@pytest.mark.parametrize("steps", [1, 4])
def test_what_is_precomputed_is_what_is_drawn_later(make, steps: int) -> None:
    drawn, precomputed = make(), make()
    for step in range(11):  # from the start and in between, and longer than is precomputed
        if step in (0, 2, 3):
            precomputed.precompute(steps)
        for signal in (drawn, precomputed):
            signal.advance()
        assert torch.equal(precomputed(), drawn())
    assert set(precomputed.state_dict()) == set(drawn.state_dict())


def test_what_is_precomputed_is_read_as_it_lies_there(monkeypatch) -> None:
    signal = wf.Noise(TARGET, seed=3)
    signal.precompute(2)
    place = signal.ahead.data_ptr()
    monkeypatch.setattr(signal, "_at", None)  # nothing is drawn
    signal.advance()
    signal.advance()
    monkeypatch.undo()
    signal.precompute(2)
    assert signal.ahead.data_ptr() == place


@pytest.mark.parametrize("go_back", [wf.Clock.reset_parameters, lambda signal: signal.load_state_dict(START)])
def test_another_time_is_not_what_was_precomputed(go_back) -> None:
    signal, expected = wf.Clock(4), wf.Clock(4)
    expected.advance()
    signal.advance()
    signal.precompute(3)  # steps 2 to 4
    go_back(signal)
    signal.advance()
    assert torch.equal(signal(), expected())


def test_a_whole_model_precomputes() -> None:
    models = [cases.network(), cases.network()]
    for model in models:
        wf.attach(model, "2", signal=wf.Stale(wf.Clock(4, dtype=torch.float64), lag=1))
    wf.precompute(models[0], 3)
    assert len(models[0][2].signal.signal.ahead) == 3
    for _ in range(5):
        for model in models:
            wf.advance(model)
        assert torch.equal(models[0][2].signal(), models[1][2].signal())
    with pytest.raises(ValueError, match="precompute: steps must be at least 0, got -1"):
        wf.precompute(models[0], -1)
