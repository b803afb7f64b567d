"""Reading writes nothing, and reads what the layer will use: weights that parametrisations or hooks compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import weight_feedback as wf
from weight_feedback.pretrained import load_pretrained, save_pretrained

X = torch.linspace(-3, 3, 24, dtype=torch.float64).sin().view(4, 6)


class Drawn(nn.Module):
    """A parametrisation that draws random numbers in training."""

    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.dropout(weight, 0.5, self.training)


def quietly(make: Callable[[nn.Module], object]) -> Callable[[nn.Module], object]:
    def made(layer: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still in use
            make(layer)

    return made


PARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "random": lambda layer: parametrize.register_parametrization(layer, "weight", Drawn()),
}
HOOKED = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: [prune.l1_unstructured(layer, "weight", 0.3) for _ in range(2)],
    "old weight_norm": quietly(weight_norm),
    "old spectral_norm": quietly(spectral_norm),
}
each_parametrised = pytest.mark.parametrize("how", PARAMETRISED.values(), ids=PARAMETRISED)
each_hooked = pytest.mark.parametrize("how", HOOKED.values(), ids=HOOKED)
each = pytest.mark.parametrize("how", [*PARAMETRISED.values(), *HOOKED.values()], ids=[*PARAMETRISED, *HOOKED])
each_conditioning = pytest.mark.parametrize("conditioning", ["concat", "film"])
both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def net(how: Callable[[nn.Module], object] | None = None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        if how is not None:
            how(model[0])
    return model


def hear(model: nn.Module, into: str = "0", init: str = "default", **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return wf.attach(model, into, reads=["0", "2"], summary=wf.CountSketch(3), init=init, **options)


def state(model: nn.Module) -> list[Tensor]:
    return [*(tensor.detach().clone() for tensor in model.state_dict().values()), torch.get_rng_state()]


def run(model: nn.Module) -> Tensor:
    torch.manual_seed(7)
    return model(X)


# Parametrisations and hooks


@each
@both_modes
@each_conditioning
@pytest.mark.parametrize("into", ["0", "2"])
def test_with_v_zero_it_is_the_base_bit_for_bit(how, training: bool, conditioning: str, into: str) -> None:
    base, model = net(how).train(training), net(how).train(training)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    wf.attach(model, into, reads=["0", "2"], summary=wf.CountSketch(3), conditioning=conditioning)
    assert torch.equal(torch.get_rng_state(), before)
    for _ in range(3):  # each forward of a spectral norm moves on
        assert torch.equal(run(model), run(base))
    wf.remove(model)
    for _ in range(2):
        assert torch.equal(run(model), run(base))
    found, expected = model.state_dict(), base.state_dict()
    assert list(found) == list(expected)
    assert all(map(torch.equal, found.values(), expected.values()))


@each
@both_modes
def test_reading_writes_nothing(how, training: bool) -> None:
    model = hear(net(how).train(training), "2")
    run(model)
    before = state(model)
    z = model[2].signal()
    assert torch.equal(model[2].signal(), z)
    wf.check(model)
    wf.fold(model)
    assert model[2].full_weight.shape == (3, 7)
    assert all(map(torch.equal, state(model), before))


@each_parametrised
def test_reading_leaves_the_cache_of_parametrisations_to_the_layer(how) -> None:
    base, model = net(how).train(), wf.attach(net(how).train(), "0", reads=["0"], summary=wf.CountSketch(3))
    outputs = []
    for each_model in (base, model):
        torch.manual_seed(7)
        with parametrize.cached():
            outputs.append(each_model(X))
    assert torch.equal(*outputs)


@each_hooked
def test_z_is_of_the_weight_that_the_next_forward_computes(how) -> None:
    model = hear(net(how).eval(), "2")
    run(model)  # the attribute holds this forward's
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(1.5).add_(0.1)
    z = model[2].signal()
    with torch.no_grad():
        run(model)
    sketch = wf.CountSketch(3).bind({"0.weight": model[0].weight, "2.weight": model[2].weight})
    assert torch.equal(z, sketch(model[0].weight, model[2].weight))
    assert torch.equal(model[2].signal(), z)


@each_hooked
def test_functional_call_hears_the_weights_it_is_given(how) -> None:
    model, other = hear(net(how).eval(), "2"), hear(net(how).eval(), "2")
    run(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5).add_(0.2)
    given = dict(other.named_parameters())
    assert torch.equal(functional_call(model, given, (X,)), run(other))


@each
@both_modes
@each_conditioning
@pytest.mark.parametrize("into", ["0", "2"])
@pytest.mark.parametrize("gradients", [False, True])
def test_fold_is_the_same_after_any_forward(
    how, training: bool, conditioning: str, into: str, gradients: bool
) -> None:
    if how is PARAMETRISED["random"] and training and conditioning == "film":
        pytest.skip("a folded film layer keeps no parametrisation, and so draws nothing")
    model = hear(net(how).train(training), into, conditioning=conditioning)
    with torch.set_grad_enabled(gradients):
        for _ in range(100):  # power iterations converge
            run(model)
    folded = wf.fold(model)
    assert not wf.feedback_layers(folded)
    # In training a spectral norm moves on within the forward, after z was frozen.
    close = 1e-6 if training and how in (PARAMETRISED["spectral_norm"], HOOKED["old spectral_norm"]) else 1e-12
    torch.testing.assert_close(run(folded), run(model), rtol=close, atol=close)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in folded.parameters())


def test_a_pruned_bias_folds() -> None:
    model = net()
    prune.l1_unstructured(model[0], "bias", 0.5)
    hear(model)
    run(model)
    folded = wf.fold(model)
    assert torch.equal(run(folded), run(model))
    assert not folded[0]._forward_pre_hooks
    assert set(dict(folded[0].named_parameters())) == {"weight", "bias"}


@each_hooked
def test_saved_it_comes_back_bit_for_bit(how, tmp_path: Path) -> None:
    model = hear(net(how).eval(), "2")
    run(model).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(net(how).eval(), tmp_path)
    assert torch.equal(loaded[2].signal(), model[2].signal())
    assert torch.equal(run(loaded), run(model))


def test_pruning_after_attaching_is_heard() -> None:
    model = hear(net().eval(), "2")
    before = model[2].signal()
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert not torch.isclose(model[2].signal(), before).all()
    assert torch.equal(run(wf.fold(model)), run(model))
    wf.check(model, X)


def test_what_only_the_models_own_code_computes_is_refused() -> None:
    class Generated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.fc, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.fc.made = torch.outer(self.code, self.code)
            return self.head(self.fc(x @ self.fc.made))

    model = Generated()
    model(X.float())
    with pytest.raises(
        ValueError, match=r"can't read fc.made: Linear.made is what some code has computed at its last"
    ):
        wf.attach(model, "head", reads=["fc.made"], summary=wf.CountSketch(2))
    assert not wf.feedback_layers(model)


def test_a_weight_that_is_drawn_at_each_look_is_refused() -> None:
    class Shaken(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight + torch.randn_like(weight)

    model = net()
    parametrize.register_parametrization(model[0], "weight", Shaken())
    with pytest.raises(ValueError, match=r"can't read 0.weight: ParametrizedLinear.weight draws random numbers"):
        hear(model, "2")
    assert not wf.feedback_layers(model)
    model = hear(net(), "2")
    parametrize.register_parametrization(model[0], "weight", Shaken())
    with pytest.raises(wf.CheckError, match=r"can't read 0.weight: ParametrizedLinear.weight draws random numbers"):
        wf.check(model)


# Types and shapes

SUMMARIES = {
    "sketch": lambda: wf.CountSketch(4),
    "dense": lambda: wf.DenseProjection(4),
    "kronecker": lambda: wf.KroneckerProjection(4),
    "max": lambda: wf.MaxPool([(2, 2), (2, 2)], transpose=[False, False]),
    "average": lambda: wf.AvgPool([(2, 2), (2, 2)], transpose=[False, False]),
    "moments": wf.Moments,
}
each_summary = pytest.mark.parametrize("make", SUMMARIES.values(), ids=SUMMARIES)


def mixed(first: torch.dtype, second: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4).to(first), nn.Tanh(), nn.Linear(4, 4).to(second))


@each_summary
@pytest.mark.parametrize("types", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("into", ["0", "2"])
def test_weights_of_several_types(make, types, into: str) -> None:
    model = mixed(*types)
    # In float64, of the weights as they are.
    exact = make().bind({name: model.get_parameter(name).double() for name in ("0.weight", "2.weight")})
    expected = exact(model[0].weight.double(), model[2].weight.double())
    wf.attach(model, into, reads=["0", "2"], summary=make(), init="default")
    z = model.get_submodule(into).signal()
    torch.testing.assert_close(z.double(), expected, rtol=2e-3, atol=2e-3)
    x = torch.ones(2, *model.get_submodule(into).weight.shape[1:]).to(model.get_submodule(into).weight)
    layer = model.get_submodule(into)
    assert layer(x).dtype == layer.weight.dtype
    assert torch.equal(layer.fold()(x), layer(x))
    model.double()
    assert model.get_submodule(into).signal().dtype == torch.float64


@each_summary
@pytest.mark.parametrize("shape", [(6, 4), (8, 3), (5, 6), (4, 7)], ids=str)
def test_another_shape_is_noticed(make, shape) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    wf.attach(model, "1", reads=["0", "1"], summary=make())
    # As transformers' resize_token_embeddings does it: the parameter stays the same object.
    model[0].weight.data = torch.ones(shape)
    message = rf"0.weight has shape \[{shape[0]}, {shape[1]}\], but had \[4, 6\] when feedback was attached: it was"
    with pytest.raises(RuntimeError, match=message):
        model[1](torch.ones(2, 4))
    with pytest.raises(wf.CheckError, match=message):
        wf.check(model)
    with pytest.raises(ValueError, match=message):
        wf.fold(model)


def test_a_layer_that_was_resized_itself_is_noticed() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    wf.attach(model, "1", reads=["0"], summary=wf.CountSketch(3))
    model[1].weight = nn.Parameter(model[1].weight[:2])  # as pruning in place does it
    with pytest.raises(wf.CheckError, match="'1' has 2 rows, but its V has 4: it was resized"):
        wf.check(model)


def test_what_cannot_be_read_is_named_all_of_it() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.complex64))
    model[2].weight = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn))
    message = (
        r"can't read 1.weight: Linear.weight must be a floating-point tensor, got torch.complex64; "
        r"2.weight: Linear.weight must not be quantised, got a torch.nn.parameter.Parameter"
    )
    with pytest.raises(ValueError, match=message):
        wf.attach(model, "3", reads=["0", "1", "2"], summary=wf.CountSketch(2))
    assert not wf.feedback_layers(model)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4, device="meta"), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"on cpu: 0.weight, 2.weight; on meta: 1.weight; read those of one device"
    ):
        wf.attach(model, "2", reads=["0", "1", "2"], summary=wf.CountSketch(2))
    with pytest.raises(
        ValueError, match=r"'2' is on cpu, and can't read 1.weight on meta; read weights of its own"
    ):
        wf.attach(model, "2", reads=["1"], summary=wf.CountSketch(2))
    assert not wf.feedback_layers(model)


@pytest.mark.parametrize("how", [PARAMETRISED["spectral_norm"], HOOKED["old spectral_norm"]])
@pytest.mark.parametrize("look", [wf.check, wf.diagnose, lambda model, x: wf.fold(model, inputs=x)])
def test_power_iterations_go_on_after_a_look(how, look) -> None:
    model, untouched = hear(net(how).train(), "2"), hear(net(how).train(), "2")
    look(model, X)
    for _ in range(3):
        assert torch.equal(run(model), run(untouched))
    before = state(model)
    run(model)
    assert not all(map(torch.equal, state(model)[:-1], before[:-1]))  # it moves on
