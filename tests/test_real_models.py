"""Networks that people use, each compared with plain PyTorch: the network without feedback, and with it by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import weight_feedback as wf
from helpers import reference, timm_models
from helpers.real_models import CASES, Case
from weight_feedback.pretrained import load_pretrained, save_pretrained

both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
both_optimisers = pytest.mark.parametrize("optimiser", ["sgd", "adam"])


def same(found: Tensor, expected: Tensor, *, to_rounding: bool) -> None:
    if to_rounding:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found, expected)


def check_tied(case: Case, model: nn.Module) -> None:
    assert all(model.get_parameter(first) is model.get_parameter(second) for first, second in case.tied)


def by_hand(case: Case, model: nn.Module) -> nn.Module:
    """The base, with hooks that do what ``z`` does after each layer, and the ``V`` of an attached network."""
    hand = case.base(torch.float64)
    layers = wf.feedback_layers(model)
    summary = next(iter(layers.values())).signal.summary
    matrix = reference.count_sketch(summary.signs.numpy(), summary.pitches, summary.out_features)
    matrix = float(summary.gain) * torch.from_numpy(matrix)

    def act(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        z = matrix @ torch.cat([hand.get_parameter(name).detach().flatten() for name in case.read])
        heard = layer.feedback_weight @ z
        shape = [-1, *[1] * {nn.Conv1d: 1, nn.Conv2d: 2}.get(type(layer), 0)]
        if case.conditioning == "film":
            scale, shift = (part.view(shape) for part in heard.chunk(2))
            return (1 + scale) * output + shift
        return output + heard.view(shape)

    for name, layer in layers.items():
        plain = hand.get_submodule(name)
        plain.feedback_weight = nn.Parameter(layer.feedback_weight.detach().clone())
        plain.register_forward_hook(act)
    return hand


def losses(case: Case, model: nn.Module, optimiser: str, steps: int = 20) -> Iterator[float]:
    """Train on the one batch."""
    model.train()
    kind, options = {"sgd": (torch.optim.SGD, {"lr": 0.05}), "adam": (torch.optim.Adam, {"lr": 0.003})}[optimiser]
    step = kind(model.parameters(), **options)
    for _ in range(steps):
        step.zero_grad()
        loss = case.loss(case.run(model))
        loss.backward()
        step.step()
        wf.advance(model)
        yield loss.item()


@pytest.fixture(params=[*CASES, *timm_models.CASES], ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_each_layer_is_heard(case: Case) -> None:
    model = case.heard(torch.float64).eval()
    whole = case.evaluate(model)
    for name, v in wf.feedback_parameters(model):
        with torch.no_grad():
            kept = v.clone()
            v.zero_()
            assert (case.evaluate(model) - whole).abs().max() > 1e-7, name  # float64 rounds at 1e-16
            v.copy_(kept)
    assert torch.equal(case.evaluate(model), whole)


@both_modes
def test_attached_with_v_zero_it_is_the_base(case: Case, training: bool) -> None:
    base, model = case.base().train(training), case.heard(init="zeros").train(training)
    same(case.evaluate(model), case.evaluate(base), to_rounding=case.fused and not training)
    assert torch.equal(case.run(model), case.run(base))  # with gradients no path is fused
    check_tied(case, model)


@both_optimisers
def test_training_is_that_with_feedback_by_hand(case: Case, optimiser: str) -> None:
    model, base = case.heard(torch.float64), case.base(torch.float64)
    hand = by_hand(case, model)
    found, expected = [*losses(case, model, optimiser)], [*losses(case, hand, optimiser)]
    without = [*losses(case, base, optimiser)]
    assert found[-1] < 0.99 * found[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(dict(model.named_parameters()), dict(hand.named_parameters()), rtol=1e-6, atol=1e-6)
    # The running statistics of batch normalisation show what passed it, even where the outputs don't.
    noted = dict(hand.named_buffers())
    torch.testing.assert_close({name: model.get_buffer(name) for name in noted}, noted, rtol=1e-6, atol=1e-6)
    assert abs(found[-1] - without[-1]) > 1e-5
    assert all((model.get_parameter(name) - base.get_parameter(name)).abs().max() > 1e-6 for name in case.read)


@both_modes
def test_folded_after_training_it_is_the_same(case: Case, training: bool) -> None:
    model = case.heard()
    assert len([*losses(case, model, "adam", 3)]) == 3
    folded = wf.fold(model.train(training))
    assert [type(module) for module in folded.modules()] == [type(module) for module in case.base().modules()]
    film = case.conditioning == "film"  # folded into the weight
    same(case.evaluate(folded), case.evaluate(model), to_rounding=film or (case.fused and not training))
    same(case.run(folded), case.run(model), to_rounding=film)
    assert not torch.allclose(case.run(folded), case.run(wf.remove(copy.deepcopy(model))), rtol=1e-3, atol=1e-3)


@both_modes
def test_removed_it_is_the_base(case: Case, training: bool) -> None:
    base, model = case.base().train(training), case.heard().train(training)
    # Of copies, since batch normalisation notes what passes it.
    assert not torch.equal(case.evaluate(copy.deepcopy(model)), case.evaluate(copy.deepcopy(base)))
    wf.remove(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in base.modules()]
    found, expected = model.state_dict(), base.state_dict()
    assert list(found) == list(expected)
    assert all(map(torch.equal, found.values(), expected.values()))
    assert torch.equal(case.evaluate(model), case.evaluate(base))
    check_tied(case, model)


@pytest.mark.no_cover  # Dynamo is Python, and would take twice as long
# Reading an LSTM weight breaks the graph; going on, Dynamo itself asks a tensor that is no leaf for its .grad.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_it_is_the_same(case: Case) -> None:
    model = case.heard()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = case.run(model)
    gradients = torch.autograd.grad(case.loss(expected), list(trained.values()))
    torch.compiler.reset()
    found = case.run(torch.compile(model, backend="aot_eager"))
    case.loss(found).backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(trained.values(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@both_modes
def test_saved_it_comes_back(case: Case, training: bool, tmp_path: Path) -> None:
    model = case.heard()
    assert len([*losses(case, model, "adam", 3)]) == 3
    save_pretrained(model.train(training), tmp_path)
    loaded = load_pretrained(case.base().train(training), tmp_path)
    assert torch.equal(case.evaluate(loaded), case.evaluate(model))
    check_tied(case, loaded)
