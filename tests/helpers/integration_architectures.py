"""Architectures of torchvision and timm, tiny and with random weights (`make test-integrations`)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from helpers.architectures import Architecture, drawn

CLASSES = 5
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)}
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2}
NEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
# A stage each: depthwise-separable, then inverted bottlenecks, with squeeze and excitation.
STAGES = [["ds_r1_k3_s2_e1_c8_se1.0"], ["ir_r2_k3_s1_e2_c8_se1.0"]]


def images(side: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"x": drawn(3, 3, side, side)}


def timm(module: str = "models"):
    pytest.importorskip("timm")
    return importlib.import_module(f"timm.{module}")


def torchvision(module: str):
    pytest.importorskip("torchvision")
    return importlib.import_module(f"torchvision.models.{module}")


def of_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm().create_model(name, num_classes=CLASSES, **options)


def torchvision_swin(*, second: bool) -> nn.Module:
    swin = torchvision("swin_transformer")
    kinds = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if second else {}
    return swin.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=CLASSES, **kinds)


def torchvision_mobilenet() -> nn.Module:
    mobilenet = torchvision("mobilenetv3")
    block = functools.partial(mobilenet.InvertedResidualConfig, width_mult=1.0)
    blocks = [block(8, 3, 8, 8, True, "RE", 2, 1), block(8, 3, 16, 8, False, "HS", 1, 1)]
    return mobilenet.MobileNetV3(blocks, 16, num_classes=CLASSES)


def torchvision_efficientnet() -> nn.Module:
    efficientnet = torchvision("efficientnet")
    block = functools.partial(efficientnet.MBConvConfig, width_mult=1.0, depth_mult=1.0)
    return efficientnet.EfficientNet([block(1, 3, 1, 8, 8, 1), block(4, 3, 2, 8, 8, 2)], 0.1, num_classes=CLASSES)


def timm_mobile(module: str, kind: str) -> nn.Module:
    stages = timm("models._efficientnet_builder").decode_arch_def(STAGES)
    options = {"stem_size": 8, "num_features": 16, "num_classes": CLASSES}
    return getattr(timm(f"models.{module}"), kind)(stages, **options)


def repvgg() -> nn.Module:
    byobnet = timm("models.byobnet")
    stages = tuple(byobnet.ByoBlockCfg(type="rep", d=2, c=8, s=2) for _ in range(2))
    config = byobnet.ByoModelCfg(blocks=stages, stem_type="rep", stem_chs=8)
    return byobnet.ByobNet(config, num_classes=CLASSES)


def before_norms(*patterns: str) -> dict[str, str]:
    """In training, batch normalisation takes away what is added to the convolution before it."""
    return dict.fromkeys(patterns, "cancelled")


# Windows' attention is one function, which is handed the weights of both layers.
WINDOWS = {"*.attn.qkv": "uncalled", "*.attn.proj": "uncalled"}
# Biases of their own for queries, keys and values go with the layer's weight to F.linear.
BIASES_APART = {"*.attn.qkv": "uncalled"}

CASES = [
    Architecture(
        "torchvision-swin", lambda: torchvision_swin(second=False), images(32), WINDOWS, training=True, film=True
    ),
    Architecture("torchvision-swinv2", lambda: torchvision_swin(second=True), images(32), WINDOWS),
    Architecture(
        "torchvision-mobilenetv3", torchvision_mobilenet, images(32),
        in_training=before_norms("features.[03].0", "features.*.block.?.0"),
    ),
    Architecture(
        "torchvision-efficientnet", torchvision_efficientnet, images(32),
        in_training=before_norms("features.[03].0", "features.*.block.?.0"),
    ),
    Architecture("timm-swin", of_timm("swin_tiny_patch4_window7_224", **SWIN), images(32), training=True),
    Architecture("timm-swinv2", of_timm("swinv2_tiny_window8_256", **SWIN), images(32), BIASES_APART, film=True),
    # What is added to all positions of a head alike goes with softmax, as with keys.
    Architecture(
        "timm-swinv2-cr", of_timm("swinv2_cr_tiny_224", **SWIN), images(32), {"*.meta_mlp.fc2": "cancelled"}
    ),
    Architecture("timm-beit", of_timm("beit_base_patch16_224", img_size=32, **VIT), images(32), BIASES_APART),
    Architecture(
        "timm-eva02", of_timm("eva02_tiny_patch14_224", img_size=28, **VIT), images(28), BIASES_APART, film=True
    ),
    Architecture("timm-eva02-base", of_timm("eva02_base_patch14_224", img_size=28, **VIT), images(28)),
    Architecture("timm-convnext", of_timm("convnext_atto", **NEXT), images(64)),
    Architecture("timm-convnextv2", of_timm("convnextv2_atto", **NEXT), images(64)),
    Architecture(
        "timm-mobilenetv3", lambda: timm_mobile("mobilenetv3", "MobileNetV3"), images(32),
        in_training=before_norms("conv_stem", "blocks.?.?.conv_*"),
    ),
    Architecture(
        "timm-efficientnet", lambda: timm_mobile("efficientnet", "EfficientNet"), images(32),
        in_training=before_norms("conv_*", "blocks.?.?.conv_*"),
    ),
    Architecture("timm-repvgg", repvgg, images(32), in_training=before_norms("*.conv_*.conv")),
]  # fmt: skip
