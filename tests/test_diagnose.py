"""Diagnoses: is the signal audible, is it news, and how is it told?"""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
from torch import nn

import weight_feedback as wf
from helpers import cases
from helpers.diagnoses import Calls, Z, adding, decided, hearing, of, rms
from weight_feedback.diagnose import diagnose

# Audible


@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize("case", cases.LAYERS, ids=cases.ids(cases.LAYERS))
def test_loudness_equals_output_with_and_without_feedback(case: cases.LayerCase, conditioning: str) -> None:
    torch.manual_seed(2)
    plain = case.base().double()
    x = torch.randn(case.shape, dtype=torch.float64)
    layer = hearing(copy.deepcopy(plain), conditioning=conditioning)
    whole, rest = (module(x).detach().numpy() for module in (layer, plain))
    found = of(layer, x)
    assert found.calls == 1
    assert found.added == pytest.approx(rms(whole - rest), rel=1e-12)
    assert found.rest == pytest.approx(rms(rest), rel=1e-12)
    assert found.share == pytest.approx(rms(whole - rest) / (rms(whole - rest) + rms(rest)), rel=1e-12)
    assert found.saturated == pytest.approx(decided([whole], [rest], layer._trailing))
    assert (found.kind, found.conditioning, found.signal) == (type(layer).__name__, conditioning, "Constant")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_any_dtype(dtype: torch.dtype, conditioning: str) -> None:
    layer = hearing(nn.Linear(6, 5).to(dtype), conditioning=conditioning)
    x = torch.randn(400, 6).to(dtype)
    found, expected = of(layer, x), of(copy.deepcopy(layer).double(), x.double())
    assert found.share == pytest.approx(expected.share, rel=16 * torch.finfo(dtype).eps)
    assert found.norm == pytest.approx(float(Z.norm()), rel=1e-6)


def test_sums_are_exact_for_many_entries() -> None:
    x = torch.randn(500_000, 2)
    found = of(adding(0.7), x)
    assert found.added == pytest.approx(0.7, rel=1e-6)
    assert found.rest == pytest.approx(rms(x.double().numpy()), rel=1e-6)


def test_squares_are_wider_than_half_precision() -> None:
    # 300² lies beyond float16.
    found = of(adding(300.0).half(), torch.full((5, 2), 300.0, dtype=torch.float16))
    assert (found.added, found.rest, found.share) == pytest.approx((300, 300, 0.5))


def test_autocast() -> None:
    layer, x = hearing(nn.Linear(6, 5)), torch.randn(40, 6)
    expected = of(layer, x).share
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert of(layer, x).share == pytest.approx(expected, rel=0.02)


def test_sign_of_channels() -> None:
    layer = hearing(nn.Linear(1, 6, bias=False), torch.tensor([1.0]))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [1.0], [1.0], [-1.0], [0.0], [0.0]]))
        layer.feedback_weight.copy_(torch.tensor([[4.0], [-4.0], [-1.0], [0.0], [1.0], [0.0]]))
    # Without z the channels are + + + − 0 0; with it + − mixed − + 0.
    assert of(layer, torch.tensor([[0.5], [2.0]])).saturated == pytest.approx(2 / 6)
    # Without z: both signs, twice; with it the first has one sign, the second too.
    assert of(layer, torch.tensor([[-1.0], [2.0]])).saturated == pytest.approx(3 / 6)


@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 1), (1, 3)),
        (nn.Linear(3, 1), (3,)),
        (nn.Conv1d(3, 1, 4), (1, 3, 4)),
        (nn.Conv2d(2, 1, 2), (2, 2, 2)),
    ],
)
def test_a_single_number_of_output_is_heard(layer: nn.Module, shape: tuple[int, ...], conditioning: str) -> None:
    plain, x = copy.deepcopy(layer).double(), torch.randn(shape, dtype=torch.float64)
    rest = plain(x).item()
    sign = -1 if rest > 0 else 1
    model = hearing(copy.deepcopy(plain), torch.tensor([1.0]), conditioning=conditioning)
    with torch.no_grad():
        model.feedback_weight.zero_()[-1] = 3 * sign * abs(rest)
    whole = Calls(lambda m, x: m.layer(x).squeeze(), layer=model)
    assert whole(x).shape == ()
    found = of(whole, x)
    assert found.calls == 1
    assert (found.added, found.rest, found.share) == pytest.approx((3 * abs(rest), abs(rest), 0.75))
    assert found.saturated == 1  # of one channel
    with torch.no_grad():
        model.feedback_weight.neg_()  # the sign is what it is without z
    assert of(whole, x).saturated == 0
    with torch.no_grad():
        model.feedback_weight.mul_(-0.1)
    assert of(whole, x).saturated == 0


def test_a_channel_of_one_entry_has_its_sign() -> None:
    layer = hearing(nn.Linear(1, 4, bias=False), torch.tensor([1.0]))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [1.0], [-1.0], [0.0]]))
        layer.feedback_weight.copy_(torch.tensor([[1.0], [-2.0], [1.0], [-1.0]]))
    # Without z the channels are + + − 0; with it + − 0 −.
    assert of(layer, torch.ones(1, 1)).saturated == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.0, "silent: V is zero."),
        (0.0100, "barely audible: z makes up 1.0% of what the layer computes."),
        (0.0102, "audible: z makes up 1.0% of what the layer computes."),
        (-0.99, "audible: z makes up 49.7% of what the layer computes."),
        (1.01, "outweighs the features: z makes up 50.2% of what the layer computes."),
    ],
)
def test_words_for_loudness(shift: float, words: str) -> None:
    found = of(adding(shift), torch.tensor([[1.0, -1.0]]))
    assert found.conclusion == words
    assert found.share == pytest.approx(abs(shift) / (1 + abs(shift)))
    assert found.v_is_zero == (shift == 0)


def test_silence() -> None:
    assert of(adding(2.0, z=0.0), torch.ones(1, 2)).conclusion == "silent: z adds nothing."
    # Nothing is there at all: no share of it is due to z.
    assert of(adding(0.0), torch.zeros(1, 2)).share == 0


# What is heard


def padded(fill: float = 1.0) -> wf.OwnWeights:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -1.0, 2.0, -2.0], [-3.0, -4.0, 0.0, -0.0]]))
    return wf.OwnWeights([(layer, "weight", "w")], wf.MaxPool([(2, 1)], 6, fill=fill, transpose=[False]))


@pytest.mark.parametrize(
    "signal", [padded(), wf.Stale(padded(), lag=1), wf.Stale(wf.Stale(padded(), lag=2), lag=1)]
)
def test_size_and_padding(signal: wf.Signal) -> None:
    found = of(wf.attach(nn.Linear(2, 3), "", signal=signal), torch.ones(1, 2))
    assert found.z == (0, -1, 2, 0, 1, 1)
    assert (found.k, found.padding, found.dead) == (6, 2, 0.5)
    assert found.norm == pytest.approx(7**0.5)
    assert found.rms == pytest.approx((7 / 6) ** 0.5)


def test_padding_of_other_signals() -> None:
    noise = wf.Noise(torch.tensor([1.0, 2.0, 0.0]), padding=1)
    found = of(wf.attach(nn.Linear(2, 3), "", signal=noise), torch.ones(1, 2))
    assert (found.padding, found.dead) == (1, 0)
    assert of(adding(1.0), torch.ones(1, 2)).padding == 0


# News


def test_news_by_hand() -> None:
    layer = hearing(nn.Linear(2, 3), torch.tensor([3.0, 4.0]))
    x = torch.ones(1, 2)
    found = of(layer, x, z0=torch.tensor([-3.0, 0.0]), previous={"": torch.tensor([0.0, 4.0])}, steps=3)
    assert found.z0 == (-3, 0)
    assert found.drift == pytest.approx((6**2 + 4**2) ** 0.5 / 3)
    assert found.explained == pytest.approx(9 / 25)
    assert found.change == pytest.approx(3 / 4 / 3)
    text = str(diagnose(layer, x, z0=torch.tensor([-3.0, 0.0])))
    assert "36.0% of z is the initial z; drift 2.4 of its norm" in text
    assert "wf.signals" not in text


def test_rescaled_is_no_news() -> None:
    layer, x = hearing(nn.Linear(2, 3), torch.tensor([3.0, 4.0])), torch.ones(1, 2)
    found = of(layer, x, z0=torch.tensor([-0.3, -0.4]), previous=torch.tensor([3.0, 4.0]))
    assert found.explained == pytest.approx(1)
    assert found.explained <= 1
    assert found.change == 0
    assert "z is hardly news, as 100.0% of it is the initial z" in found.conclusion
    assert "z stands still, as it changes by 0 of its norm a step" in found.conclusion
    fresh = of(layer, x, z0=torch.tensor([4.0, 3.0]), previous=torch.tensor([3.0, 4.01]), steps=10).conclusion
    assert "news" in fresh
    assert "still" not in fresh
    assert "news" not in of(layer, x, z0=torch.tensor([4.0, 2.0])).conclusion  # 0.8 lies along z0


def test_no_rounding_explains_more_than_all() -> None:
    above = 0
    for seed in range(40):
        z0 = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        above += float(z0 @ z0) > float(z0.norm() * z0.norm())
        found = of(hearing(nn.Linear(2, 3).double(), z0), torch.ones(1, 2, dtype=torch.float64), z0=z0)
        assert found.explained <= 1
        assert found.explained == pytest.approx(1)
    assert above  # by rounding: what is tested


def test_zero_at_the_start() -> None:
    layer, zero = hearing(nn.Linear(2, 3), torch.tensor([3.0, 4.0])), torch.zeros(2)
    report = diagnose(layer, torch.ones(1, 2), z0=zero, previous=zero)
    found = report.layers[""]
    assert (found.drift, found.explained, found.change) == (float("inf"), 0, float("inf"))
    assert report.to_dict()[""]["drift"] is None
    silent = of(hearing(nn.Linear(2, 3), zero), torch.ones(1, 2), z0=zero)
    assert (silent.drift, silent.explained) == (0, 0)


def test_unknown_without_earlier_z() -> None:
    model = wf.attach(cases.attached(), "fc2", summary=wf.DenseProjection(3))
    z0 = {name: signal().clone() for name, signal in wf.signals(model).items()}
    report = diagnose(model, cases.IMAGES, z0={"fc1": z0["fc1"]})
    first, second = report.layers.values()
    assert (first.drift, first.explained, first.change) == (0, pytest.approx(1), None)
    assert (second.drift, second.explained, second.change, second.z0) == (None, None, None, None)
    assert str(report).count("z0 = {name: s().clone() for name, s in wf.signals(model).items()}") == 1
    both = diagnose(model, cases.IMAGES, z0=z0["fc1"]).layers
    assert both["fc1"].z0 == both["fc2"].z0 == tuple(z0["fc1"].tolist())


@pytest.mark.parametrize("which", ["z0", "previous"])
def test_bad_earlier_z(which: str) -> None:
    model = cases.attached()
    with pytest.raises(KeyError, match=rf"{which} names 'fc2', which has no feedback; there is fc1"):
        diagnose(model, cases.IMAGES, **{which: {"fc2": torch.ones(3)}})
    with pytest.raises(ValueError, match=rf"{which} of 'fc1' must have shape \[3\], got \[1, 3\]"):
        diagnose(model, cases.IMAGES, **{which: torch.ones(1, 3)})
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        diagnose(model, cases.IMAGES, previous=torch.ones(3), steps=0)


def test_no_feedback() -> None:
    with pytest.raises(ValueError, match=r"no feedback layers; give it one by weight_feedback.attach"):
        diagnose(cases.net(), cases.IMAGES)


# The report


def report_of_three() -> object:
    model = wf.attach(cases.net(), "conv1", signal=wf.Noise(torch.randn(300)), init="default")
    wf.attach(model, "fc1", signal=padded(), conditioning="film", init="default")
    wf.attach(model, "fc2", summary=wf.Moments())
    return diagnose(model, cases.IMAGES, z0={"fc1": torch.ones(6)})


def test_text() -> None:
    torch.manual_seed(0)
    report = report_of_three()
    text = str(report)
    assert repr(report) == text
    heads = [line for line in text.splitlines() if not line.startswith(" ") and line]
    assert heads == [
        "conv1: FeedbackConv2d (concat) hears Noise",
        "fc1: FeedbackLinear (film) hears OwnWeights",
        "fc2: FeedbackLinear (concat) hears OwnWeights",
    ]
    for layer in report.layers.values():
        assert f"  => {layer.conclusion}" in text.splitlines()
    assert "  z         6 numbers, 2 of them padding" in text
    assert "            norm 2.65, rms 1.08, 50% dead" in text
    found = report.layers["fc1"]
    assert f"  audible?  share {found.share:.3g}: z adds {found.added:.3g} (rms) to {found.rest:.3g}\n" in text
    assert f"            z decides the sign of {found.saturated:.0%} of the channels" in text
    assert "the model itself: FeedbackLinear" in str(diagnose(adding(1.0), torch.ones(1, 2)))
    assert "z changes by 1 of its norm a step" in str(
        diagnose(adding(1.0), torch.ones(1, 2), previous=torch.tensor([0.5]))
    )


def test_json() -> None:
    report = report_of_three()
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(plain) == ["conv1", "fc1", "fc2"]
    for name, layer in report.layers.items():
        assert plain[name]["conclusion"] == layer.conclusion
        assert plain[name]["share"] == layer.share
        assert plain[name]["z"] == list(layer.z)
    assert plain["fc1"]["z0"] == [1] * 6


def test_picture(tmp_path) -> None:
    from matplotlib.figure import Figure

    report = report_of_three()
    figure = report.plot(tmp_path / "picture.png")
    assert isinstance(figure, Figure)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    report.plot(str(tmp_path / "picture.svg"))
    assert "<svg" in (tmp_path / "picture.svg").read_text()
    for row, layer in zip(figure.subfigs, report.layers.values(), strict=True):
        loud, entries = row.axes
        assert [bar.get_width() for bar in loud.patches] == [layer.rest, layer.added]
        lines = entries.collections[0].get_segments()
        assert [(line[0][0], line[-1][1]) for line in lines] == list(enumerate(layer.z))
        words = [text.get_text() for text in entries.get_legend().get_texts()]
        assert words == (["z", "z0", "padding"] if layer.padding else ["z"])
        marks = [tuple(line.get_ydata()) for line in entries.lines[1:]]
        assert marks == ([layer.z0] if layer.z0 else [])
    (title, *_) = (text.get_text() for text in figure.subfigs[2].texts)
    assert title == "fc2: silent: V is zero."


def test_names_in_pictures_are_text() -> None:
    model = Calls(lambda m, x: m._modules["$a_b$"](x), **{"$a_b$": adding(1.0)})
    (title, *_) = diagnose(model, torch.ones(1, 2)).plot().subfigs[0].texts
    assert title.get_text().startswith("$a_b$: audible")
    assert not title.get_parse_math()
    (title, *_) = diagnose(adding(1.0), torch.ones(1, 2)).plot().subfigs[0].texts
    assert title.get_text().startswith("audible")


def test_picture_needs_matplotlib(monkeypatch) -> None:
    report = diagnose(adding(1.0), torch.ones(1, 2))
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        report.plot()
