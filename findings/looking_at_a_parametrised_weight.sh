#!/bin/sh
# PyTorch 2.13.0: looking at a parametrised weight writes to the model, and may draw random numbers; hasattr is enough.
#
# The attribute is a property that computes the weight. In training mode spectral_norm takes a step of its power iteration
# each time, so that a model that was looked at computes something else afterwards; a parametrisation with dropout draws
# from PyTorch's generator. inference_mode doesn't prevent it; eval() does.
# Seen: buffer moved by hasattr: True, under inference_mode: True, in eval: False; output the same afterwards: False;
# random state moved: True
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

torch.manual_seed(0)
normed = parametrizations.spectral_norm(nn.Linear(8, 8))


def moved(layer, around=contextlib.nullcontext):
    before = layer.parametrizations.weight[0]._u.clone()
    with around():
        hasattr(layer, "weight")
    return not torch.equal(layer.parametrizations.weight[0]._u, before)


twin, x = copy.deepcopy(normed), torch.randn(2, 8)
found = moved(normed), moved(copy.deepcopy(normed), torch.inference_mode), moved(copy.deepcopy(normed).eval())
same = torch.equal(normed(x), twin(x))

dropped = nn.Linear(8, 8)
parametrize.register_parametrization(dropped, "weight", nn.Dropout())
before = torch.get_rng_state()
hasattr(dropped, "weight")
drawn = not torch.equal(torch.get_rng_state(), before)
print("buffer moved by hasattr:", found[0], "under inference_mode:", found[1], "in eval:", found[2],
      "output the same afterwards:", same, "random state moved:", drawn)
assert found == (True, True, False) and not same and drawn, "looking leaves the model as it was now"
PYTHON
