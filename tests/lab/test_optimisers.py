"""The lab's optimisers take the steps of PyTorch's, bit for bit, without what compiles them."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from weight_feedback.lab.tasks.optimisers import SGD, Adam


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.Tanh(), torch.nn.Linear(10, 4))


def backward(model: torch.nn.Module, x: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(x).square().mean().backward()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_sgd(momentum) -> None:
    ours = network()
    theirs = copy.deepcopy(ours)
    for model in (ours, theirs):
        model[2].bias.requires_grad_(False)  # so it has no gradient
    mine = SGD(ours.parameters(), 0.1, momentum)
    other = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum, fused=True)
    for _ in range(20):
        x = torch.randn(8, 20)
        for model, optimiser in ((ours, mine), (theirs, other)):
            backward(model, x)
            optimiser.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    if momentum:
        trained = [p for p in theirs.parameters() if p.requires_grad]
        kept = [mine.momenta[p] for p in ours.parameters() if p.requires_grad]
        assert all(map(torch.equal, kept, [other.state[p]["momentum_buffer"] for p in trained]))


def test_adam() -> None:
    ours = torch.randn(50, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    mine, other = Adam(ours, 0.01), torch.optim.Adam([theirs], lr=0.01, fused=True)
    with pytest.raises(ValueError, match="expected a gradient"):
        mine.step()
    for _ in range(20):
        target = torch.randn(50)
        for parameter, optimiser in ((ours, mine), (theirs, other)):
            parameter.grad = None
            (parameter - target).square().sum().backward()
            optimiser.step()
    assert torch.equal(ours, theirs)


def test_adam_goes_on_from_a_state_to_the_same_bits() -> None:
    start, targets = torch.randn(50), torch.randn(20, 50)

    def steps(parameter: torch.Tensor, optimiser: Adam, some: torch.Tensor) -> None:
        for target in some:
            parameter.grad = None
            (parameter - target).square().sum().backward()
            optimiser.step()

    whole = start.clone().requires_grad_()
    steps(whole, Adam(whole, 0.01), targets)
    part = start.clone().requires_grad_()
    first = Adam(part, 0.01)
    steps(part, first, targets[:7])
    kept = copy.deepcopy(first.state_dict())
    rest = part.detach().clone().requires_grad_()
    second = Adam(rest, 0.01)
    steps(rest, second, targets[3:5])  # leaves nothing that loading doesn't replace
    with torch.no_grad():
        rest.copy_(part)
    second.load_state_dict(kept)
    steps(part, first, targets[7:])
    # What was loaded is a copy: the steps of one aren't those of the other.
    steps(rest, second, targets[7:])
    assert torch.equal(part, whole)
    assert torch.equal(rest, whole)
    assert first.state_dict().keys() == kept.keys()
    assert all(torch.equal(second.state_dict()[name], value) for name, value in first.state_dict().items())
    with pytest.raises(KeyError, match="steps"):
        second.load_state_dict({name: value for name, value in kept.items() if name != "steps"})


def test_training_imports_no_compiler(tmp_path) -> None:
    code = f"""
import sys
from pathlib import Path
from weight_feedback.lab.commands.cli import main
for network in ("mnist-plain", "mnist-pooled", "mnist-sketched"):
    main(["train", network, "--data", "generated", "--epochs", "1"])
main(["intrinsic-dimension", "lenet", "--data", "generated", "--dimensions", "2", "--seeds", "1", "--epochs", "1",
      "--jobs", "1", "--out", {str(tmp_path)!r}])
assert "torch" in sys.modules and not {{"torch._dynamo", "sympy"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
