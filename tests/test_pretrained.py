"""A saved model comes back bit for bit, whatever it hears."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import weight_feedback as wf
from helpers import cases
from helpers.cases import IMAGES, attached, net
from helpers.saved_models import CONFIG, WEIGHTS, X, blank, check_round_trip, contents
from weight_feedback.pretrained import PretrainedError, load_pretrained, save_pretrained

# Round trips


@pytest.mark.parametrize("case", cases.SIGNALS, ids=cases.ids(cases.SIGNALS))
def test_every_signal(case: cases.SignalCase, tmp_path: Path) -> None:
    def step(model: nn.Module) -> None:
        with torch.no_grad():
            model[0].weight.mul_(1.1).add_(0.01)
            model[2].weight.mul_(1.1).add_(0.01)
        wf.advance(model)

    model = case.attached()
    if case.name == "received":
        model[2].signal.receive(torch.arange(4.0))
    for _ in range(4):
        step(model)
    loaded = check_round_trip(model, blank(cases.network()), tmp_path)
    for _ in range(4):
        assert torch.equal(loaded(X), model(X))
        assert torch.equal(loaded[2].signal(), model[2].signal())
        step(model)
        step(loaded)


class Heard(nn.Module):
    """Tensors of any shapes, and a layer that hears of them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            holder = nn.Module()
            holder.weight = nn.Parameter(weight.clone())
            self.add_module(name.removesuffix(".weight"), holder)
        self.out = nn.Linear(2, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


@pytest.mark.parametrize("case", cases.SUMMARIES, ids=cases.ids(cases.SUMMARIES))
def test_every_summary(case: cases.SummaryCase, tmp_path: Path) -> None:
    weights = case.weights()
    model = wf.attach(Heard(weights), "out", reads=list(weights), summary=case.make(7), init="default")
    with torch.no_grad():  # a calibrated factor is that of the weights before
        for parameter in model.parameters():
            parameter.mul_(3)
    loaded = check_round_trip(model, blank(Heard(weights)), tmp_path)
    x = torch.ones(2, 2, dtype=torch.float64)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("norms", [(1.0, math.inf), ()])
def test_infinite_numbers(norms: tuple[float, ...], tmp_path: Path) -> None:
    model = wf.attach(net(), "fc1", summary=wf.Moments((), norms))
    pool = wf.MaxPool([(6, 4)], 20, fill=-math.inf)
    loaded = check_round_trip(wf.attach(model, "fc2", reads=["fc1"], summary=pool), net(), tmp_path)
    assert loaded.fc1.signal.summary.norms == norms
    assert loaded.fc2.signal.summary.fill_value == -math.inf
    assert '"inf"' in (tmp_path / "one" / CONFIG).read_text() or not norms


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_several_layers(conditioning: str, tmp_path: Path) -> None:
    model = attached(conditioning=conditioning, detach=False)
    wf.attach(model, "conv1", signal=wf.Noise(torch.randn(5)), init="default", conditioning="film")
    wf.attach(model, "fc2", summary=wf.CountSketch(4, seed=2**63 - 1), reads=["norm.running_mean", "fc1", "conv1"])
    wf.advance(model)
    model.train()(IMAGES)
    loaded = check_round_trip(model.eval(), blank(net()), tmp_path)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert loaded.fc1.conditioning == conditioning
    assert loaded.fc1.signal.detach is False


def test_loading_warns_of_nothing_that_attach_has_warned_of(tmp_path: Path) -> None:
    def base() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))

    model = base()
    with pytest.warns(UserWarning, match="the normalisation after '0'"):
        wf.attach(model, "0", summary=wf.CountSketch(2))
    save_pretrained(model, tmp_path)
    load_pretrained(base(), tmp_path)


def test_loading_goes_through_the_model_a_few_times_whatever_its_layers(tmp_path: Path, monkeypatch) -> None:
    visits = []
    named_modules = nn.Module.named_modules

    def counted(module: nn.Module, *args, **kwargs):
        for found in named_modules(module, *args, **kwargs):
            visits.append(found[0])
            yield found

    counts = {}
    for layers in (10, 40):
        model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(layers)])
        wf.attach(model, "*", signal=wf.Constant(torch.ones(2)))
        save_pretrained(model, tmp_path / str(layers))
        base = nn.Sequential(*[nn.Linear(2, 2) for _ in range(layers)])
        visits.clear()
        with monkeypatch.context() as patched:
            patched.setattr(nn.Module, "named_modules", counted)
            load_pretrained(base, tmp_path / str(layers))
        counts[layers] = len(visits)
    assert counts[40] < 6 * counts[10]


def test_reads_of_v(tmp_path: Path) -> None:
    summary = wf.DenseProjection(3, scale="calibrated")
    model = wf.attach(net(), "fc2", signal=wf.Zeros(2), init="default")
    wf.attach(
        model, "fc1", reads=["fc1.full_weight", "fc2.full_weight"], summary=wf.DenseProjection(3), init="default"
    )
    model.fc2.signal = wf.OwnWeights([(model.fc1, "feedback_weight", "v")], wf.AvgPool([(3, 3)]))
    wf.attach(model, "conv1", reads=["fc2.feedback_weight"], summary=summary, init="default")
    loaded = check_round_trip(model, blank(net()), tmp_path)
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_root_layer_and_no_feedback(tmp_path: Path) -> None:
    model = wf.attach(nn.Linear(5, 4), "", summary=wf.Moments(), init="default")
    loaded = check_round_trip(model, nn.Linear(5, 4), tmp_path / "root")
    assert torch.equal(loaded(torch.ones(5)), model(torch.ones(5)))
    loaded = check_round_trip(net(), blank(net()), tmp_path / "none")
    assert torch.equal(loaded(IMAGES), net()(IMAGES))


def test_canonical_names_stay(tmp_path: Path) -> None:
    model = net()
    own = wf.OwnWeights([wf.Read(model.fc2, "weight", "head.weight")], wf.KroneckerProjection(4, seed=3))
    loaded = check_round_trip(wf.attach(model, "fc1", signal=own), net(), tmp_path)
    assert loaded.fc1.signal.reads == (wf.Read(loaded.fc2, "weight", "head.weight"),)


@pytest.mark.parametrize("weights", [0.0, math.nan])
def test_saved_factor_is_kept_whatever_the_weights(weights: float, tmp_path: Path) -> None:
    model = wf.attach(net(), "fc1", summary=wf.DenseProjection(3, scale="calibrated"))
    nn.init.constant_(model.fc1.weight, weights)
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(net(), tmp_path, allow_nan=True)
    assert torch.equal(loaded.fc1.signal.summary.gain, model.fc1.signal.summary.gain)


def test_shared_signals_stay_shared(tmp_path: Path) -> None:
    clock = wf.Clock(2)
    stale = wf.Stale(clock, lag=1)
    model = net()
    for into, signal in (("conv1", stale), ("fc1", clock), ("fc2", stale)):
        wf.attach(model, into, signal=signal, init="default")
    loaded = check_round_trip(model, net(), tmp_path)
    assert loaded.conv1.signal is loaded.fc2.signal
    assert loaded.conv1.signal.signal is loaded.fc1.signal
    config = json.loads((tmp_path / "one" / CONFIG).read_text())
    assert [signal["class"] for signal in config["signals"]] == ["Clock", "Stale"]
    # Their tensors are stored once, too.
    assert "fc2.signal.ring" not in load_file(tmp_path / "one" / WEIGHTS)


# Tensors


class Tied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_stored_once(tied: bool, tmp_path: Path) -> None:
    model = wf.attach(Tied(), "head", summary=wf.DenseProjection(2), init="default")
    save_pretrained(model, tmp_path)
    assert "head.weight" not in load_file(tmp_path / WEIGHTS)
    assert json.loads((tmp_path / CONFIG).read_text())["aliases"] == [
        {"name": "head.weight", "same_as": "embedding.weight"}
    ]
    loaded = load_pretrained(Tied(tied), tmp_path)
    assert (loaded.head.weight is loaded.embedding.weight) == tied
    assert torch.equal(loaded(torch.arange(5)), model(torch.arange(5)))
    nn.init.constant_(model.head.weight, math.nan)  # which isn't equal to itself
    save_pretrained(model, tmp_path)
    assert load_pretrained(Tied(tied), tmp_path, allow_nan=True).head.weight.isnan().all()


def test_base_must_not_tie_what_differs(tmp_path: Path) -> None:
    model = Tied(tied=False)
    save_pretrained(model, tmp_path)
    base = Tied()
    before = base.head.weight.clone()
    with pytest.raises(PretrainedError, match=r"head.weight and embedding.weight must be equal, .* untie them"):
        load_pretrained(base, tmp_path)
    assert torch.equal(base.head.weight, before)
    with torch.no_grad():
        model.head.weight.copy_(model.embedding.weight)
    save_pretrained(model, tmp_path)
    assert torch.equal(load_pretrained(base, tmp_path).head.weight, model.head.weight)


def test_memory_formats_and_views(tmp_path: Path) -> None:
    def base(memory_format: torch.memory_format) -> nn.Module:
        model = net()
        model.conv2 = nn.Conv2d(3, 4, 2).to(memory_format=memory_format)
        flat = torch.arange(20.0)
        model.register_buffer("left", flat[:12].view(3, 4))
        model.register_buffer("right", flat[8:].view(3, 4))
        model.register_buffer("square", flat[:4].view(2, 2))
        model.register_buffer("turned", flat[:4].view(2, 2).T)
        model.register_buffer("empty", torch.empty(0, 2))
        model.register_buffer("nothing", torch.empty(0, 2))
        return model

    model = base(torch.channels_last)
    save_pretrained(wf.attach(model, "conv2", signal=wf.Zeros(2)), tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers asks for it
    loaded = load_pretrained(base(torch.contiguous_format), tmp_path)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    assert loaded.conv2.weight.is_contiguous()
    save_pretrained(loaded, tmp_path)
    assert load_pretrained(base(torch.channels_last), tmp_path).conv2.weight.stride() == model.conv2.weight.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    model = cases.network(dtype)
    wf.attach(model, "0", signal=wf.Stale(wf.Clock(4, dtype=dtype), 1), init="default")
    wf.attach(model, "2", summary=wf.DenseProjection(4), init="default")
    loaded = check_round_trip(model, cases.network(dtype), tmp_path)
    assert torch.equal(loaded(X.to(dtype)), model(X.to(dtype)))


def test_nan_needs_leave(tmp_path: Path) -> None:
    model = attached()
    model.norm.running_var[1] = math.nan
    save_pretrained(model, tmp_path)
    with pytest.raises(PretrainedError, match=rf"{WEIGHTS}: norm.running_var holds NaN; pass allow_nan=True"):
        load_pretrained(net(), tmp_path)
    assert load_pretrained(net(), tmp_path, allow_nan=True).norm.running_var[1].isnan()


# Saving


class Mine(wf.Zeros):
    pass


class MyMoments(wf.Moments):
    pass


def test_own_classes_are_refused(tmp_path: Path) -> None:
    for options in ({"signal": Mine(3)}, {"summary": MyMoments()}, {"signal": wf.Stale(Mine(3), 1)}):
        kind = (
            "MyMoments: it must be one of AvgPool, " if "summary" in options else "Mine: it must be one of OwnWei"
        )
        with pytest.raises(TypeError, match=f"save_pretrained can't save a {kind}"):
            save_pretrained(wf.attach(net(), "fc1", **options), tmp_path / "new")
    assert not (tmp_path / "new").exists()


class Stateful(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"count": 1}


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"tensors only, got a dict as '0._extra_state'"):
        save_pretrained(nn.Sequential(Stateful()), tmp_path)
    model = attached()
    model.fc2 = nn.Linear(6, 4)
    with pytest.raises(ValueError, match=r"reads fc2.weight, whose module is no longer in the model"):
        save_pretrained(model, tmp_path)
    for buffer in (torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.complex128), torch.ones(2, device="meta")):
        model = net()
        model.register_buffer("odd", buffer)
        with pytest.raises(PretrainedError, match=f"{WEIGHTS} can't be written: "):
            save_pretrained(model, tmp_path)
    model = net()
    own = wf.OwnWeights([(model.fc2, "weight", "n" * 10**6)], wf.Moments())
    with pytest.raises(PretrainedError, match=f"{CONFIG} must have at most 1000000 bytes, would have 1000"):
        save_pretrained(wf.attach(model, "fc1", signal=own), tmp_path)
    assert contents(tmp_path) == {}


def test_saving_again_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    save_pretrained(attached("conv1"), str(folder))
    save_pretrained(attached(), folder)
    assert list(wf.feedback_layers(load_pretrained(net(), str(folder)))) == ["fc1"]
    assert set(contents(folder)) == {WEIGHTS, CONFIG}


def test_files_appear_whole_and_the_description_last(tmp_path: Path, monkeypatch) -> None:
    save_pretrained(attached(), tmp_path)
    before, done, synced = contents(tmp_path), [], []
    replace, fsync = Path.replace, os.fsync

    def watched(path: Path, target: Path) -> Path:
        assert len(synced) > len(done)
        assert path.parent == target.parent
        done.append(target.name)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: synced.append(fsync(file)))
        patch.setattr(Path, "replace", watched)
        save_pretrained(attached(), tmp_path)
    assert done == [WEIGHTS, CONFIG]
    assert contents(tmp_path) == before

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_pretrained(attached("conv1"), tmp_path)
    assert contents(tmp_path) == before


def test_nothing_is_pickled(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **options) -> None:
        raise AssertionError("pickle was used")

    for module, name in ((pickle, "dumps"), (pickle, "loads"), (pickle, "load"), (torch, "save"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    save_pretrained(attached(), tmp_path)
    assert torch.equal(load_pretrained(net(), tmp_path)(IMAGES), attached()(IMAGES))
