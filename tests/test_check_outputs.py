"""What `check` says of models that return something else than tensors, or nothing that can be compared."""

from __future__ import annotations

import collections
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import weight_feedback as wf
from helpers.diagnoses import Calls

X = torch.linspace(-1, 1, 24).view(4, 6)


class Slots:
    def __init__(self, scores: Tensor) -> None:
        self.inner = {"scores": [scores]}
        self.again = self


def returning(wrap: Callable[[Tensor], object]) -> nn.Module:
    model = Calls(lambda model, x: wrap(model.b(torch.tanh(model.a(x)))), a=nn.Linear(6, 6), b=nn.Linear(6, 4))
    return wf.attach(model, "a", summary=wf.CountSketch(3), init="default")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: torch.distributions.Normal(y, 1.0),
        lambda y: torch.distributions.Independent(torch.distributions.Categorical(logits=y), 1),
        lambda y: types.SimpleNamespace(scores=y),
        lambda y: collections.UserDict(scores=y),
        Slots,
        Tensor.to_sparse,
        lambda y: torch.nested.as_nested_tensor([*y], layout=torch.jagged),
    ],
)
def test_tensors_are_found_wherever_they_are(wrap: Callable[[Tensor], object]) -> None:
    report = wf.check(returning(wrap), X)
    assert report.layers["a"].gradient
    assert report.fold_difference == 0
    assert wf.diagnose(returning(wrap), X).layers["a"].reached is not False


@pytest.mark.parametrize(
    ("wrap", "kind"), [(lambda y: y.sum().item(), "float"), (lambda y: iter([y]), "list_iterator")]
)
def test_what_is_returned_has_no_tensors(wrap: Callable[[Tensor], object], kind: str) -> None:
    with pytest.raises(
        wf.CheckError, match=f"'a' can't be heard in what the model returns, a {kind} without tensors"
    ):
        wf.check(returning(wrap), X)


def test_a_generator_runs_nothing_by_itself() -> None:
    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x: Tensor):
            yield self.a(x)

    with pytest.raises(
        wf.CheckError, match="a generator without tensors; let it return tensors, or check a module"
    ):
        wf.check(wf.attach(Streams(), "a", summary=wf.CountSketch(3)), X)


def test_a_model_without_feedback_is_told_as_such() -> None:
    assert repr(wf.check(nn.Linear(6, 6), X)) == "the model has no feedback layers"


def test_a_fold_that_cannot_be_compared_is_told_as_such() -> None:
    noise = iter(range(100))
    report = wf.check(returning(lambda y: y + next(noise)), X)
    assert report.fold_difference is None
    assert repr(report).endswith("so the fold can't be compared with it")
