#!/bin/sh
# PyTorch 2.13.0: load_state_dict(assign=True) marks the caller's state_dict, and later loads of it assign as well.
#
# The flag is written into `state_dict._metadata`, which every load of that state_dict shares. A second model that loads
# it WITHOUT assign no longer copies: its parameters share memory with the state_dict, with the model the state_dict came
# from, and with the first model. What one trains, all of them hear. A state_dict without `_metadata` isn't affected.
# Seen: shares before: False, after: True; the source after the second model changed: 7.0
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn


def layer():
    return nn.Linear(1, 1, bias=False)


def shares(a, b):
    return a.data_ptr() == b.data_ptr()


source = layer()
state = source.state_dict()

before = layer()
before.load_state_dict(state)

first = layer()
first.load_state_dict(state, assign=True)
second = layer()
second.load_state_dict(state)  # not assign=True
bare = layer()
bare.load_state_dict(dict(state))

with torch.no_grad():
    second.weight.fill_(7)
print("shares before:", shares(before.weight, state["weight"]), "after:", shares(second.weight, state["weight"]),
      "the source after the second model changed:", source.weight.item())
assert not shares(before.weight, state["weight"]) and not shares(bare.weight, state["weight"])
assert shares(second.weight, state["weight"]), "a load without assign copies again"
assert source.weight.item() == first.weight.item() == 7
PYTHON
