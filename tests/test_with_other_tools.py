"""Feedback beside tools that change a model, before and after it is attached: right, or refused, or found by check.

`docs/works-with.md` lists them. Warnings that are these packages' own are let through.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


# Quantisation


@pytest.fixture
def quanto():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("optimum.quanto")


def test_quanto(quanto) -> None:
    model = hear(net())
    quanto.quantize(model, weights=quanto.qint8)
    message = (
        "the feedback that was attached to 'a' is gone, as it is a QLinear now: another tool has replaced or fused "
        r"the layer \(call weight_feedback.remove\(model\), or fold, before it"
    )
    for inputs in ((), (X,)):
        with pytest.raises(wf.CheckError, match=message):
            wf.check(model, *inputs)
    wf.remove(model)
    wf.check(model)  # it is meant now
    with pytest.raises(
        TypeError, match="'a' must have floating-point weights, got the quantised QLinear; give the"
    ):
        hear(model)
    quanto.freeze(model)
    model.d = nn.Linear(6, 6)
    with pytest.raises(
        ValueError, match=r"can't read a.weight: QLinear.weight must not be quantised, got a optimum"
    ):
        hear(model, "d")
    # The way to do it.
    folded = wf.fold(hear(net()))
    quanto.quantize(folded, weights=quanto.qint8)
    quanto.freeze(folded)
    torch.testing.assert_close(folded(X), expected(), rtol=0.05, atol=0.05)


@pytest.fixture
def torchao():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchao.quantization")


def test_torchao(torchao) -> None:
    def quantise(model: nn.Module) -> None:
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())

    model = hear(net())
    quantise(model)
    message = r"the signal of 'a' can't read c.weight: Linear.weight must not be quantised, got a torchao\."
    with pytest.raises(wf.CheckError, match=message):
        wf.check(model, X)
    model = net()
    quantise(model)
    with pytest.raises(TypeError, match="'a' must have floating-point weights, got the quantised Linear"):
        hear(model)
    model.d = nn.Linear(6, 6)
    with pytest.raises(
        ValueError, match=r"can't read a.weight: Linear.weight must not be quantised.*; c.weight: Linear"
    ):
        hear(model, "d")
    folded = wf.fold(hear(net()))
    quantise(folded)
    torch.testing.assert_close(folded(X), expected(), rtol=0.05, atol=0.05)


# Adapters


@pytest.fixture
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


def adapted(peft, model: nn.Module, *targets: str, **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        config = peft.LoraConfig(target_modules=list(targets), r=2, init_lora_weights=False, **options)
        return peft.get_peft_model(model, config)


def test_peft_after_attaching(peft) -> None:
    model = adapted(peft, hear(net(), reads=("c",)), "a", "b")
    layer = "base_model.model.a.base_layer"
    with pytest.raises(
        wf.CheckError, match=f"V of '{layer}' is frozen while other parameters are trained"
    ) as error:
        wf.check(model, X)
    assert len(error.value.report.problems) == 1
    assert wf.diagnose(model, X).layers[layer].conclusion.startswith("wrong: V of")
    for _, v in wf.feedback_parameters(model):
        v.requires_grad_(True)
    report = wf.check(model, X)
    assert report.layers[layer].gradient
    model(X).sum().backward()
    assert model.get_parameter(f"{layer}.feedback_weight").grad.abs().min() > 0
    # Merging leaves what is read as it was, and so the output.
    before = model(X)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(X), before, rtol=1e-5, atol=1e-5)
    wf.check(merged, X)


def test_peft_adapts_what_is_read(peft) -> None:
    model = adapted(peft, hear(net()), "c")
    for _, v in wf.feedback_parameters(model):
        v.requires_grad_(True)
    message = (
        r"reads c.weight, which peft\.tuners\.lora\.layer\.Linear adapts: it doesn't hear what the adapter learns"
    )
    with pytest.raises(wf.CheckError, match=message):
        wf.check(model, X)
    before = model(X)
    merged = model.merge_and_unload()
    assert not torch.allclose(merged(X), before, rtol=1e-3, atol=1e-3)  # which is what check is about


def test_a_base_layer_of_ones_own_is_no_adapter() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer, self.scale = nn.Linear(6, 3), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.base_layer(x)

    wf.check(hear(Scaled(), "base_layer", reads=("base_layer",)), X)


def test_peft_before_attaching(peft) -> None:
    model = adapted(peft, net(), "a")
    with pytest.raises(
        TypeError, match=r"got peft\.tuners\.lora\.layer\.Linear; attach to 'base_model\.model\.a\.base"
    ):
        hear(model, "base_model.model.a", reads=("base_model.model.b",))
    with pytest.raises(KeyError, match=r"the model has no module 'b'; did you mean 'base_model\.model\.b'"):
        hear(model, "b")
    hear(model, "base_model.model.a.base_layer", reads=("base_model.model.b", "base_model.model.c"))
    wf.check(model, X)
    model(X).sum().backward()
    assert next(v for _, v in wf.feedback_parameters(model)).grad.abs().min() > 0
    assert torch.equal(wf.fold(model)(X), model(X))
    before = model(X)
    torch.testing.assert_close(model.merge_and_unload()(X), before, rtol=1e-5, atol=1e-5)


def test_peft_copies_a_layer_out_of_its_model(peft) -> None:
    model = adapted(peft, hear(net()), "b", modules_to_save=["a"])
    with pytest.raises(wf.CheckError, match=r"reads c.weight, whose module is no longer in the model"):
        wf.check(model, X)


def test_peft_dora_scales_what_is_added(peft) -> None:
    model = adapted(peft, hear(net(), reads=("c",)), "a", use_dora=True)
    for _, v in wf.feedback_parameters(model):
        v.requires_grad_(True)
    wf.check(model, X)
    with torch.no_grad():  # as training does
        model.get_parameter("base_model.model.a.lora_magnitude_vector.default.weight").mul_(1.5)
    with pytest.raises(
        wf.CheckError,
        match=r"fold changes what is taken elsewhere: the bias of 'base_model\.model\.a\.base_layer' at dora",
    ):
        wf.check(model, X)
    with pytest.raises(ValueError, match=r"fold: on inputs= the folded model returns something else"):
        wf.fold(model, inputs=X)


# Fusing and tracing


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


IMAGES = torch.linspace(-9, 9, 2 * 36).sin().view(2, 1, 6, 6)


def convolutions() -> Convolutions:
    torch.manual_seed(0)
    model = Convolutions().eval()
    with torch.no_grad():
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.2, 2)
    return model


@pytest.mark.parametrize("reads", [("conv",), ("conv", "fc")])
def test_fused_convolutions(reads: tuple[str, ...]) -> None:
    model = hear(convolutions(), "conv", reads)
    wf.check(model, IMAGES)
    before = model(IMAGES)
    folded = wf.fold(model)
    model.conv, model.norm = nn.utils.fuse_conv_bn_eval(model.conv, model.norm), nn.Identity()
    assert not torch.allclose(model(IMAGES), before, rtol=1e-3)
    with pytest.raises(
        wf.CheckError, match=r"no longer in the model|'conv' was copied out of its model, as torch\.nn"
    ):
        wf.check(model, IMAGES)
    folded.conv, folded.norm = nn.utils.fuse_conv_bn_eval(folded.conv, folded.norm), nn.Identity()
    torch.testing.assert_close(folded(IMAGES), before, rtol=1e-5, atol=1e-5)


def test_copies_of_whole_models_are_no_fault() -> None:
    model = hear(net(), reads=("a",))
    wf.check(copy.deepcopy(model), X)
    lone = wf.attach(nn.Linear(6, 6), "", summary=wf.CountSketch(3))
    wf.check(copy.deepcopy(lone), X)
    pair = nn.Sequential(copy.deepcopy(lone), copy.deepcopy(lone))
    wf.check(pair, X)


def test_fx() -> None:
    model = hear(net())
    with pytest.raises(TypeError, match=r"a.weight must be a tensor, got a Proxy; torch.fx can't trace what reads"):
        torch.fx.symbolic_trace(model)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, wf.FeedbackLayer) or super().is_leaf_module(module, name)

    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert torch.equal(traced(X), model(X))
    later = hear(torch.fx.symbolic_trace(net()))
    assert torch.equal(later(X), expected())
    assert torch.equal(wf.fold(later)(X), later(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_after_folding() -> None:
    folded = wf.fold(hear(net()))
    assert torch.equal(torch.jit.script(folded)(X), expected())


# Averages

TIMED = {
    "noise": lambda _: wf.Noise(torch.tensor([1.0, -2.0, 0.5])),
    "clock": lambda _: wf.Clock(4),
    "stale": lambda m: wf.Stale(wf.OwnWeights([(m.c, "weight", "c.weight")], wf.CountSketch(3)), 2),
    "permuted": lambda m: wf.Permuted([(m.c, "weight", "c.weight")], wf.CountSketch(3)),
    "own": lambda m: wf.OwnWeights([(m.c, "weight", "c.weight")], wf.CountSketch(3)),
}


def averaged(kind: str, average: Callable[[nn.Module], nn.Module], update: str) -> tuple[nn.Module, nn.Module]:
    model = net()
    wf.attach(model, "a", signal=TIMED[kind](model), init="default")
    other = average(model)
    for _ in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1).add_(0.02)
        wf.advance(model)
        getattr(other, update)(*[model][: update == "update_parameters"])
    return model, other


@pytest.mark.parametrize("kind", TIMED)
def test_averaged_models_of_pytorch(kind: str) -> None:
    model, average = averaged(kind, AveragedModel, "update_parameters")
    wf.check(average, X)
    assert int(average.n_averaged) == 6
    for ours, theirs in zip(model.a.signal.buffers(), average.module.a.signal.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # copied, not averaged


@pytest.mark.parametrize("kind", ["noise", "clock"])
def test_averaged_buffers_are_found(kind: str) -> None:
    _, average = averaged(kind, functools.partial(AveragedModel, use_buffers=True), "update_parameters")
    with pytest.raises(
        wf.CheckError, match=r"the z of \w+ isn't that of step \d: its buffers were overwritten, as"
    ):
        wf.check(average)


def test_averaged_permutations_are_found() -> None:
    ema = functools.partial(AveragedModel, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    _, average = averaged("permuted", ema, "update_parameters")
    with pytest.raises(
        wf.CheckError, match=r"what its seed gives was overwritten, as averaging all buffers does; call"
    ):
        wf.check(average)
    average.module.a.signal.reset_parameters()
    wf.check(average)


@pytest.mark.parametrize("kind", ["noise", "clock", "own", "permuted"])
def test_ema_pytorch(kind: str) -> None:
    package = pytest.importorskip("ema_pytorch")
    make = functools.partial(package.EMA, beta=0.9, update_every=1, update_after_step=0)
    _, average = averaged(kind, make, "update")
    if kind in ("own", "permuted"):
        wf.check(average.ema_model, X)
    else:
        with pytest.raises(wf.CheckError, match=r"isn't that of step 0: its buffers were overwritten"):
            wf.check(average.ema_model)


# Models inside of models


def test_higher_reads_the_original() -> None:
    package = pytest.importorskip("higher")
    model = hear(net())
    with (
        package.innerloop_ctx(model, torch.optim.SGD(model.parameters(), 0.1)) as (inner, _),
        pytest.raises(wf.CheckError, match=r"the signal of 'a' reads a.weight, whose module is no longer in the"),
    ):
        wf.check(inner, X)


def test_layers_of_torch_geometric() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        geometric = pytest.importorskip("torch_geometric")
    model = nn.ModuleDict({"conv": geometric.nn.GCNConv(4, 4), "head": nn.Linear(4, 2)})
    message = (
        r"'conv\.lin' must be one of torch\.nn's Linear, .*, got torch_geometric\.nn\.dense\.linear\.Linear; put a "
        "torch.nn layer in its place, or attach to another one, such as 'head'"
    )
    with pytest.raises(TypeError, match=message):
        wf.attach(model, "conv.lin", summary=wf.CountSketch(2))
    wf.attach(model, "head", reads="all", summary=wf.CountSketch(2))
    assert "conv.lin.weight" in [read.name for read in model["head"].signal.reads]


# transformers


def language_model(**options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=8, max_position_embeddings=16, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [9, 13])
def test_resized_embeddings_are_noticed(tied: bool, size: int) -> None:
    model = language_model(tie_word_embeddings=tied)
    into, reads = "model.layers.0.mlp.gate_proj", ["model.embed_tokens", "model.layers.0.mlp.up_proj"]
    wf.attach(model, into, reads=reads, summary=wf.Moments())
    ids = torch.arange(6).view(1, 6)
    wf.check(model, ids)
    model.resize_token_embeddings(size)
    message = rf"model.embed_tokens.weight has shape \[{size}, 8\], but had \[11, 8\] when feedback was attached"
    with pytest.raises(wf.CheckError, match=message):
        wf.check(model, ids)
    with pytest.raises(RuntimeError, match=message):
        model(ids)
    wf.attach(wf.remove(model), into, reads=reads, summary=wf.Moments())
    wf.check(model, ids)


def test_a_resized_head_loses_its_feedback_and_is_missed() -> None:
    model = language_model(tie_word_embeddings=False)
    wf.attach(model, "lm_head", summary=wf.CountSketch(3))
    model.resize_token_embeddings(13)
    with pytest.raises(
        wf.CheckError, match="the feedback that was attached to 'lm_head' is gone, as it is a Linear now"
    ):
        wf.check(model)


def test_t5_in_half_precision_keeps_some_layers_whole(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16, torch.float32}
    part = "encoder.block.0.layer.1.DenseReluDense"
    for into in (f"{part}.wi", f"{part}.wo"):
        for summary in (wf.CountSketch(4), wf.DenseProjection(4), wf.KroneckerProjection(4)):
            wf.attach(model, into, reads=[f"{part}.wi", f"{part}.wo"], summary=summary, init="default")
            z = model.get_submodule(into).signal()
            exact = summary.bind(
                {name: model.get_parameter(f"{part}.{name}.weight").double() for name in ("wi", "wo")}
            )
            assert z.isfinite().all()
            assert z.shape == (4,)
            assert exact.in_features == 128
            wf.check(model, input_ids=torch.arange(6).view(1, 6), decoder_input_ids=torch.arange(4).view(1, 4))
            wf.remove(model)


# torchvision and timm (`make test-integrations`)


def image_model(name: str, **options) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **options).eval()


PIXELS = torch.linspace(-9, 9, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)


def test_timm_fuses_branches() -> None:
    model = image_model("repvgg_a0")
    into = "stages.0.0.conv_kxk.conv"
    wf.attach(model, [into, "head.fc"], reads=["head.fc"], summary=wf.CountSketch(3), init="default")
    wf.check(model, PIXELS)
    timm = pytest.importorskip("timm.utils.model")
    fused = timm.reparameterize_model(model)
    with pytest.raises(
        wf.CheckError, match=rf"the feedback that was attached to '{into}' is gone, as no such module"
    ):
        wf.check(fused, PIXELS)
    # The way to do it.
    fused = timm.reparameterize_model(image_model("repvgg_a0"))
    wf.attach(fused, "stages.0.0.reparam_conv", reads=["head.fc"], summary=wf.CountSketch(3), init="default")
    wf.check(fused, PIXELS)
    assert torch.equal(wf.fold(fused)(PIXELS), fused(PIXELS))


def test_timm_resets_classifiers() -> None:
    model = image_model("resnet18")
    wf.attach(model, "fc", summary=wf.CountSketch(3))
    model.reset_classifier(5)
    with pytest.raises(
        wf.CheckError, match="the feedback that was attached to 'fc' is gone, as it is a Linear now"
    ):
        wf.check(model)


def test_feature_extractors_of_torchvision() -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = image_model("resnet18")
    wf.attach(model, "fc", summary=wf.CountSketch(3), init="default")
    with pytest.raises(TypeError, match=r"fc\.weight must be a tensor, got a Proxy; torch\.fx can't trace"):
        extraction.create_feature_extractor(model, ["fc"])
    leaves = {"leaf_modules": [type(model.fc)]}
    extractor = extraction.create_feature_extractor(model, ["fc"], tracer_kwargs=leaves)
    assert torch.equal(extractor(PIXELS)["fc"], model(PIXELS))
