#!/bin/sh
# PyTorch 2.13.0: fuse_conv_bn_eval accepts any subclass of a convolution, and keeps its forward: for a convolution that
# standardises its weight (as many image networks have) the result is of the right class and wrong.
#
# The function writes weight · γ/σ and a bias into a copy of the layer, which is right only if the layer's forward is linear
# in its weight. Standardising divides the factor out again. torch.ao.quantization.fuse_modules refuses the same pair.
# Seen: Conv2d off by less than 1e-5: True; Standardised off by more than 0.1: True; fuse_modules: AssertionError
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Standardised(nn.Conv2d):
    def forward(self, x):
        axes = (1, 2, 3)
        weight = self.weight - self.weight.mean(axes, keepdim=True)
        return self._conv_forward(x, weight / weight.std(axes, keepdim=True), self.bias)


def pair(kind):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_var.fill_(9)
    return nn.Sequential(kind(3, 4, 3), norm).eval()


def error(kind):
    net, x = pair(kind), torch.randn(2, 3, 5, 5)
    fused = fuse_conv_bn_eval(net[0], net[1])
    assert type(fused) is kind
    return (fused(x) - net(x)).abs().max().item()


plain, standardised = error(nn.Conv2d), error(Standardised)
try:
    fuse_modules(pair(Standardised), ["0", "1"])
    other = "accepted"
except AssertionError as refusal:
    other = type(refusal).__name__
print("Conv2d off by less than 1e-5:", plain < 1e-5, "Standardised off by more than 0.1:", standardised > 0.1,
      "fuse_modules:", other)
assert plain < 1e-5 and standardised > 0.1 and other == "AssertionError"
PYTHON
