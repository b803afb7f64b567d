"""Layers whose weight is computed, as `torch.nn.utils.parametrizations` does it, and reads of such weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

import weight_feedback as wf

X = torch.linspace(-3, 3, 24, dtype=torch.float64).sin().view(4, 6)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


def hear(model: nn.Module, init: str = "default", **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return wf.attach(model, "0", reads=["0", "2"], summary=wf.CountSketch(3), init=init, **options)


def normed(model: nn.Sequential, how) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        how(model[0])
    return model


each_norm = pytest.mark.parametrize("how", [weight_norm, spectral_norm, orthogonal])
each_order = pytest.mark.parametrize("first", ["norm", "feedback"])
each_conditioning = pytest.mark.parametrize("conditioning", ["concat", "film"])


def made(how, first: str, **options) -> nn.Sequential:
    return hear(normed(net(), how), **options) if first == "norm" else normed(hear(net(), **options), how)


@each_norm
@each_order
@each_conditioning
def test_a_normed_layer_hears_folds_and_goes_back(how, first: str, conditioning: str) -> None:
    base = normed(net(), how)
    with torch.no_grad():
        base[0].parametrizations.weight[0].train(False)
    silent, model = (
        made(how, first, init="zeros", conditioning=conditioning),
        made(how, first, conditioning=conditioning),
    )
    assert torch.equal(silent(X), base(X))
    # By hand: z of the weights as they come out of the norm.
    z = wf.CountSketch(3).bind({"0.weight": base[0].weight, "2.weight": base[2].weight})(
        base[0].weight, base[2].weight
    )
    heard = model[0].feedback_weight @ z
    y = X @ base[0].weight.T + base[0].bias
    y = y + heard if conditioning == "concat" else (1 + heard[:4]) * y + heard[4:]
    expected = torch.tanh(y) @ base[2].weight.T + base[2].bias
    torch.testing.assert_close(model(X), expected, rtol=1e-12, atol=1e-12)

    folded = wf.fold(model)
    assert not any(isinstance(module, wf.FeedbackLayer) for module in folded.modules())
    torch.testing.assert_close(folded(X), expected, rtol=1e-12, atol=1e-12)
    assert parametrize.is_parametrized(folded[0], "weight") == (conditioning == "concat")
    torch.testing.assert_close(model(X), expected, rtol=1e-12, atol=1e-12)  # which folding leaves alone

    copied = copy.deepcopy(model)
    assert torch.equal(wf.remove(copied)(X), base(X))
    assert copied.state_dict().keys() == base.state_dict().keys()
    assert parametrize.is_parametrized(copied[0], "weight")
    torch.testing.assert_close(model(X), expected, rtol=1e-12, atol=1e-12)
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is wf.FeedbackLinear
    assert torch.equal(copied(X), base(X))


@each_norm
def test_a_normed_layer_trains_as_with_a_bias_by_hand(how) -> None:
    model, plain = made(how, "norm"), normed(net(), how)
    v = model[0].feedback_weight.detach().clone().requires_grad_()
    sketch = wf.CountSketch(3).bind({f"{i}.weight": plain[i].weight for i in (0, 2)})

    def by_hand() -> Tensor:
        z = sketch(plain[0].weight.detach(), plain[2].weight.detach())
        return plain[2](torch.tanh(plain[0](X) + v @ z))

    optimisers = [torch.optim.SGD([*plain.parameters(), v], lr=0.1), torch.optim.SGD(model.parameters(), lr=0.1)]
    for _ in range(3):
        for optimiser, output in zip(optimisers, (by_hand, lambda: model(X)), strict=True):
            optimiser.zero_grad()
            output().square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(model(X), by_hand(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model[0].feedback_weight, v, rtol=1e-9, atol=1e-9)


def test_a_parametrised_bias_folds() -> None:
    class Double(nn.Module):
        def forward(self, bias: Tensor) -> Tensor:
            return 2 * bias

    model = hear(net())
    parametrize.register_parametrization(model[0], "bias", Double())
    folded = wf.fold(model)
    assert torch.equal(folded(X), model(X))
    assert isinstance(folded[0].bias, nn.Parameter)
    assert parametrize.is_parametrized(model[0], "bias")


class Mixed(nn.Module):
    """A parametrisation with a layer inside."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, size).double()

    def forward(self, weight: Tensor) -> Tensor:
        return self.inner(weight)


INNER = "0.parametrizations.weight.0.inner"


def with_a_layer_inside() -> nn.Sequential:
    model = net()
    parametrize.register_parametrization(model[0], "weight", Mixed(6))
    return model


@pytest.mark.parametrize("read", ["0", "0.weight"])
def test_a_layer_that_is_run_to_read_what_it_reads_is_refused(read: str) -> None:
    model = with_a_layer_inside()
    with pytest.raises(ValueError, match=rf"'{INNER}' reads a weight whose parametrisation runs '{INNER}' itself"):
        wf.attach(model, INNER, reads=[read], summary=wf.CountSketch(2))
    assert not wf.feedback_layers(model)
    # The weight that goes into the parametrisation, and what comes later, can be read.
    wf.attach(model, INNER, reads=["0.parametrizations.weight.original", "2"], summary=wf.CountSketch(2))
    assert model(X).shape == (4, 3)


def test_a_cycle_over_two_layers_is_refused() -> None:
    model = with_a_layer_inside()
    parametrize.register_parametrization(model[2], "weight", Mixed(4))
    other = "2.parametrizations.weight.0.inner"
    wf.attach(model, INNER, reads=["2"], summary=wf.CountSketch(2))
    with pytest.raises(ValueError, match="reads a weight whose parametrisation runs"):
        wf.attach(model, other, reads=["0"], summary=wf.CountSketch(2))
    assert list(wf.feedback_layers(model)) == [INNER]
    assert model(X).shape == (4, 3)


def test_a_cycle_that_is_made_later_is_found_by_check() -> None:
    model = wf.attach(net(), "0", reads=["0.full_weight"], summary=wf.CountSketch(2), init="default")
    wf.check(model)
    mixed = Mixed(2)
    mixed.inner = model[0]
    model[0].parametrizations = nn.ModuleDict({"feedback_weight": nn.ModuleList([mixed])})
    with pytest.raises(ValueError, match="'0' reads a weight whose parametrisation runs '0' itself"):
        wf.check(model)
