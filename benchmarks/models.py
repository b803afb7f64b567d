"""What hearing its own weights adds to a training step of networks that people train.

timm's ResNet-18 and ViT-tiny, where timm is installed, and a transformer with 100 million parameters.

python benchmarks/models.py
python benchmarks/models.py --before HEAD~1   # also attach, forward and fold, beside those of another commit
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import versions
import weight_feedback as wf
from timing import Target, estimate, finish, in_turns, show
from weight_feedback.lab.training.environment import keep_freed_memory

try:
    import timm
except ImportError:  # it needs torchvision, which there isn't for every build of PyTorch
    timm = None

#: Size of z, the notebook's.
K = 26
BATCH, CLASSES = 64, 1000
#: The transformer's: 12 blocks of GPT-2 small, and fewer words, so that it has 100 million parameters.
WIDTH, HEADS, BLOCKS, WORDS = 768, 12, 12, 19_300
SEQUENCES, LENGTH = 8, 128


class Transformer(nn.Module):
    """A language model whose head is tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, BLOCKS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)
        self.head.weight = self.words.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, words: Tensor) -> Tensor:
        """Predict each next word.

        Args:
            words: shape ``[n, LENGTH]``.

        Returns:
            Logits, shape ``[n, LENGTH, WORDS]``.
        """
        x = self.words(words) + self.places.weight
        return self.head(self.blocks(x, mask=self.mask, is_causal=True))


def steppers(
    build: Callable[[], nn.Module],
    optimise: Callable[..., torch.optim.Optimizer],
    x: Tensor,
    y: Tensor,
    **options: Any,
) -> dict[str, Callable[[], None]]:
    """Return functions that take a training step: one with feedback, two without around it; and its signal.

    All train the same weights in the same memory, with the same optimiser: where networks happen to lie in memory
    makes more difference than what is measured.

    Args:
        build: returns the model.
        optimise: returns its optimiser.
        x: inputs.
        y: classes to be told.
        **options: for `weight_feedback.attach`; ``into`` names a linear layer.
    """
    torch.manual_seed(0)
    model, into = build().train(), options["into"]
    wf.attach(model, summary=wf.CountSketch(K), **options)
    hearing = model.get_submodule(into)
    plain = nn.Linear(hearing.in_features, hearing.out_features, device="meta")
    plain.weight, plain.bias = hearing.weight, hearing.bias
    optimiser = optimise(model.parameters())

    def step(layer: nn.Module) -> None:
        model.set_submodule(into, layer)
        optimiser.zero_grad()
        F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimiser.step()
        wf.advance(model)

    step(hearing)  # the fused SGD wants a gradient for every parameter in its first step
    return {
        "bare": partial(step, plain),
        "with feedback": partial(step, hearing),
        "bare again": partial(step, plain),
        "signal alone": wf.signals(model)[into],
    }


def against_bare(what: str, repeats: int, most: float, *training: Any, **options: Any) -> list[Target]:
    """Time a step with feedback, and the signal alone, against a step without.

    Args:
        what: the name of the model.
        repeats: rounds, each of one step of each.
        most: how many times as long a step with feedback may take; the signal may take what is above 1.
        *training: for `steppers`.
        **options: for `weight_feedback.attach`.

    Returns:
        Both as multiples of a step without feedback; intervals are of the bootstrap over rounds.
    """
    works = steppers(*training, **options)
    rounds = dict(zip(works, np.array(list(in_turns(works, repeats).values())), strict=True))
    for name, values in rounds.items():
        show(f"{what}, {name}", 1e3 * float(np.median(values)), "ms")
    reads = {None: "its own weight", "all": "all weights"}[options.get("reads")]
    bare = (rounds["bare"] + rounds["bare again"]) / 2
    return [
        estimate(
            f"step, {options['into']!r} hears {reads} / bare, {what}", rounds["with feedback"] / bare, most=most
        ),
        estimate(f"reading {reads} / step, bare, {what}", rounds["signal alone"] / bare, most=most - 1),
    ]


def images(side: int, repeats: int) -> list[Target]:
    """Time timm's networks, as they are, on made-up images.

    Args:
        side: of the images, in pixels.
        repeats: rounds.

    Returns:
        How many times as long a step takes with feedback.
    """
    x, y = torch.randn(BATCH, 3, side, side), torch.randint(CLASSES, (BATCH,))
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05, fused=True)
    resnet = partial(timm.create_model, "resnet18", num_classes=CLASSES)
    vit = partial(timm.create_model, "vit_tiny_patch16_224", num_classes=CLASSES, img_size=side)
    where = f"batch {BATCH}, {side} × {side}"
    return [
        *against_bare(f"ResNet-18, {where}", repeats, 1.03, resnet, sgd, x, y, into="fc"),
        *against_bare(f"ViT-tiny, {where}", repeats, 1.03, vit, adamw, x, y, into="head", reads="all"),
    ]


def language(repeats: int) -> list[Target]:
    """Time a transformer whose head hears all of its weights.

    Args:
        repeats: rounds.

    Returns:
        How many times as long a step takes with feedback.
    """
    words = torch.randint(WORDS, (SEQUENCES, LENGTH + 1))
    adamw = partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.1, fused=True)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in Transformer().parameters())
    what = f"transformer of {size / 1e6:.0f} million, {SEQUENCES} × {LENGTH} words"
    return against_bare(
        what, repeats, 1.05, Transformer, adamw, words[:, :-1], words[:, 1:], into="head", reads="all"
    )


def small() -> nn.Module:
    """Return the smallest network that anybody would train, where what is not arithmetic counts most."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


def encoder() -> nn.Module:
    """Return twelve blocks of a transformer, each of which hears."""
    block = nn.TransformerEncoderLayer(WIDTH // 4, HEADS // 4, WIDTH, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(block, BLOCKS, enable_nested_tensor=False)


def against_before(before: ModuleType, repeats: int) -> list[Target]:
    """Time attach (with remove), forward and fold of this version against those of another.

    Args:
        before: the library as it was.
        repeats: rounds.
    """
    targets = []
    cases: list[tuple[str, Callable[[], nn.Module], str, Any, Tensor]] = [
        ("small net", small, "0", None, torch.rand(BATCH, 784)),
        ("encoder, 12 layers hear", encoder, "layers.*.linear1", None, torch.rand(2, 16, WIDTH // 4)),
        ("encoder, a layer hears all", encoder, "layers.0.linear1", "all", torch.rand(2, 16, WIDTH // 4)),
    ]
    if timm is not None:
        resnet = partial(timm.create_model, "resnet18", num_classes=CLASSES)
        cases.append(("ResNet-18, a layer hears all", resnet, "fc", "all", torch.rand(2, 3, 64, 64)))
    for what, build, into, reads, x in cases:
        works: dict[str, Callable[[], object]] = {}
        for version, library in (("before", before), ("now", wf)):
            plain, hearing = build().eval(), build().eval()
            attach = partial(library.attach, into=into, reads=reads, summary=library.CountSketch(K))
            attach(hearing)
            works |= {
                f"attach, {version}": lambda attach=attach, plain=plain, library=library: library.remove(
                    attach(plain)
                ),
                f"forward, {version}": torch.no_grad()(partial(hearing, x)),
                f"fold, {version}": partial(library.fold, hearing),
            }
        rounds = dict(zip(works, np.array(list(in_turns(works, repeats).values())), strict=True))
        for act in ("attach", "forward", "fold"):
            show(f"{what}, {act}", 1e3 * float(np.median(rounds[f"{act}, now"])), "ms")
            ratios = rounds[f"{act}, now"] / rounds[f"{act}, before"]
            targets.append(estimate(f"{act} now / before, {what}", ratios, most=1.1))
    return targets


def main() -> None:
    """Measure, print, and check the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="rounds, each of one step of each")
    parser.add_argument("--side", type=int, default=128, help="of the images, in pixels")
    parser.add_argument(
        "--before", metavar="COMMIT", help="also time attach, forward and fold beside this commit's"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    targets = [] if arguments.before is None else against_before(versions.at(arguments.before), arguments.repeats)
    targets += language(arguments.repeats)
    if timm is None:
        print("\ntimm isn't installed, so its networks aren't timed: `make bench-models` does it")
    else:
        targets = [*images(arguments.side, arguments.repeats), *targets]
    finish(targets)


if __name__ == "__main__":
    main()
