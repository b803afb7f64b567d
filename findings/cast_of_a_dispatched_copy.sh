#!/bin/sh
# accelerate 1.15.0: casting or moving a deep copy of a dispatched model changes the ORIGINAL, and leaves the copy alone.
#
# dispatch_model sets `model.to` (and `model.cuda`) to wrappers that warn; each has the bound method of the model it was
# made for inside. copy.deepcopy keeps such functions as they are, so `twin.to(...)` is the original's. The forward, which
# accelerate replaces too, is copied rightly: the copy computes with its own weights. `.double()` isn't wrapped.
# Seen: returned the original: True; dtype of the original: torch.float64; of the copy: torch.float32
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/pip" install --quiet accelerate==1.15.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import copy

import torch
from accelerate import dispatch_model
from torch import nn

model = nn.Sequential(nn.Linear(2, 2, bias=False))
nn.init.ones_(model[0].weight)
dispatch_model(model, {"": "cpu"}, force_hooks=True)

twin = copy.deepcopy(model)
nn.init.zeros_(twin[0].weight)
assert twin(torch.ones(2)).tolist() == [0, 0] and model(torch.ones(2)).tolist() == [2, 2]

returned = twin.to(torch.float64)
print("returned the original:", returned is model, "dtype of the original:", model[0].weight.dtype,
      "of the copy:", twin[0].weight.dtype)
assert returned is model, "the copy's own method is called now"
assert model[0].weight.dtype == torch.float64 and twin[0].weight.dtype == torch.float32
assert twin.double() is twin and twin[0].weight.dtype == torch.float64
PYTHON
