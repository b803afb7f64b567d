"""What names, globs and modules mean: which layers hear, and what they read."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import weight_feedback as wf
from helpers.cases import IMAGES as X
from helpers.cases import net
from weight_feedback.attach import feedback_parameters


def blocks(tied: bool = False) -> nn.ModuleDict:
    """Two blocks with two layers each, and a head; perhaps with the first block's weight tied to the last's."""
    torch.manual_seed(0)
    parts = {
        f"b{i}": nn.ModuleDict({"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4), "act": nn.Tanh()}) for i in (0, 1)
    }
    model = nn.ModuleDict({**parts, "head": nn.Linear(4, 2), "table": nn.Embedding(3, 4)})
    if tied:
        model["b1"]["fc2"].weight = model["b0"]["fc1"].weight
    return model


def names(model: nn.Module, layer: str) -> list[str]:
    return [read.name for read in wf.signals(model)[layer].reads]


def heard(into, model: nn.Module | None = None, **options) -> list[str]:
    model = blocks() if model is None else model
    return list(wf.feedback_layers(wf.attach(model, into, summary=wf.DenseProjection(2), **options)))


def read(reads, model: nn.Module | None = None, k: int | None = 2) -> list[str]:
    model = blocks() if model is None else model
    summary = wf.Moments() if k is None else wf.DenseProjection(k)
    return names(wf.attach(model, "head", summary=summary, reads=reads), "head")


# into


@pytest.mark.parametrize(
    ("into", "expected"),
    [
        ("b1.fc1", ["b1.fc1"]),
        ("b*.fc1", ["b0.fc1", "b1.fc1"]),
        ("b[0].fc?", ["b0.fc1", "b0.fc2"]),
        ("*", ["head"]),  # no star stands for a dot, and what can't hear is passed over
        ("b0.*", ["b0.fc1", "b0.fc2"]),
        ("*.*2", ["b0.fc2", "b1.fc2"]),
        (["head", "b0.fc2"], ["b0.fc2", "head"]),
        (("b*.fc1", "b0.fc1", "b0.*"), ["b0.fc1", "b0.fc2", "b1.fc1"]),
    ],
)
def test_into(into, expected: list[str]) -> None:
    assert heard(into) == expected


def test_into_takes_modules() -> None:
    model = blocks()
    assert heard(model["b0"]["fc2"], model) == ["b0.fc2"]
    assert heard([model["head"], "b0.fc1"], model) == ["b0.fc1", "b0.fc2", "head"]
    assert heard(net := nn.Linear(8, 2), net) == [""]


def test_a_name_with_the_signs_of_a_glob_is_a_name() -> None:
    model = nn.ModuleDict({"a[0]": nn.Linear(4, 2), "a0": nn.Linear(4, 2)})
    assert heard("a[0]", model, reads=["a[0]"]) == ["a[0]"]
    assert names(model, "a[0]") == ["a[0].weight"]


def test_every_name_of_a_layer_used_twice() -> None:
    shared = nn.Linear(4, 4)
    for into in ("0", "1", ["0", "1"], "*", shared):
        model = wf.remove(nn.Sequential(shared, shared))
        assert heard(into, model) == ["0"]


def test_each_layer_has_its_own_summary() -> None:
    summary = wf.DenseProjection(3, seed=4)
    model = wf.attach(net(), ["conv1", "fc1"], summary=summary)
    assert summary.names == ()
    assert model.conv1.signal is not model.fc1.signal
    assert model.conv1.signal.summary is not model.fc1.signal.summary
    assert model.conv1.signal.summary.seed == model.fc1.signal.summary.seed == 4
    assert torch.equal(model(X), net()(X))


@pytest.mark.parametrize("summary", [wf.DenseProjection(2), wf.Moments()])
def test_each_layer_reads_itself_and_the_later_ones_unless_told(summary: wf.Summary) -> None:
    model = wf.attach(blocks(), ["b1.fc2", "b0.fc2"], summary=summary)
    assert names(model, "b0.fc2") == ["b0.fc2.weight", "b1.fc1.weight", "b1.fc2.weight", "head.weight"]
    assert names(model, "b1.fc2") == ["b1.fc2.weight", "head.weight"]
    model = wf.attach(blocks(), ["b1.fc2", "b0.fc2"], summary=summary, reads=["table"])
    assert names(model, "b0.fc2") == names(model, "b1.fc2") == ["table.weight"]


def test_each_layer_can_read_the_v_of_the_others() -> None:
    reads = ["b0.fc1.full_weight", "head.full_weight"]
    model = wf.attach(blocks(), ["b0.fc1", "head"], summary=wf.DenseProjection(2), reads=reads)
    assert names(model, "b0.fc1") == names(model, "head") == reads


def test_a_signal_is_shared() -> None:
    signal = wf.Clock(2)
    model = wf.attach(net(), "fc*", signal=signal)
    assert model.fc1.signal is model.fc2.signal is signal


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(2))


def quantised() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
    return nn.Sequential(layer)


PACKED = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})


def packed() -> nn.Module:
    return nn.Sequential(PACKED(4, 3))


BAD = {
    "glob of nothing": (blocks, KeyError, r"no module 'b\*.fc3'; did you mean 'b\d.fc\d' or", "b*.fc3", {}),
    "glob of nothing near": (blocks, KeyError, r"no module 'zz\*'.$", "zz*", {}),
    "glob of nothing that hears": (
        blocks,
        TypeError,
        "'b0.act' must be one of .*, got torch.nn.modules.activation.Tanh",
        "*.act",
        {},
    ),
    "no layer": (blocks, ValueError, "must name at least one layer, got none", [], {}),
    "foreign module": (blocks, KeyError, "this Linear is no module of the model", nn.Linear(1, 1), {}),
    "second name wrong": (blocks, KeyError, "no module 'hed'; did you mean 'head'", ["b0.fc1", "hed"], {}),
    "second kind wrong": (blocks, TypeError, "'table' must be one of", ["b0.fc1", "table"], {}),
    "second summary too large": (blocks, ValueError, "is more than the", ["b0.fc1", "head"], {"k": 20}),
    "lazy": (lazy, ValueError, "'1' is a LazyLinear and has no shape yet; run one batch", "1", {}),
    "reads lazy": (lazy, ValueError, "can't read 1.weight: it is lazy.*; run one batch", "0", {"reads": ["1"]}),
    "reads lazy by default": (lazy, ValueError, "can't read 1.weight: it is lazy", "0", {}),
    "reads all lazy": (lazy, ValueError, "can't read 1.weight: it is lazy", "0", {"reads": "all"}),
    "quantised": (quantised, TypeError, "'0' must have floating-point weights, got the quantised Linear", "0", {}),
    "complex": (
        lambda: nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)),
        ValueError,
        "'0' is complex",
        "0",
        {},
    ),
    "packed": (packed, TypeError, "got the quantised Linear4bit; give the layer feedback, train and", "0", {}),
    "reads glob of nothing": (
        blocks,
        KeyError,
        r"can't read 'b\*.fc3'.* did you mean 'b\d.fc\d' or",
        "head",
        {"reads": ["b*.fc3"]},
    ),
    "reads foreign module": (blocks, KeyError, "this Tanh is no module", "head", {"reads": [nn.Tanh()]}),
    "reads no weight": (blocks, KeyError, "can't read 'b0.act'", "head", {"reads": "b0.act"}),
}


@pytest.mark.parametrize("name", list(BAD))
def test_errors_leave_the_model_as_it_was(name: str) -> None:
    make, error, message, into, options = BAD[name]
    model, untouched = make(), make()
    with pytest.raises(error, match=message):
        wf.attach(model, into, summary=wf.DenseProjection(options.get("k", 2)), reads=options.get("reads"))
    assert [type(module) for module in model.modules()] == [type(module) for module in untouched.modules()]
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in untouched.modules()]
    assert model.state_dict().keys() == untouched.state_dict().keys()


def test_lazy_no_more_after_a_batch() -> None:
    model = lazy()
    model(torch.zeros(1, 4))
    assert heard("*", model) == ["0", "1"]
    assert names(model, "0") == ["0.weight", "1.weight"]


# reads


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ("b0.fc1", ["b0.fc1.weight"]),
        ("b*.fc1", ["b0.fc1.weight", "b1.fc1.weight"]),
        (["head", "b*.fc1"], ["head.weight", "b0.fc1.weight", "b1.fc1.weight"]),
        ("*", ["head.weight", "table.weight"]),
        ("*.bias", ["head.bias"]),
        (["*.fc1.bias", "b0.fc1.*"], ["b0.fc1.bias", "b1.fc1.bias", "b0.fc1.weight"]),
        ("head.*", ["head.weight", "head.bias"]),  # but not V
        (["head", "head.weight"], ["head.weight"]),
        (["head.weight", "b0.fc2", "head"], ["head.weight", "b0.fc2.weight"]),
        (["head.feedback_weight"], ["head.feedback_weight"]),
    ],
)
def test_reads(reads, expected: list[str]) -> None:
    assert read(reads) == expected


def test_reads_take_modules() -> None:
    model = blocks()
    assert read([model["table"], "b1.fc1", model["b0"]["fc2"]], model) == [
        "table.weight",
        "b1.fc1.weight",
        "b0.fc2.weight",
    ]


@pytest.mark.parametrize("k", [2, None])
def test_reads_of_all(k: int | None) -> None:
    model = blocks()
    model.register_parameter("count", nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))
    expected = [name for name, _ in model.named_parameters() if name != "count"]
    wf.attach(model, "b0.fc1", signal=wf.Zeros(2))  # whose V isn't read either
    assert read("all", model, k) == expected
    assert len(expected) == 11


def test_a_module_named_all_can_be_read() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 2), "all": nn.Linear(3, 3)})
    assert read(["all"], model) == ["all.weight"]


def test_tied_weights_are_read_once_by_the_first_name() -> None:
    assert [name for name in read("all", blocks(tied=True)) if name.endswith("weight")] == [
        "b0.fc1.weight",
        "b0.fc2.weight",
        "b1.fc1.weight",
        "head.weight",
        "table.weight",
    ]
    assert read(["b1.fc2", "b0.fc1", "head"], blocks(tied=True)) == ["b1.fc2.weight", "head.weight"]
    model = wf.attach(blocks(tied=True), "b0.fc1", summary=wf.Moments())
    assert names(model, "b0.fc1") == ["b0.fc1.weight", "b0.fc2.weight", "b1.fc1.weight", "head.weight"]


# A batch normalisation that follows


def warned(model: nn.Module, into, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wf.attach(model, into, summary=wf.Moments(), **options)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.SyncBatchNorm(3)])
def test_batch_norm_after_the_layer_warns(norm: nn.Module) -> None:
    def model() -> nn.Module:
        part = nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.Conv2d(3, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
        return nn.ModuleDict({"part": part, "head": nn.Linear(4, 2)})

    (message,) = warned(model(), "part.*")
    assert "in training, the normalisation after 'part.0' subtracts each channel's mean and divides by" in message
    assert warned(model(), "part.0", conditioning="film") == [message]
    assert warned(model(), "part.2") == []
    assert warned(model(), "head") == []
    assert warned(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), "1") == []
    # A layer that is used twice goes by the first of its names.
    shared = nn.Linear(4, 4)
    assert len(warned(nn.Sequential(shared, nn.BatchNorm1d(4), shared), ["0", "2"])) == 1
    # Only a Sequential says what follows what.
    assert warned(nn.ModuleList([nn.Linear(4, 2), nn.BatchNorm1d(2)]), "0") == []


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(4, eps=1e-9), nn.GroupNorm(4, 4, eps=1e-9), nn.BatchNorm2d(4, eps=1e-9)]
)
@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_a_norm_of_each_channel_warns(norm: nn.Module, conditioning: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm)
    (message,) = warned(model, "0", conditioning=conditioning, init="default")
    assert "the normalisation after '0' subtracts each channel's mean and divides by its spread" in message
    # By hand: the output stays the same, but for the sign of a channel whose scale is negative.
    x = torch.linspace(-3, 3, 100).sin().view(2, 1, 5, 10)
    heard, base = model(x), wf.remove(copy.deepcopy(model))(x)
    torch.testing.assert_close(heard.abs(), base.abs(), rtol=1e-3, atol=1e-3)
    assert wf.diagnose(model, x).layers["0"].normalised_by == "1"


def test_norms_across_channels_do_not_warn() -> None:
    for norm in (nn.GroupNorm(2, 4), nn.LayerNorm([4, 3, 3])):
        assert warned(nn.Sequential(nn.Conv2d(1, 4, 3), norm), "0") == []


# feedback_parameters


def test_feedback_parameters() -> None:
    model = wf.attach(net(), ["fc1", "conv1"], summary=wf.Moments())
    found = feedback_parameters(model)
    assert [name for name, _ in found] == ["conv1.feedback_weight", "fc1.feedback_weight"]
    assert [parameter for _, parameter in found] == [model.conv1.feedback_weight, model.fc1.feedback_weight]
    everything = dict(model.named_parameters())
    assert all(everything[name] is parameter for name, parameter in found)
    assert [name for name, _ in feedback_parameters(wf.attach(nn.Linear(2, 2), "", signal=wf.Zeros(1)))] == [
        "feedback_weight"
    ]
    assert feedback_parameters(net()) == []


def test_globs_never_read_v_of_an_earlier_attach() -> None:
    model = wf.attach(net(), "fc1", summary=wf.CountSketch(3))
    wf.attach(model, "fc2", reads="fc1.*", summary=wf.CountSketch(2))
    assert [read.name for read in model.fc2.signal.reads] == ["fc1.weight", "fc1.bias"]


def test_a_module_with_two_names_goes_by_the_first() -> None:
    model = nn.Module()
    model.first = model.second = nn.Linear(3, 3)
    wf.attach(model, model.second, reads=[model.first], summary=wf.CountSketch(2))
    assert list(wf.signals(model)) == ["first"]
    assert [read.name for read in model.first.signal.reads] == ["first.weight"]
