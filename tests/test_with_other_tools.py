"""Feedback beside quantisation, adapters, averages and transformers: right, or refused, or found by check.

`docs/other-tools.md` lists them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import weight_feedback as wf
from helpers.other_tools import X, expected, hear, net

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
