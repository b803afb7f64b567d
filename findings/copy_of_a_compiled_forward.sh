#!/bin/sh
# PyTorch 2.13.0: a deep copy of a module whose forward was compiled in place computes with the ORIGINAL's weights.
#
# `module.forward = torch.compile(module.forward)` puts a plain function on the instance. copy.deepcopy hands functions
# on as they are, and this one has the original module bound inside. So the copy's own weights are never used. A forward
# that was kept as a bound method (types.MethodType) is bound to the copy instead, and module.compile() is left out of
# the copy: both copies are right.
# Seen: copy of compiled forward: tensor([2., 2.]), own weights zero; bound method: tensor([0., 0.]); compile():
# tensor([0., 0.])
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import types

import torch
from torch import nn


def emptied_copy(change):
    layer = nn.Linear(2, 2, bias=False)
    nn.init.ones_(layer.weight)
    change(layer)
    twin = copy.deepcopy(layer)
    nn.init.zeros_(twin.weight)
    return twin(torch.ones(2)).detach()


def compiled_forward(layer):
    layer.forward = torch.compile(layer.forward, backend="eager")


def bound_method(layer):
    layer.forward = types.MethodType(nn.Linear.forward, layer)


compiled, bound = emptied_copy(compiled_forward), emptied_copy(bound_method)
whole = emptied_copy(lambda layer: layer.compile(backend="eager"))
print("copy of compiled forward:", compiled, "bound method:", bound, "compile():", whole)
assert compiled.tolist() == [2, 2], "the copy uses its own weights now"
assert bound.tolist() == whole.tolist() == [0, 0]
PYTHON
