"""The network that other people's tools are tried on, and what should hold for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import weight_feedback as wf

X = torch.linspace(-3, 3, 48).sin().view(8, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def hear(model: nn.Module, into: str = "a", reads: tuple[str, ...] = ("a", "c"), **options) -> nn.Module:
    options.setdefault("summary", wf.CountSketch(3))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return wf.attach(model, into, reads=list(reads), init="default", **options)


def expected() -> Tensor:
    """What the network computes with its feedback, and nothing of other tools."""
    return hear(net())(X)


def check_right(model: nn.Module, layer: nn.Module) -> None:
    """It is heard as in a network of its own, trains, folds, and is the base again without it."""
    assert torch.equal(model(X), expected())
    model(X).sum().backward()
    assert layer.feedback_weight.grad.abs().min() > 0
    assert wf.check(model, X).fold_difference == 0
    assert next(iter(wf.diagnose(model, X).layers.values())).heard
    folded = wf.fold(model)
    assert torch.equal(folded(X), model(X))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(folded(X), expected())  # it shares nothing
    wf.remove(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(1)
    torch.testing.assert_close(model(X), net()(X), rtol=1e-5, atol=1e-5)
