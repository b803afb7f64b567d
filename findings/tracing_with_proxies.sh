#!/bin/sh
# PyTorch 2.13.0: two ways in which torch.fx.symbolic_trace changes a network without a word.
#
# The proxy that stands for a tensor has every attribute, so `hasattr(x, …)`, a common way to recognise special tensors, is
# True while tracing, and the branch for them is what is recorded. And what counts as a leaf goes by where a class was
# written: a subclass of nn.Linear outside `torch.nn` is traced through, and a bare nn.Module is left in its place.
# Seen: eager: 2.0; traced: 20.0; modules: Module Linear; has any attribute: True, is a tensor: False
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn


class Own(nn.Linear):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.usual = Own(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.own.weight)
        nn.init.ones_(self.usual.weight)

    def forward(self, x):
        seen.append((hasattr(x, "no_tensor_has_this"), isinstance(x, torch.Tensor)))
        y = self.usual(self.own(x))
        return 10 * y if hasattr(x, "weights_of_samples") else y


seen = []
net = Net()
x = torch.full((1,), 2.0)
eager = net(x).item()
traced = torch.fx.symbolic_trace(net)
out = traced(x).item()
kinds = [type(traced.own), type(traced.usual)]
print("eager:", eager, "traced:", out, "modules:", *(kind.__name__ for kind in kinds),
      "has any attribute:", seen[-1][0], "is a tensor:", seen[-1][1])
assert (eager, out) == (2, 20), "hasattr is honest about proxies now"
assert seen == [(False, True), (True, False)]
assert kinds == [nn.Module, nn.Linear]
PYTHON
