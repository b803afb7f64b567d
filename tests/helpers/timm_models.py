"""Networks of timm, at tiny sizes with random weights; timm needs torchvision (`make test-integrations`)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.real_models import Case

CLASSES, SIDE = 5, 64
IMAGES = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


def timm():
    return pytest.importorskip("timm")


def against_labels(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS)


def resnet(**options) -> nn.Module:
    # By default the last normalisation of each block starts at zero, and nobody hears the block.
    return timm().create_model(
        "resnet18",
        num_classes=CLASSES,
        layers=(1, 1, 1, 1),
        channels=(8, 8, 16, 16),
        zero_init_last=False,
        **options,
    )


def convnext() -> nn.Module:
    # By default each block is scaled by a millionth to begin with, and nobody hears it.
    return timm().create_model(
        "convnext_atto", num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), ls_init_value=1.0
    )


def vit() -> nn.Module:
    size = {"img_size": SIDE, "depth": 2, "embed_dim": 24, "num_heads": 3}
    return timm().create_model("vit_tiny_patch16_224", num_classes=CLASSES, **size)


def mixer() -> nn.Module:
    # The class itself, since timm's own names fix the width.
    size = {"img_size": SIDE, "patch_size": 16, "num_blocks": 2, "embed_dim": 24}
    model = timm().models.MlpMixer(num_classes=CLASSES, **size)
    nn.init.normal_(model.head.weight, std=0.1)  # by default zero, and so is the output
    return model


def case_of(name: str, build, into: tuple[str, ...], layers: int, read: tuple[str, ...], **options) -> Case:
    return Case(name, build, {"x": IMAGES}, lambda logits: logits, against_labels, into, layers, read, **options)


CASES = [
    # In training, the batch normalisation after each convolution takes away what z adds to it, and `fc` alone is
    # heard. In evaluation the convolutions are heard too, as the running statistics lag behind z.
    case_of(
        "resnet18", resnet, ("layer*.0.conv1", "fc"), 5,
        ("conv1.weight", "layer4.0.conv1.weight", "fc.weight"),
    ),
    # One mean over all channels leaves the differences that z makes between them.
    case_of(
        "resnet18-groupnorm", lambda: resnet(norm_layer="groupnorm1"), ("conv1", "layer*.0.conv*", "fc"), 10,
        ("layer2.0.downsample.0.weight", "layer4.0.bn2.bias"),
    ),
    case_of(
        "convnext", convnext, ("stages.*.blocks.*.conv_dw", "stages.*.blocks.*.mlp.fc1"), 8,
        ("stages.1.blocks.0.mlp.fc1.weight", "stages.2.blocks.0.conv_dw.weight", "stages.3.blocks.0.gamma"),
    ),
    case_of(
        "convnext-film", convnext, ("stages.*.blocks.*.conv_dw", "head.fc"), 5,
        ("stages.1.blocks.0.mlp.fc1.weight", "stages.2.blocks.0.conv_dw.weight"), conditioning="film",
    ),
    case_of(
        "vit", vit, ("blocks.*.attn.qkv", "blocks.*.mlp.fc1"), 4,
        ("blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.weight", "cls_token"),
    ),
    case_of(
        "mixer", mixer, ("blocks.*.mlp_tokens.fc1",), 2,
        ("blocks.0.mlp_tokens.fc1.weight", "blocks.1.mlp_tokens.fc1.weight"),
    ),
]  # fmt: skip
