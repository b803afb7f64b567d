"""Networks of timm, at tiny sizes with random weights; timm needs torchvision (`make test-integrations`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from real_models import (
    Case,
    both_modes,
    both_optimisers,
    check_attached,
    check_compiled,
    check_folded,
    check_heard,
    check_removed,
    check_saved,
    check_training,
)

timm = pytest.importorskip("timm")

CLASSES, SIDE = 5, 64
IMAGES = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


def against_labels(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS)


def resnet(**options) -> nn.Module:
    # By default the last normalisation of each block starts at zero, and nobody hears the block.
    return timm.create_model(
        "resnet18",
        num_classes=CLASSES,
        layers=(1, 1, 1, 1),
        channels=(8, 8, 16, 16),
        zero_init_last=False,
        **options,
    )


def convnext() -> nn.Module:
    # By default each block is scaled by a millionth to begin with, and nobody hears it.
    return timm.create_model(
        "convnext_atto", num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), ls_init_value=1.0
    )


def vit() -> nn.Module:
    size = {"img_size": SIDE, "depth": 2, "embed_dim": 24, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **size)


def mixer() -> nn.Module:
    # The class itself, since timm's own names fix the width.
    size = {"img_size": SIDE, "patch_size": 16, "num_blocks": 2, "embed_dim": 24}
    model = timm.models.MlpMixer(num_classes=CLASSES, **size)
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


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_each_layer_is_heard(case: Case) -> None:
    check_heard(case)


@both_modes
def test_attached_with_v_zero_it_is_the_base(case: Case, training: bool) -> None:
    check_attached(case, training)


@both_optimisers
def test_training_is_that_with_feedback_by_hand(case: Case, optimiser: str) -> None:
    check_training(case, optimiser)


@both_modes
def test_folded_after_training_it_is_the_same(case: Case, training: bool) -> None:
    check_folded(case, training)


@both_modes
def test_removed_it_is_the_base(case: Case, training: bool) -> None:
    check_removed(case, training)


def test_compiled_it_is_the_same(case: Case) -> None:
    check_compiled(case)


@both_modes
def test_saved_it_comes_back(case: Case, training: bool, tmp_path: Path) -> None:
    check_saved(case, training, tmp_path)
