"""Training in a random subspace, against the same written out with a matrix."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weight_feedback as wf

X = torch.linspace(-9, 9, 48, dtype=torch.float64).sin().view(8, 6)
Y = X[:, :3].square()
PROJECTIONS = {
    "default": lambda: 5,
    "count": lambda: wf.CountSketch(6, nonzeros=2, scale="adjoint-isometry"),
    "dense": lambda: wf.DenseProjection(5, distribution="gaussian", scale="adjoint-isometry"),
    "kronecker": lambda: wf.KroneckerProjection(6, scale="adjoint-isometry"),
}
each_projection = pytest.mark.parametrize("kind", PROJECTIONS)


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def subspace(kind: str = "default", **options) -> wf.Subspace:
    return wf.Subspace(net(**options), PROJECTIONS[kind]())


def matrix(small: wf.Subspace) -> Tensor:
    """``P``, shape ``[d, D]``, one row at a time from its adjoint."""
    units = torch.eye(small.coordinates.numel(), dtype=torch.float64)
    return torch.stack([torch.cat([part.flatten() for part in small.projection.adjoint(unit)]) for unit in units])


def moved(small: wf.Subspace, scale: float = 0.5) -> wf.Subspace:
    with torch.no_grad():
        small.coordinates.copy_(torch.linspace(-scale, scale, small.coordinates.numel()))
    return small


@each_projection
def test_it_starts_where_the_module_is(kind: str) -> None:
    assert torch.equal(subspace(kind)(X), net()(X))


@each_projection
def test_training_is_that_of_the_formula(kind: str) -> None:
    small, plain = subspace(kind), net()
    p, start = matrix(small), nn.utils.parameters_to_vector(plain.parameters()).detach()
    v = torch.zeros(p.shape[0], dtype=torch.float64, requires_grad=True)

    def by_hand() -> Tensor:
        w0, b0, w1, b1 = (start + p.T @ v).split([24, 4, 12, 3])
        return torch.tanh(X @ w0.view(4, 6).T + b0) @ w1.view(3, 4).T + b1

    optimisers = [torch.optim.Adam([v], lr=0.1), torch.optim.Adam(small.parameters(), lr=0.1)]
    losses = []
    for _ in range(5):
        for optimiser, output in zip(optimisers, (by_hand, lambda: small(X)), strict=True):
            optimiser.zero_grad()
            loss = F.mse_loss(output(), Y)
            loss.backward()
            optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    torch.testing.assert_close(small.coordinates, v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(small(X), by_hand(), rtol=1e-9, atol=1e-9)
    # The module itself keeps θ₀, without gradients.
    assert all(map(torch.equal, small.module.parameters(), net().parameters()))
    assert all(weight.grad is None for weight in small.module.parameters())


def test_one_projection_for_all_parameters() -> None:
    # Each coordinate moves weights of several tensors; those of a layer alone would not.
    parts = moved(subspace("dense")).projection.adjoint(torch.eye(5, dtype=torch.float64)[0])
    assert all(part.abs().min() > 0 for part in parts)
    assert subspace().projection.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_a_step_is_as_long_in_the_parameters() -> None:
    v = torch.linspace(-1, 2, 5, dtype=torch.float64)
    ratios = []
    for seed in range(2000):
        projection = wf.CountSketch(5, seed=seed, scale="adjoint-isometry")
        small = wf.Subspace(nn.Linear(9, 10).double(), projection)
        ratios.append(sum(part.square().sum() for part in small.projection.adjoint(v)) / v.square().sum())
    ratio = torch.stack(ratios)
    # All buckets hold D/d = 20 weights, so it is exact for every seed.
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-12, atol=1e-12)


@each_projection
def test_baked_it_is_a_plain_module_with_the_same_output(kind: str) -> None:
    small = moved(subspace(kind))
    materialized = small.materialize()
    assert type(materialized) is nn.Sequential
    assert torch.equal(materialized(X), small(X))
    assert all(parameter.requires_grad for parameter in materialized.parameters())
    moved(small, 0.1)
    assert not torch.equal(materialized(X), small(X))


def test_what_was_frozen_stays() -> None:
    module = net()
    module[0].weight.requires_grad_(False)
    small = moved(wf.Subspace(module, 4))
    assert small.projection.names == ("0.bias", "2.weight", "2.bias")
    materialized = small.materialize()
    assert torch.equal(materialized[0].weight, module[0].weight)
    assert not materialized[0].weight.requires_grad
    assert materialized[0].bias.requires_grad


def test_state_dict_copies_and_pickles_go_round() -> None:
    small = moved(subspace("count"))
    with torch.no_grad():
        small.module[0].bias.add_(1)
    other = wf.Subspace(net(1), wf.CountSketch(6, nonzeros=2, seed=9, scale="adjoint-isometry"))
    assert not torch.equal(other(X), small(X))
    other.load_state_dict(small.state_dict())
    for same in (other, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(same(X), small(X))


def test_tied_weights_move_together() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double()
    module[2].weight = module[0].weight
    small = moved(wf.Subspace(module, 2))
    assert small.projection.in_features == 9
    weight = small.weights()["0.weight"]
    x = X[:, :3]
    torch.testing.assert_close(small(x), torch.tanh(x @ weight.T) @ weight.T, rtol=1e-12, atol=1e-12)


def hearing(d: int = 5) -> wf.Subspace:
    module = net()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        wf.attach(module, "0", signal=wf.Zeros(d, dtype=torch.float64), init="default")
    small = wf.Subspace(module, d)
    module[0].signal = wf.Coordinates(small)
    return small


def test_coordinates_are_heard_and_v_moves_with_the_rest() -> None:
    small = moved(hearing())
    theta, v = small.weights(), small.coordinates
    assert not torch.equal(theta["0.feedback_weight"], small.module[0].feedback_weight)
    bias = theta["0.bias"] + theta["0.feedback_weight"] @ v.detach()
    hidden = torch.tanh(X @ theta["0.weight"].T + bias)
    expected = hidden @ theta["2.weight"].T + theta["2.bias"]
    torch.testing.assert_close(small(X), expected, rtol=1e-12, atol=1e-12)
    gradient = torch.autograd.grad(F.mse_loss(small(X), Y), v)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(F.mse_loss(expected, Y), v)[0], rtol=1e-9, atol=1e-9)


def test_a_network_that_hears_its_coordinates_is_baked_copied_and_folded() -> None:
    small = moved(hearing())
    materialized, copied = small.materialize(), copy.deepcopy(small)
    expected = small(X)
    assert torch.equal(materialized(X), expected)
    assert torch.equal(wf.fold(materialized)(X), expected)
    moved(copied, 0.1)
    assert torch.equal(copied.module[0].signal(), copied.coordinates)
    assert torch.equal(materialized(X), expected)
    assert torch.equal(small(X), expected)


@pytest.mark.parametrize("d", [0, 44])
def test_bad_sizes_are_refused(d: int) -> None:
    with pytest.raises(ValueError, match=f"CountSketch: .*{d}"):
        wf.Subspace(net(), d)


def test_a_module_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="must have parameters that require gradients, got none"):
        wf.Subspace(net().requires_grad_(False), 3)


class Tied(nn.Module):
    """A layer with two names, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b = self.a
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_shared_layers_and_tied_weights_move_together_and_stay() -> None:
    torch.manual_seed(0)
    module = Tied().double()
    own = dict(module.named_parameters())
    kept = {name: parameter.detach().clone() for name, parameter in own.items()}
    subspace = wf.Subspace(module, 5)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4)
    with torch.no_grad():
        subspace.coordinates.copy_(torch.linspace(-1, 2, 5))
    moved = {name: weight.detach() for name, weight in subspace.weights().items()}
    assert moved.keys() == {"a.weight", "a.bias", "c.bias"}
    hidden = torch.tanh(x @ moved["a.weight"].T + moved["a.bias"])
    hidden = torch.tanh(hidden @ moved["a.weight"].T + moved["a.bias"])
    expected = hidden @ moved["a.weight"].T + moved["c.bias"]
    for _ in range(2):  # the first forward leaves θ₀ where it is
        torch.testing.assert_close(subspace(x), expected, rtol=1e-12, atol=1e-12)
    assert all(module.get_parameter(name) is parameter for name, parameter in own.items())
    assert all(torch.equal(own[name], before) for name, before in kept.items())
    assert torch.equal(subspace.materialize()(x), subspace(x))
