"""Feedback beside tools that fuse, trace or script layers.

`docs/other-tools.md` lists them.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import weight_feedback as wf
from helpers.other_tools import X, expected, hear, net

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
