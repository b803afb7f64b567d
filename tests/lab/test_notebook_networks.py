"""The six networks against plain versions of them, with the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import notebook_networks
import weight_feedback as wf
from helpers import reference
from weight_feedback.lab.tasks.notebook.networks import NETWORKS, ConvNet, build, count_parameters, initialise

NAMES = list(notebook_networks.NETWORKS)
# The largest matrix takes 1.6 GB in float32: that network is compared in float32, to half of its precision.
LARGE = "cifar10-projected"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of several test processes wait for each other far longer than these small sums take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave projections undrawn, where only initial weights count: it spares seconds and gigabytes."""
    monkeypatch.setattr(wf.DenseProjection, "_draws", lambda _: iter(()))


def plain_version(name: str, model: ConvNet) -> notebook_networks.Network:
    plain = notebook_networks.Network(name).to(model.fc1.weight.dtype)
    with torch.no_grad():
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            ours, theirs = model.get_submodule(layer), plain.get_submodule(layer)
            theirs.weight.copy_(ours.full_weight if isinstance(ours, wf.FeedbackLinear) else ours.weight)
            theirs.bias.copy_(ours.bias)
    if plain.feedback == "projected":
        summary = model.fc1.signal.summary
        rows = reference.interleaved(plain.fc1.out_features, plain.fc1.in_features, 10)
        plain.P = summary.matrix[:, rows].mul_(summary.gain).T
    return plain


def parts(model: nn.Module, of=lambda parameter: parameter) -> dict[str, Tensor]:
    """Weights, or their gradients, by the names that the plain version has."""
    found = {name: of(parameter).detach().clone() for name, parameter in model.named_parameters()}
    if "fc1.feedback_weight" in found:
        found["fc1.weight"] = torch.cat([found["fc1.weight"], found.pop("fc1.feedback_weight")], dim=1)
    return found


def batches(name: str, count: int, size: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    (channels, *_), side, *_ = notebook_networks.NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, channels, side, side, generator=generator, dtype=dtype),
            torch.randint(10, (size,), generator=generator),
        )
        for _ in range(count)
    ]


@pytest.mark.no_cover  # other tests run these lines, and counting them takes half as long again
@pytest.mark.parametrize("name", NAMES)
def test_equals_plain_version_through_training(name: str) -> None:
    dtype, tolerance, steps = (torch.float32, 2e-4, 4) if name == LARGE else (torch.float64, 1e-10, 10)
    close = {"rtol": tolerance, "atol": tolerance * 1e-2}
    model = build(name, seed=3).to(dtype)
    plain = plain_version(name, model)
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.5) for m in (model, plain)]
    before = parts(model)
    for x, y in batches(name, count=steps, size=4, dtype=dtype):
        for optimiser in optimisers:
            optimiser.zero_grad()
        ours, theirs = model(x), plain(x)
        torch.testing.assert_close(ours, theirs, **close)
        torch.testing.assert_close(ours.exp().sum(1), torch.ones(4, dtype=dtype))
        for output in (ours, theirs):
            F.nll_loss(output, y).backward()
        torch.testing.assert_close(
            parts(model, lambda parameter: parameter.grad), parts(plain, lambda parameter: parameter.grad), **close
        )
        for optimiser in optimisers:
            optimiser.step()
        wf.advance(model)
    torch.testing.assert_close(parts(model), parts(plain), **close)
    assert not any(torch.equal(before[part], now) for part, now in parts(model).items())
    if plain.feedback:
        torch.testing.assert_close(model.fc1.signal(), plain.z(), **close)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name: str) -> None:
    *_, k, hidden, _, trainable = notebook_networks.NETWORKS[name]
    model = build(name, seed=0)
    assert count_parameters(model) == trainable == count_parameters(notebook_networks.Network(name))
    assert NETWORKS[name].k == k
    assert model.fc1.out_features == hidden
    if k:
        assert model.fc1.feedback_weight.shape == (hidden, k)
        assert [read.name for read in model.fc1.signal.reads] == ["fc1.full_weight", "fc2.weight"]
    else:
        assert wf.feedback_layers(model) == {}


def test_count_leaves_out_frozen_parameters() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert count_parameters(model) == 6


def test_names_are_those_of_the_table() -> None:
    assert [name for name, network in NETWORKS.items() if network.projection == "dense"] == NAMES
    for name, network in NETWORKS.items():
        assert name.startswith(network.data)
    with pytest.raises(ValueError, match=r"mnist-plain, mnist-pooled, .* 'mnist'"):
        build("mnist", seed=0)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_a_sketched_network_is_the_projected_one_with_another_map(data: str) -> None:
    sketched, projected = build(f"{data}-sketched", seed=4), build(f"{data}-projected", seed=4)
    for name, parameter in projected.named_parameters():
        assert torch.equal(sketched.get_parameter(name), parameter)
    signals = sketched.fc1.signal, projected.fc1.signal
    assert [read.name for read in signals[0].reads] == [read.name for read in signals[1].reads]
    sketch, dense = (signal.summary for signal in signals)
    assert isinstance(sketch, wf.CountSketch)
    assert sketch.out_features == dense.out_features
    assert (sketch.scale, sketch.seed) == (dense.scale, dense.seed) == ("xavier", 4)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_arms_of_a_seed_share_what_they_can(data: str) -> None:
    kinds = [f"{data}-{kind}" for kind in ("plain", "pooled", "projected")]
    shapes, values = {}, {}
    for name in kinds:
        model = build(name, seed=4)
        fan_in = {"fc1": model.fc1.in_features + notebook_networks.NETWORKS[name][2]}
        for key, value in model.named_parameters():
            layer = key.split(".")[0]
            shapes[name, key] = (value.shape, fan_in.get(layer, model.get_parameter(f"{layer}.weight")[0].numel()))
            values[name, key] = value
    shared = set()
    for (name, key), value in values.items():
        for other in kinds:
            if other != name and shapes.get((other, key)) == shapes[name, key]:
                assert torch.equal(value, values[other, key])
                shared.add((name, key))
    for name in kinds:
        assert (name, "conv1.weight") in shared
        assert (name, "conv2.bias") in shared
    plain, pooled, projected = kinds
    if data == "mnist":  # 50 outputs each
        assert {(plain, "fc2.weight"), (plain, "fc2.bias"), (projected, "fc2.bias")} <= shared
        assert not torch.isclose(values[plain, "fc1.weight"], values[projected, "fc1.weight"]).all()
    else:  # 500 outputs each
        assert {(pooled, key) for key in ("fc1.weight", "fc1.feedback_weight", "fc2.weight")} <= shared


def test_seeds() -> None:
    for one, same, other in zip(*(build("mnist-projected", seed).parameters() for seed in (1, 1, 2)), strict=True):
        assert torch.equal(one, same)
        assert not torch.isclose(one, other).all()
    matrices = [build("mnist-projected", seed).fc1.signal.summary.matrix for seed in (1, 1, 2)]
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.isclose(matrices[0], matrices[2]).all()


def test_global_generator_plays_no_part() -> None:
    torch.manual_seed(0)
    first = build("mnist-projected", 1).state_dict()
    torch.manual_seed(1)
    second = build("mnist-projected", 1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", NAMES)
def test_initial_distribution(name: str) -> None:
    channels, _, k, hidden, _, _ = notebook_networks.NETWORKS[name]
    flat = notebook_networks.CONV_OUTPUTS[name.split("-")[0]]
    fan_ins = {"conv1": 25 * channels[0], "conv2": 25 * channels[1], "fc1": flat + k, "fc2": hidden}
    for key, value in build(name, seed=0).named_parameters():
        bound, n = 1 / math.sqrt(fan_ins[key.split(".")[0]]), value.numel()
        assert value.abs().max() <= bound
        # Five standard errors: a uniform variable has variance b²/3, its square has variance 4b⁴/45.
        assert abs(value.double().mean()) < 5 * bound / math.sqrt(3 * n)
        assert abs(value.double().square().mean() - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / n)


def test_v_is_not_a_copy_of_part_of_w() -> None:
    model = build("mnist-projected", seed=0)
    v, w = model.fc1.feedback_weight.flatten(), model.fc1.weight.flatten()
    n = len(v)
    assert abs((v @ w[:n]) / (v.norm() * w[:n].norm())) < 5 / math.sqrt(n)


def test_initialise_any_module_with_feedback() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 200, bias=False))
    wf.attach(model, "0", signal=wf.Zeros(7))
    initialise(model, seed=0)
    first = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert first["0.feedback_weight"].abs().max() <= 1 / math.sqrt(18 + 7)
    assert first["0.weight"].abs().max() <= 1 / math.sqrt(18 + 7)
    assert 0.45 < first["2.weight"].abs().max() <= 0.5
    initialise(model, seed=0)
    assert all(torch.equal(first[name], parameter) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("side", [28, 32, 33])
def test_pooling_before_relu_gives_the_same_numbers(side: int) -> None:
    model = ConvNet((2, 3, 4), side, hidden=6, classes=5)
    x = torch.randn(3, 2, side, side, generator=torch.Generator().manual_seed(0))
    y = F.max_pool2d(F.relu(model.conv1(x)), 2)
    y = F.max_pool2d(F.relu(model.conv2(y)), 2)
    expected = F.log_softmax(model.fc2(F.relu(model.fc1(y.flatten(1)))), dim=1)
    assert torch.equal(model(x), expected)
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert expected.shape == (3, 5)


def test_folded_network_is_plain_and_equal() -> None:
    for name in ("mnist-pooled", "mnist-projected"):
        model = build(name, seed=0)
        folded = wf.fold(model)
        x, _ = batches(name, 1, 5, torch.float32)[0]
        assert torch.equal(folded(x), model(x))
        assert type(folded.fc1) is nn.Linear
