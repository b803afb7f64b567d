from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import weight_feedback as wf
from helpers import cases

each_signal = pytest.mark.parametrize("case", cases.SIGNALS, ids=cases.ids(cases.SIGNALS))
X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)


def move(model: nn.Module) -> None:
    """One optimiser step, as far as a signal can tell."""
    with torch.no_grad():
        for module in (model[0], model[2]):
            module.weight.mul_(1.1).add_(0.01)
    wf.advance(model)


def snapshot(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in [*model.parameters(), *model.buffers()]]


def reloaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# Every signal


@each_signal
def test_size(case: cases.SignalCase) -> None:
    signal = case.attached()[2].signal
    assert signal().shape == (case.k,)
    assert signal.out_features == case.k
    assert f"out_features={case.k}" in repr(signal)


@each_signal
def test_forward_is_pure(case: cases.SignalCase) -> None:
    model = case.attached()
    for _ in range(3):
        move(model)
    before, z, output = snapshot(model), model[2].signal(), model(X).detach()
    for training in (True, False, True):
        model.train(training)
        for _ in range(3):
            assert torch.equal(model[2].signal(), z)
            result = model(X)
            result.sum().backward()
            assert torch.equal(result, output)
    assert all(map(torch.equal, before, snapshot(model)))


@each_signal
def test_time_and_weights(case: cases.SignalCase) -> None:
    model = case.attached()
    start = model[2].signal().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
        model[2].weight.add_(1)
    assert torch.equal(model[2].signal(), start) != case.own
    moved = model[2].signal().clone()
    wf.advance(model)
    wf.advance(model)
    assert torch.equal(model[2].signal(), moved) != case.timed


@each_signal
def test_gradient_reaches_read_weights_only_if_asked(case: cases.SignalCase) -> None:
    model = case.attached()
    model[2](torch.zeros(model[2].in_features, dtype=torch.float64)).sum().backward()
    assert model[2].bias.grad is not None
    assert model[2].feedback_weight.grad is not None
    assert (model[0].weight.grad is not None) == case.gradient
    # The input is zero, so nothing but the signal could lead back to the layer's own weight.
    assert bool(model[2].weight.grad.any()) == case.gradient


@each_signal
@pytest.mark.parametrize("copied", [copy.deepcopy, reloaded])
def test_copies_are_whole_and_apart(case: cases.SignalCase, copied) -> None:
    model = case.attached()
    move(model)
    other = copied(model)
    wf.check(other)
    assert torch.equal(other(X), model(X))
    before = model(X)
    for _ in range(3):
        move(other)
    assert torch.equal(model(X), before)
    for _ in range(3):
        move(model)
    assert torch.equal(other(X), model(X))
    assert torch.equal(other[2].signal(), model[2].signal())


@each_signal
def test_state_dict_restores_weights_and_time(case: cases.SignalCase) -> None:
    model, other = case.attached(), case.attached()
    for _ in range(4):
        move(model)
    other.load_state_dict(model.state_dict())
    for _ in range(4):
        assert torch.equal(other(X), model(X))
        assert torch.equal(other[2].signal(), model[2].signal())
        move(other)
        move(model)


@each_signal
def test_no_parameter_twice(case: cases.SignalCase) -> None:
    model = case.attached()
    assert [name for name, _ in model.named_parameters()] == [
        "0.weight", "0.bias", "2.weight", "2.bias", "2.feedback_weight"
    ]  # fmt: skip
    base = {"0.weight", "0.bias", "2.weight", "2.bias", "2.feedback_weight"}
    assert all(name in base or name.startswith("2.signal.") for name in model.state_dict())


@each_signal
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_follows_dtype(case: cases.SignalCase, dtype: torch.dtype) -> None:
    model = case.attached().to(dtype)
    for _ in range(3):
        move(model)
        assert model[2].signal().dtype == dtype
    assert model(X.to(dtype)).dtype == dtype


@each_signal
def test_starts_again_after_to_empty(case: cases.SignalCase) -> None:
    model = case.attached()
    state, expected = copy.deepcopy(model.state_dict()), model(X)
    model.to("meta")
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(-77)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.load_state_dict(state)
    assert torch.equal(model(X), expected)


def test_base_class_is_abstract() -> None:
    with pytest.raises(NotImplementedError):
        wf.Signal()()
    wf.Signal().advance()
    assert wf.Signal().reads == ()


# Own weights


def own(model: nn.Sequential, summary: wf.Summary | None = None, **options) -> wf.OwnWeights:
    return wf.OwnWeights(cases.reads(model), summary or wf.DenseProjection(4), **options)


def test_own_is_the_summary_of_the_weights_now() -> None:
    model = cases.network()
    signal = own(model, wf.AvgPool([(1, 6), (3, 1)], transpose=[False, True]))
    for _ in range(3):
        expected = torch.cat([model[0].weight.mean(1), model[2].weight.mean(0)]).view(2, 5).T.flatten()
        torch.testing.assert_close(signal(), expected, rtol=1e-14, atol=0)
        with torch.no_grad():
            model[0].weight.mul_(-2)
        model[2].weight = nn.Parameter(model[2].weight.detach() + 1)  # a new object is read too


def test_gradient_through_the_signal_equals_finite_differences() -> None:
    model = cases.network()
    wf.attach(model, "2", signal=own(model, wf.Moments(), detach=False))
    with torch.no_grad():
        model[2].feedback_weight.normal_(generator=torch.Generator().manual_seed(0))

    def loss(first: Tensor, second: Tensor, v: Tensor) -> Tensor:
        replaced = {"0.weight": first, "2.weight": second, "2.feedback_weight": v}
        return functional_call(model, replaced, (X,)).square().sum()

    inputs = [model[0].weight, model[2].weight, model[2].feedback_weight]
    assert torch.autograd.gradcheck(loss, [tensor.detach().clone().requires_grad_() for tensor in inputs])


def test_gradient_stops_at_read_weights() -> None:
    model = cases.network()
    wf.attach(model, "2", signal=own(model), init="default")
    z = model[2].signal()
    assert not z.requires_grad
    (gradient,) = torch.autograd.grad(model(X).square().sum(), model[0].weight)
    frozen = cases.network()
    frozen[2].bias = nn.Parameter(model[2].plain_parameters(z)[1])
    (expected,) = torch.autograd.grad(frozen(X).square().sum(), frozen[0].weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-13)


def test_functional_call_reads_the_given_weights() -> None:
    model = cases.network()
    wf.attach(model, "2", signal=own(model), init="default")
    other = copy.deepcopy(model)
    move(other)
    expected = other(X)
    assert not torch.equal(model(X), expected)
    assert torch.equal(functional_call(model, dict(other.named_parameters()), (X,)), expected)


def test_vmap_over_stacked_models() -> None:
    models = []
    for scale in (1.0, -0.5, 2.0):
        model = cases.network()
        with torch.no_grad():
            model[0].weight.mul_(scale)
        wf.attach(model, "2", signal=own(model), init="default")
        models.append(model)
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    outputs = vmap(lambda p, b: functional_call(skeleton, (p, b), (X,)))(parameters, buffers)
    for output, model in zip(outputs, models, strict=True):
        torch.testing.assert_close(output, model(X), rtol=1e-12, atol=1e-12)


def test_read_errors() -> None:
    model = cases.network()
    model.register_buffer("count", torch.zeros(3, dtype=torch.int64))
    read = (model[0], "weight", "0.weight")
    with pytest.raises(ValueError, match=r"reads must have different names, got 0.weight, 0.weight"):
        wf.OwnWeights([read, read], wf.Moments())
    with pytest.raises(ValueError, match=r"can't read c: Sequential.count must be a floating.* got torch.int64"):
        wf.OwnWeights([(model, "count", "c")], wf.Moments())
    with pytest.raises(ValueError, match=r"can't read 0.w: Linear.w must be a floating-point tensor, got None"):
        wf.OwnWeights([(model[0], "w", "0.w")], wf.Moments())
    with pytest.raises(ValueError, match="Moments needs at least one tensor"):
        wf.OwnWeights([], wf.Moments())


# Permuted


def test_permuted_keeps_every_value() -> None:
    model = cases.network()
    reads = [read for read in cases.reads(model) if read.name == "0.weight"]
    signal = wf.Permuted(reads, wf.MaxPool([(1, 1)]), seed=1)  # 1×1 windows: z is the matrix itself
    before = signal()
    assert not torch.equal(before, model[0].weight.flatten())
    assert torch.equal(before.sort().values, model[0].weight.detach().flatten().sort().values)
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(30).view(5, 6))
    order = signal().long()
    move(model)
    assert torch.equal(signal(), model[0].weight.detach().flatten()[order])


def test_each_tensor_is_permuted_apart() -> None:
    model = cases.network()
    both = [(model[0], "weight", "a"), (model[0], "weight", "b")]
    signal = wf.Permuted(both, wf.MaxPool([(1, 1), (1, 1)]))
    first, second = signal().view(5, 12).split(6, dim=1)
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten().sort().values, second.flatten().sort().values)


def test_permuted_goes_on_with_the_seed_that_was_saved() -> None:
    model = cases.network()
    saved, loaded = (wf.Permuted(cases.reads(model), wf.DenseProjection(4), seed=seed) for seed in (1, 2))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded(), saved())


def test_permuted_is_seeded() -> None:
    model = cases.network()
    z = [wf.Permuted(cases.reads(model), wf.DenseProjection(4), seed=seed)() for seed in (1, 1, 2)]
    assert torch.equal(z[0], z[1])
    assert not torch.equal(z[0], z[2])
    with torch.device("meta"):
        other = wf.Permuted(cases.reads(model), wf.Moments(), seed=1)
    assert torch.equal(other.order_0, wf.Permuted(cases.reads(model), wf.Moments(), seed=1).order_0)


def test_permuting_does_not_matter_to_moments() -> None:
    model = cases.network()
    torch.testing.assert_close(
        wf.Permuted(cases.reads(model), wf.Moments())(), own(model, wf.Moments())(), rtol=1e-14, atol=1e-14
    )
    projected = wf.Permuted(cases.reads(model), wf.DenseProjection(4))()
    assert not torch.isclose(projected, own(model)()).any()


def test_permuted_passes_gradients_on() -> None:
    model = cases.network()
    weights = [read.tensor() for read in cases.reads(model)]
    permuted = wf.Permuted(cases.reads(model), wf.Moments(), detach=False)
    assert not wf.Permuted(cases.reads(model), wf.Moments())().requires_grad
    for ours, theirs in zip(
        torch.autograd.grad(permuted().sum(), weights),
        torch.autograd.grad(own(model, wf.Moments(), detach=False)().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_signal_that_is_heard_twice_moves_once_a_step() -> None:
    """Alone, inside another one, and inside a third: its time is one and the same."""
    model = cases.network()
    noise = wf.Noise(torch.linspace(-1, 2, 4, dtype=torch.float64))
    expected = copy.deepcopy(noise)
    late = [wf.Stale(noise, 1), wf.Stale(noise, 2)]
    for name, signal in (("0", noise), ("2", late[0])):
        wf.attach(model, name, signal=signal)
    other = nn.ModuleList([model, wf.attach(nn.Linear(2, 2), "", signal=late[1])])
    said = [noise().clone()]
    for _ in range(4):
        wf.advance(other)
        expected.advance()
        said.append(noise().clone())
        assert int(noise.step) == int(expected.step)
        assert torch.equal(noise(), expected())
    assert torch.equal(late[0](), said[-2])
    assert torch.equal(late[1](), said[-3])
