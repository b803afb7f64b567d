#!/bin/sh
# PyTorch 2.13.0: torch.func.functional_call changes a model for good where one module has two names in it.
#
# Given a tensor for the first name, it puts it in the place of the parameter under both names, and remembers what was
# there before each. The second time that is the given tensor itself, and it is what stays: afterwards the model computes
# with the tensor of the call, and its own parameter is gone from it. With tie_weights=False it is put back. Two modules
# that share one parameter are put back either way.
# Seen: own parameter back: two names: False, tie_weights=False: True, shared parameter: True; output before: 2.0,
# after: 6.0
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.func import functional_call


def layer():
    made = nn.Linear(1, 1, bias=False)
    nn.init.ones_(made.weight)
    return made


class Pair(nn.Module):
    def __init__(self, one_module):
        super().__init__()
        self.a = layer()
        self.b = self.a if one_module else layer()
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(x) + self.b(x)


def back(model, **how):
    own, x = model.a.weight, torch.ones(1)
    before = model(x).item()
    functional_call(model, {"a.weight": torch.full((1, 1), 3.0)}, (x,), **how)
    return model.a.weight is own, before, model(x).item()


two_names, before, after = back(Pair(one_module=True))
untied, *_ = back(Pair(one_module=True), tie_weights=False)
shared, *_ = back(Pair(one_module=False))
print("own parameter back: two names:", two_names, "tie_weights=False:", untied, "shared parameter:", shared,
      "output before:", before, "after:", after)
assert (two_names, before, after) == (False, 2, 6), "the parameter is put back now"
assert untied and shared
PYTHON
