"""What an attached network works with, against the network written out by hand; docs/works-with.md lists it."""

from __future__ import annotations

import copy
import functools
import pickle
import re
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import weight_feedback as wf
from helpers import cases, reference

Weights = Mapping[str, Tensor]
X = torch.linspace(-9, 9, 48, dtype=torch.float64).sin().view(8, 6)
Y = X[:, :3].square()
LR = 0.05


def heard(dtype: torch.dtype = torch.float64, *, seed: int = 0, timed: bool = False) -> nn.Sequential:
    """The network of the tests, the same at every call: layer ``"2"`` hears a sketch of all weight matrices.

    With ``timed``, layer ``"0"`` hears noise that each step draws anew.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cases.network(dtype)
        wf.attach(model, "2", reads=["0", "2"], summary=wf.CountSketch(4, seed=seed), init="default")
        if timed:
            wf.attach(model, "0", signal=wf.Noise(torch.linspace(-1, 2, 3, dtype=dtype)), init="default")
    model(X.to(dtype))  # whatever a signal kept from its first forward would show
    return model


@functools.cache
def sketch() -> Tensor:
    summary = heard()[2].signal.summary
    matrix = reference.count_sketch(summary.signs.numpy(), summary.pitches, summary.out_features)
    return float(summary.gain) * torch.from_numpy(matrix)


def by_hand(weights: Weights, x: Tensor = X) -> Tensor:
    """What ``heard()`` computes with these weights, without the library."""
    flat = torch.cat([weights["0.weight"].flatten(), weights["2.weight"].flatten()])
    bias = weights["2.bias"] + weights["2.feedback_weight"] @ (sketch() @ flat.detach())
    hidden = torch.tanh(x @ weights["0.weight"].T + weights["0.bias"])
    return hidden @ weights["2.weight"].T + bias


def gradients_by_hand(weights: Weights, x: Tensor = X, y: Tensor = Y) -> dict[str, Tensor]:
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    loss = F.mse_loss(by_hand(leaves, x), y)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def trained_by_hand(weights: Weights, steps: int = 1) -> dict[str, Tensor]:
    """The weights after gradient descent on the whole batch."""
    trained = {name: weight.detach().clone() for name, weight in weights.items()}
    for _ in range(steps):
        gradients = gradients_by_hand(trained)
        trained = {name: weight - LR * gradients[name] for name, weight in trained.items()}
    return trained


def train(model: nn.Module, steps: int = 1) -> None:
    """Plain training on the whole batch."""
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    weight = next(model.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(model(X.to(weight)), Y.to(weight)).backward()
        optimiser.step()
        wf.advance(model)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def shift(model: nn.Module, by: float = 0.3) -> nn.Module:
    """Change all weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def test_the_network_is_the_one_by_hand_and_feedback_matters() -> None:
    model = heard()
    close(model(X), by_hand(weights_of(model)))
    silent = {**weights_of(model), "2.feedback_weight": torch.zeros(3, 4, dtype=torch.float64)}
    assert (by_hand(weights_of(model)) - by_hand(silent)).abs().min() > 0.1
    expected = trained_by_hand(weights_of(model), 3)
    train(model, 3)
    close(weights_of(model), expected)


@pytest.mark.parametrize("page", ["works-with.md", "other-tools.md"])
def test_every_row_of_the_page_names_its_tests(page: str) -> None:
    here = Path(__file__).parent
    lines = (here.parent / "docs" / page).read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    rows = [row for row in rows if row[-1].strip() not in ("test", "---")]
    named = [re.findall(r"`(\w+\.py)::(\w+)`", row[-1]) for row in rows]
    assert all(named)
    for file, test in (pair for pairs in named for pair in pairs):
        assert f"def {test}(" in (here / file).read_text(encoding="utf-8"), (file, test)


# Copies and averages


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_hear_their_own_weights(copied) -> None:
    model = heard()
    other = copied(model)
    mine, theirs = weights_of(shift(model)), weights_of(other)
    assert torch.equal(other(X), heard()(X))
    close(other(X), by_hand(theirs))
    close(model(X), by_hand(mine))
    train(other)
    close(weights_of(other), trained_by_hand(theirs))
    assert all(map(torch.equal, weights_of(model).values(), mine.values()))


def test_state_dict_goes_round() -> None:
    model, other = shift(heard(seed=1)), heard(seed=2)
    file_keys = other.load_state_dict(model.state_dict(), strict=True)
    assert (file_keys.missing_keys, file_keys.unexpected_keys) == ([], [])
    assert torch.equal(other(X), model(X))
    assert not torch.isclose(shift(heard(seed=2))(X), model(X)).any()


def test_averaged_model_hears_the_averaged_weights() -> None:
    model, decay = heard(), 0.7
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    averaged.update_parameters(model)
    expected = weights_of(model)
    for _ in range(3):
        train(model)
        averaged.update_parameters(model)
        expected = {name: decay * expected[name] + (1 - decay) * now for name, now in weights_of(model).items()}
    close(weights_of(averaged.module), expected)
    close(averaged(X), by_hand(expected))
    assert not torch.isclose(averaged(X), model(X)).any()
    assert torch.equal(wf.fold(averaged.module)(X), averaged(X))


# Memory and precision


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_keeps_gradients_and_time(reentrant: bool) -> None:
    model, x = heard(timed=True), X.clone().requires_grad_()
    wf.advance(model)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(x).square().sum().backward()
    expected = [*gradients_of(model).values(), x.grad]
    model.zero_grad()
    x.grad = None
    checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    assert len(calls) == 3  # the forward ran again
    assert all(map(torch.equal, [*gradients_of(model).values(), x.grad], expected))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    z = model[0].signal().clone()
    wf.advance(model)
    assert not torch.isclose(model[0].signal(), z).any()


def test_autocast_is_close_to_full_precision() -> None:
    model, x = heard(torch.float32), X.float()
    F.mse_loss(model(x), Y.float()).backward()
    expected = gradients_of(model)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.bfloat16
    F.mse_loss(output.float(), Y.float()).backward()
    # Eight bits of mantissa, and sums over a handful of entries.
    exact = by_hand({name: weight.double() for name, weight in weights_of(model).items()})
    torch.testing.assert_close(output.double(), exact, rtol=0.02, atol=0.05)
    for name, gradient in gradients_of(model).items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.02 * expected[name].norm(), name


@pytest.mark.parametrize("summary", [wf.CountSketch(4), wf.DenseProjection(4), wf.KroneckerProjection(4)])
def test_autocast_leaves_z_in_full_precision(summary: wf.Projection) -> None:
    model = wf.attach(cases.network(torch.float32), "2", reads=["0", "2"], summary=summary, detach=False)
    expected = model[2].signal()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model[2].signal()
    assert z.dtype == torch.float32
    assert torch.equal(z, expected)
    assert torch.equal(*(torch.autograd.grad(found.sum(), model[0].weight)[0] for found in (z, expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_train(dtype: torch.dtype) -> None:
    model = heard().half() if dtype == torch.float16 else heard().to(dtype)
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {dtype}
    output = model(X.to(dtype))
    assert output.dtype == model[2].signal().dtype == dtype
    weights = {name: weight.double() for name, weight in weights_of(model).items()}
    torch.testing.assert_close(output.double(), by_hand(weights, X.to(dtype).double()), rtol=0.02, atol=0.05)
    F.mse_loss(output, Y.to(dtype)).backward()
    for name, expected in gradients_by_hand(weights).items():
        gradient = model.get_parameter(name).grad
        assert gradient.dtype == dtype
        assert (gradient.double() - expected).norm() < 0.03 * expected.norm(), name


# Compilers and exporters


can_build = shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()
needs_compiler = pytest.mark.skipif(not can_build, reason="needs g++ and Python's headers")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_compiler)])
def test_compile_follows_training(backend: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    model, eager = heard(timed=True), heard(timed=True)
    options = {"compile_threads": 1} if backend == "inductor" else None  # no pool of processes
    compiled = torch.compile(model, fullgraph=True, backend=backend, options=options)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    outputs = [compiled(X)]
    with torch.compiler.set_stance("fail_on_recompile"):  # neither weights nor time were taken for constants
        for _ in range(3):
            close(outputs[-1], eager(X))
            optimiser.zero_grad()
            F.mse_loss(outputs[-1], Y).backward()
            optimiser.step()
            wf.advance(model)
            train(eager)
            close(weights_of(model), weights_of(eager))
            outputs.append(compiled(X))
        assert not torch.isclose(outputs[0], outputs[1]).any()
    torch.compiler.reset()


def test_compile_takes_other_batch_sizes() -> None:
    torch.compiler.reset()
    model = heard()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(X), model(X))
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        compiled(X[:5])
    close(compiled(X[:5]), model(X[:5]))  # the first change of size compiles for all sizes
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in (3, 7):
            close(compiled(X[:size]), model(X[:size]))
    torch.compiler.reset()


def test_export_follows_batch_size_and_weights(tmp_path) -> None:
    model = heard()
    program = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(program, tmp_path / "net.pt2")
    exported = torch.export.load(tmp_path / "net.pt2").module()
    batches = [X[:1], X[:5], torch.cat([X, X.cos()])]
    for x in batches:
        assert torch.equal(exported(x), model(x))
    assert weights_of(exported).keys() == weights_of(model).keys()
    shift(exported)
    for x in batches:
        close(exported(x), by_hand(weights_of(exported), x))


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
def test_onnx_of_the_folded_network(tmp_path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    model = cases.attached()  # with a convolution and a batch norm
    path = tmp_path / "net.onnx"
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(wf.fold(model), (cases.IMAGES,), path, dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (cases.IMAGES, cases.IMAGES[:3], cases.IMAGES[:1]):
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), rtol=1e-5, atol=1e-5)


# torch.func


def test_functional_call_hears_the_weights_it_is_given() -> None:
    model = heard()
    weights = weights_of(shift(heard()))
    close(functional_call(model, weights, (X,)), by_hand(weights))
    gradients = grad(lambda given: F.mse_loss(functional_call(model, given, (X,)), Y))(weights)
    close(gradients, gradients_by_hand(weights))
    close(model(X), by_hand(weights_of(heard())))


def test_vmap_over_stacked_models() -> None:
    models = [shift(heard(), by) for by in (0.0, 0.2, -0.3)]
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    stacked = {name: parameter.detach() for name, parameter in parameters.items()}

    def loss(weights: Weights, state: Weights) -> tuple[Tensor, Tensor]:
        output = functional_call(skeleton, (weights, state), (X,))
        return F.mse_loss(output, Y), output

    gradients, outputs = vmap(grad(loss, has_aux=True))(stacked, buffers)
    for i, model in enumerate(models):
        close(outputs[i], model(X))
        close(outputs[i], by_hand(weights_of(model)))
        close({name: gradient[i] for name, gradient in gradients.items()}, gradients_by_hand(weights_of(model)))


def test_per_sample_gradients() -> None:
    model = heard()
    weights = weights_of(model)
    each = vmap(
        grad(lambda given, x, y: F.mse_loss(functional_call(model, given, (x[None],)), y[None])),
        in_dims=(None, 0, 0),
    )(weights, X, Y)
    for i in range(len(X)):
        alone = gradients_by_hand(weights, X[i : i + 1], Y[i : i + 1])
        close({name: gradient[i] for name, gradient in each.items()}, alone)


# Training


def test_gradient_accumulation_and_clipping() -> None:
    model = heard(timed=True)
    F.mse_loss(model(X), Y).backward()
    whole = gradients_of(model)
    model.zero_grad()
    for half in (slice(0, 4), slice(4, 8)):
        (F.mse_loss(model(X[half]), Y[half]) / 2).backward()
    close(gradients_of(model), whole)
    norm = torch.cat([gradient.flatten() for gradient in whole.values()]).norm()
    assert norm > 0.2
    close(nn.utils.clip_grad_norm_(model.parameters(), 0.1), norm)
    clipped = {name: gradient * 0.1 / norm for name, gradient in whole.items()}
    torch.testing.assert_close(gradients_of(model), clipped, rtol=1e-4, atol=0)


def test_weight_decay_that_leaves_feedback_alone() -> None:
    model, decay = heard(), 0.3
    before, gradients = weights_of(model), gradients_by_hand(weights_of(model))
    kept = {name for name in before if name.endswith(("bias", "feedback_weight"))}
    assert kept == {"0.bias", "2.bias", "2.feedback_weight"}
    groups = [
        {"params": [p for n, p in model.named_parameters() if n not in kept], "weight_decay": decay},
        {"params": [p for n, p in model.named_parameters() if n in kept], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=LR)
    F.mse_loss(model(X), Y).backward()
    optimiser.step()
    for name, weight in weights_of(model).items():
        pull = 0 if name in kept else decay * before[name]
        close(weight, before[name] - LR * (gradients[name] + pull))
