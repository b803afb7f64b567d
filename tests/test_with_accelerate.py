"""Feedback beside accelerate, and beside any other function in the place of a layer's forward.

`docs/other-tools.md` lists them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

import weight_feedback as wf
from helpers.other_tools import X, check_right, expected, hear, net


@pytest.fixture
def accelerate() -> Iterator[object]:
    package = pytest.importorskip("accelerate")
    yield package
    package.state.AcceleratorState._reset_state(reset_partial_state=True)
    package.state.GradientState._reset_state()


def prepared(accelerate, module: nn.Module) -> nn.Module:
    return accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare_model(module)


# accelerate


@pytest.mark.parametrize(
    "order",
    [
        "hook attach",
        "attach hook",
        "hook unhook attach",
        "attach hook unhook",
        "hook attach unhook",
        "dispatch attach",
        "attach dispatch",
    ],
)
def test_accelerate_hooks(order: str, accelerate) -> None:
    model, calls = net(), []

    class Counting(accelerate.hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return args, kwargs

    steps = {
        "hook": lambda: accelerate.hooks.add_hook_to_module(model.a, Counting()),
        "unhook": lambda: accelerate.hooks.remove_hook_from_module(model.a),
        "attach": lambda: hear(model),
        "dispatch": lambda: accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True),
    }
    for step in order.split():
        steps[step]()
    if "dispatch" in order:
        # Which also gives the model functions of its own that move it, and copies share.
        model.__dict__.pop("to", None), model.__dict__.pop("cuda", None)
    check_right(model, model.a)
    assert (len(calls) > 0) == (order in ("hook attach", "attach hook"))


def test_accelerate_prepares_a_layer_alone(accelerate) -> None:
    model = net()
    prepared(accelerate, model.a)
    with pytest.raises(
        TypeError, match=r"the forward of 'a' was replaced by accelerate\.\S+, which would not hear z"
    ):
        hear(model)
    assert not wf.feedback_layers(model)
    # After attaching it is heard, in bfloat16, folded and removed.
    model, plain = hear(net()), net()
    prepared(accelerate, model.a)
    prepared(accelerate, plain.a)
    torch.testing.assert_close(model(X), expected(), rtol=0.05, atol=0.05)
    assert not torch.allclose(model(X), plain(X), rtol=0.1, atol=0.1)
    with pytest.raises(
        wf.CheckError, match=r"the forward of 'a' was replaced by accelerate\.\S+, which copies of the"
    ):
        wf.check(model, X)
    folded = wf.fold(model)
    torch.testing.assert_close(folded(X), model(X), rtol=0.05, atol=0.05)
    assert torch.equal(wf.remove(model)(X), plain(X))


@pytest.mark.parametrize("first", ["prepare", "attach"])
def test_accelerate_prepares_a_model(first: str, accelerate) -> None:
    model = net()
    model = hear(prepared(accelerate, model)) if first == "prepare" else prepared(accelerate, hear(model))
    torch.testing.assert_close(model(X), expected(), rtol=0.05, atol=0.05)
    wf.check(model, X)
    torch.testing.assert_close(wf.fold(model)(X), model(X), rtol=0.02, atol=0.02)
    plain = prepared(accelerate, net())
    assert torch.equal(wf.remove(model)(X), plain(X))


def test_a_function_in_the_place_of_forward_is_not_folded(accelerate) -> None:
    # A hooked model has no bound forward: preparing it leaves a function, which runs the original.
    model = hear(net())
    accelerate.hooks.add_hook_to_module(model, accelerate.hooks.ModelHook())
    prepared(accelerate, model)
    with pytest.raises(ValueError, match="fold: the forward of 'the model itself' was replaced by a function"):
        wf.fold(model)
    with pytest.raises(wf.CheckError, match="fold: the forward of 'the model itself' was replaced by a function"):
        wf.check(model, X)


def test_accelerate_offloads(accelerate) -> None:
    model = net()
    accelerate.cpu_offload(model.a, execution_device="cpu")
    with pytest.raises(ValueError, match="accelerate offloads the weights of 'a', and would not know V"):
        hear(model)
    with pytest.raises(
        ValueError, match=r"can't read a.weight: Linear.weight is offloaded by accelerate, and isn't there"
    ):
        hear(model, "c")
    assert not wf.feedback_layers(model)
    model = hear(net())
    accelerate.cpu_offload(model.c, execution_device="cpu")
    with pytest.raises(wf.CheckError, match=r"the signal of 'a' can't read c.weight: Linear.weight is offloaded"):
        wf.check(model, X)


# Other functions in the place of forward


def closure(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    before = layer.forward
    return lambda x: before(x)


FORWARDS = {
    "a function": closure,
    "a method": lambda layer: MethodType(lambda self, x: nn.functional.linear(x, self.weight, self.bias), layer),
    "partial": lambda layer: functools.partial(closure(layer)),
    "compiled": lambda layer: torch.compile(layer.forward, backend="eager"),
}


@pytest.mark.parametrize("replace", FORWARDS.values(), ids=FORWARDS)
def test_a_replaced_forward_is_refused(replace) -> None:
    model = net()
    model.a.forward = replace(model.a)
    before = model(X)
    with pytest.raises(TypeError, match=r"attach: the forward of 'a' was replaced by .*, which would not hear z"):
        hear(model)
    assert torch.equal(model(X), before)
    del model.a.forward
    check_right(hear(model), model.a)


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_replaced_afterwards(name: str) -> None:
    model = hear(net())
    model.a.forward = FORWARDS[name](model.a)
    heard = torch.equal(model(X), expected())
    assert heard == (name != "a method")
    with pytest.raises(
        wf.CheckError, match=r"the forward of 'a' was replaced by .*, which copies of the model"
    ) as error:
        wf.check(model, X)
    assert len(error.value.report.problems) == 1
    conclusion = wf.diagnose(model, X).layers["a"].conclusion
    assert conclusion.startswith("wrong: the forward of 'a' was replaced by")
    if name != "a method":
        with pytest.raises(ValueError, match="fold: the forward of 'a' was replaced by a function"):
            wf.fold(model)
    assert torch.equal(wf.remove(model)(X), net()(X))


def test_diagnose_goes_by_what_was_added() -> None:
    model = hear(net())
    # Not seen in the layer: the class itself computes something else.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wf.FeedbackLinear, "forward", nn.Linear.forward)
        found = wf.diagnose(model, X).layers["a"]
    assert (found.heard, found.share, found.saturated) == (False, 0, 0)
    assert found.conclusion == (
        "not heard: what z adds isn't in what the layer returns, so its forward was replaced."
    )
    assert wf.diagnose(model, X).layers["a"].heard is True


def test_a_forward_replaced_in_the_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self, x: Tensor) -> Tensor:
        return 2 * nn.functional.linear(x, self.weight, self.bias)

    monkeypatch.setattr(nn.Linear, "forward", forward)
    with pytest.raises(TypeError, match=r"the forward of 'a' was replaced by \S*forward, which would not hear z"):
        hear(net())


@pytest.mark.parametrize("name", ["signal", "conditioning", "feedback_weight"])
@pytest.mark.parametrize(
    "value", [3, nn.Parameter(torch.ones(2)), nn.Identity()], ids=["value", "parameter", "module"]
)
def test_a_layers_own_attributes_are_kept(name: str, value: object) -> None:
    model = net()
    setattr(model.a, name, value)
    with pytest.raises(
        ValueError, match=f"'a' has attributes of its own called {name}, which feedback would replace"
    ):
        hear(model)
    assert getattr(model.a, name) is value
    assert type(model.a) is nn.Linear
