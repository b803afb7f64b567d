#!/bin/sh
# PyTorch 2.13.0: AveragedModel pairs parameters by their position, and stops at the shorter list. A layer that is added to
# the model later, in front, is averaged into its neighbour, and nothing is said.
#
# update_parameters zips `parameters()` of both models without comparing names, shapes or lengths. Where shapes agree, the
# average mixes two layers, and the last layer of the model is left out.
# Seen: names averaged: ['0.weight']; names of the model: ['0.weight', '1.weight']; average of 5.0: 3.0
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def layer(value):
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


model = nn.Sequential(layer(5.0))
average = AveragedModel(model)
average.update_parameters(model)

model.insert(0, layer(1.0))  # a network that grows
average.update_parameters(model)  # the layer that is averaged has held 5 all the time

names = [[name for name, _ in part.named_parameters()] for part in (average.module, model)]
value = average.module[0].weight.item()
print("names averaged:", names[0], "names of the model:", names[1], "average of 5.0:", value)
assert names == [["0.weight"], ["0.weight", "1.weight"]]
assert value == 3.0, "the new layer is told from the old one now"
PYTHON
