"""Tensors that lose their values on the way: built on the meta device, emptied, or in no checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import weight_feedback as wf

X = torch.linspace(-3, 3, 24).sin().view(4, 6)
Z = torch.tensor([0.5, -1.0, 2.0])

#: Every kind of signal and summary: by name, how a network gets it.
FEEDBACK: dict[str, Callable[[nn.Module], object]] = {
    "sketch": lambda m: wf.attach(m, "a", summary=wf.CountSketch(3)),
    "sketch, two non-zeros": lambda m: wf.attach(m, "a", summary=wf.CountSketch(4, nonzeros=2)),
    "dense": lambda m: wf.attach(m, "a", summary=wf.DenseProjection(3, distribution="gaussian")),
    "kronecker": lambda m: wf.attach(m, "a", summary=wf.KroneckerProjection(4)),
    "pooled": lambda m: wf.attach(m, "a", reads=["b"], summary=wf.MaxPool([(2, 2)], 11)),
    "moments": lambda m: wf.attach(m, "a", summary=wf.Moments()),
    "permuted": lambda m: wf.attach(
        m, "a", signal=wf.Permuted([(m.b, "weight", "b.weight")], wf.DenseProjection(3), seed=2)
    ),
    "film": lambda m: wf.attach(m, "a", summary=wf.CountSketch(3), conditioning="film"),
    "zeros": lambda m: wf.attach(m, "a", signal=wf.Zeros(3)),
    "received": lambda m: wf.attach(m, "a", signal=wf.Received(3)),
    "clock": lambda m: wf.attach(m, "a", signal=wf.Clock(4)),
    "two layers": lambda m: wf.attach(m, ["a", "b"], summary=wf.CountSketch(3)),
}
#: What only a checkpoint can bring back: by name, how a network gets it, and what check says.
GIVEN: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "constant": (lambda m: wf.attach(m, "a", signal=wf.Constant(Z)), "z of Constant isn't finite"),
    "noise": (lambda m: wf.attach(m, "a", signal=wf.Noise(Z)), "z of Noise isn't finite"),
    "stale": (
        lambda m: wf.attach(m, "a", signal=wf.Stale(wf.OwnWeights([(m.b, "weight", "b.weight")], wf.Moments()), 2)),
        r"the past z of Stale is lost, and no checkpoint had it; call its reset_parameters\(\)",
    ),
    "calibrated": (
        lambda m: wf.attach(m, "a", summary=wf.CountSketch(3, scale="calibrated")),
        "its calibrated factor was lost, and no checkpoint had it",
    ),
}


class Net(nn.Module):
    def __init__(self, feedback: Callable[[nn.Module], object] | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        if feedback is not None:
            feedback(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def made(feedback: Callable[[nn.Module], object] | None = None, seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(feedback)
        with torch.no_grad():
            for _, v in wf.feedback_parameters(net):
                v.normal_()
    return net


def on_meta(feedback: Callable[[nn.Module], object]) -> Net:
    with torch.device("meta"):
        return Net(feedback)


@pytest.fixture
def _garbage() -> Iterator[None]:
    """Uninitialised memory is NaN, or the largest whole number."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


each = pytest.mark.parametrize("feedback", FEEDBACK.values(), ids=FEEDBACK)
each_given = pytest.mark.parametrize(("feedback", "message"), GIVEN.values(), ids=GIVEN)
whole = {**FEEDBACK, **{name: feedback for name, (feedback, _) in GIVEN.items() if name != "calibrated"}}
each_at_all = pytest.mark.parametrize("feedback", whole.values(), ids=whole)


@each
@pytest.mark.usefixtures("_garbage")
def test_emptied_then_loaded_without_feedback_it_is_the_base(feedback) -> None:
    base, model = made(seed=1), made(feedback)
    model.to_empty(device="cpu")
    assert all(not v.any() for _, v in wf.feedback_parameters(model))
    with pytest.warns(UserWarning, match="the checkpoint has no feedback for"):
        model.load_state_dict(base.state_dict())
    assert torch.equal(model(X), base(X))
    # What it hears from now on is what a new network with these weights would hear.
    new = made(feedback)
    with pytest.warns(UserWarning, match="the checkpoint has no feedback for"):
        new.load_state_dict(base.state_dict())
    assert all(map(torch.equal, tensors_of(model).values(), tensors_of(new).values()))
    wf.check(model, X)


@each_at_all
@pytest.mark.usefixtures("_garbage")
@pytest.mark.parametrize("assign", [False, True], ids=["to_empty", "assign"])
def test_from_meta_then_loaded_it_is_the_same(feedback, assign: bool) -> None:
    model = made(feedback)
    wf.advance(model)
    loaded = on_meta(feedback)
    if not assign:
        loaded.to_empty(device="cpu")
    loaded.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign)
    assert torch.equal(loaded(X), model(X))
    assert all(map(torch.equal, tensors_of(loaded).values(), tensors_of(model).values()))
    wf.advance(model)
    wf.advance(loaded)
    assert torch.equal(loaded(X), model(X))
    wf.check(loaded, X)


@each
@pytest.mark.usefixtures("_garbage")
def test_from_meta_by_assignment_without_feedback_it_is_the_base(feedback) -> None:
    base, model = made(), on_meta(feedback)
    with pytest.warns(UserWarning, match="the checkpoint has no feedback for"):
        model.load_state_dict(copy.deepcopy(base.state_dict()), assign=True)
    assert not any(tensor.is_meta for tensor in tensors_of(model).values())
    assert torch.equal(model(X), base(X))
    wf.check(model, X)


@each_given
@pytest.mark.usefixtures("_garbage")
def test_what_only_a_checkpoint_has_is_missed(feedback, message: str) -> None:
    base, model = made(), made(feedback)
    model.to_empty(device="cpu")
    with pytest.warns(UserWarning, match="the checkpoint has no feedback for"):
        model.load_state_dict(base.state_dict())
    assert model(X).isnan().any()  # rather than whatever memory held
    with pytest.raises(wf.CheckError, match=message):
        wf.check(model)


def test_stale_starts_again_when_told() -> None:
    base, model = made(), made(GIVEN["stale"][0])
    model.to_empty(device="cpu")
    with pytest.warns(UserWarning, match="the checkpoint has no feedback for"):
        model.load_state_dict(base.state_dict())
    model.a.signal.reset_parameters()
    assert torch.equal(model.a.signal(), model.a.signal.signal())
    wf.check(model, X)


def test_values_that_were_given_or_trained_are_kept() -> None:
    given = on_meta(FEEDBACK["sketch"])
    given.a.feedback_weight = nn.Parameter(torch.ones(6, 3))
    assert torch.equal(given.a.feedback_weight, torch.ones(6, 3))
    with torch.no_grad():
        given.a.feedback_weight.add_(1)
    given.a._is_hf_initialized = True  # as transformers marks a module, perhaps much later
    assert torch.equal(given.a.feedback_weight, torch.full((6, 3), 2.0))


@each_at_all
def test_moving_keeps_values(feedback) -> None:
    model = made(feedback)
    expected = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    model.to("cpu").double().float()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(model).items())
    wf.check(model)


# transformers


def pretrained_class(feedback: Callable[[nn.Module], object] | None) -> type:
    transformers = pytest.importorskip("transformers")

    class Model(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, config) -> None:
            super().__init__(config)
            self.net = Net()
            if feedback is not None:
                feedback(self.net)
            self.post_init()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Model


@each_at_all
@pytest.mark.usefixtures("_garbage")
def test_from_pretrained_of_a_class_that_attaches(feedback, tmp_path) -> None:
    kind = pretrained_class(feedback)
    model = kind(kind.config_class())
    with torch.no_grad():
        for _, v in wf.feedback_parameters(model):
            v.normal_()
    wf.advance(model)
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert all(map(torch.equal, tensors_of(loaded).values(), tensors_of(model).values()))
    # To rounding: where in memory a product's factors lie may choose how it is summed.
    torch.testing.assert_close(loaded(X), model(X), rtol=1e-6, atol=1e-7)
    wf.check(loaded, X)


@each
@pytest.mark.usefixtures("_garbage")
def test_from_pretrained_of_a_checkpoint_without_feedback(feedback, tmp_path) -> None:
    plain, kind = pretrained_class(None), pretrained_class(feedback)
    base = plain(plain.config_class())
    base.save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path)
    assert torch.equal(model(X), base(X))
    assert all(not v.any() for _, v in wf.feedback_parameters(model))
    wf.check(model, X)
    # The network trains from there.
    model(X).sum().backward()
    assert all(v.grad is not None for _, v in wf.feedback_parameters(model))


@pytest.mark.usefixtures("_garbage")
@pytest.mark.parametrize(("feedback", "message"), [GIVEN["constant"], GIVEN["noise"], GIVEN["stale"]])
def test_from_pretrained_misses_what_only_a_checkpoint_has(feedback, message: str, tmp_path) -> None:
    plain, kind = pretrained_class(None), pretrained_class(feedback)
    plain(plain.config_class()).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path)
    with pytest.raises(wf.CheckError, match=message):
        wf.check(model)
