"""Feedback in your own net: train without and with it, diagnose, fold. Run: python examples/own_net.py --steps 300.

Prints "loss without feedback", "loss with feedback", the diagnosis ("audible?", "news?") and "folded: same bits".
One seed each says nothing on whether feedback helps.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

import weight_feedback as wf


class Net(nn.Module):
    """Your own net: attaching needs no change to it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(8, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Take a batch of 8 numbers each to one number each."""
        return self.out(torch.tanh(self.hidden(x)))


def train(net: Net, x: Tensor, y: Tensor, steps: int) -> float:
    """Train as usual; `advance` matters to signals with time alone, and costs nothing otherwise."""
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimiser.step()
        wf.advance(net)
    return nn.functional.mse_loss(net(x), y).item()


def main(steps: int) -> None:
    """Train two copies of one net on a made-up function, and look into the one with feedback."""
    torch.manual_seed(0)
    x = torch.rand(512, 8)
    y = torch.sin(x.sum(1, keepdim=True))
    plain, summary = Net(), wf.CountSketch(16, scale="calibrated")
    net = wf.attach(copy.deepcopy(plain), into="hidden", reads=["hidden", "out"], summary=summary)
    print(wf.check(net, x))
    z0 = {name: signal().clone() for name, signal in wf.signals(net).items()}
    print(f"loss without feedback: {train(plain, x, y, steps):.4f}")
    print(f"loss with feedback:    {train(net, x, y, steps):.4f}")
    print(wf.diagnose(net, x, z0=z0))
    folded = wf.fold(net)
    same = torch.equal(folded(x), net(x))
    print(f"folded: {'same' if same else 'OTHER'} bits from {type(folded.hidden).__name__} as with feedback")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    main(parser.parse_args().steps)
