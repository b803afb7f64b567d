#!/bin/sh
# peft 0.21.2: with target_parameters a layer has another class, other parameter names and another weight DURING its
# forward than before and after it; with target_modules it hasn't.
#
# target_parameters=["…weight"] registers a parametrisation at each call of the layer, and takes it off again. What reads
# `layer.weight` outside of a forward reads the base weight without the adapter; what reads it from within reads the sum.
# Seen: target_modules: Watched 4.0 ['weight']; target_parameters: ParametrizedWatched 8.0
# ['parametrizations.weight.original']; outside both times: Watched 4.0 ['weight']
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/pip" install --quiet peft==0.21.2
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def look(layer):
    return type(layer).__name__, layer.weight.sum().item(), [name for name, _ in layer.named_parameters()]


class Watched(nn.Linear):
    def forward(self, x):
        seen.append(look(self))
        return super().forward(x)


results = []
for targets in ({"target_modules": ["0"]}, {"target_modules": [], "target_parameters": ["0.weight"]}):
    seen = []
    net = nn.Sequential(Watched(2, 2, bias=False))
    nn.init.ones_(net[0].weight)
    inner = net[0]
    adapted = get_peft_model(net, LoraConfig(r=1, lora_alpha=1, **targets))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.ones_(parameter)  # an adapter that adds 1 to each weight
    out = adapted(torch.ones(1, 2))
    assert out.tolist() == [[4, 4]], "both ways of adapting compute the same"
    results.append((seen[0], look(inner)))

(inside, outside), (inside_patched, outside_patched) = results
print("target_modules:", *inside, "target_parameters:", *inside_patched, "outside both times:", *outside)
assert inside == outside == outside_patched == ("Watched", 4.0, ["weight"])
assert inside_patched == ("ParametrizedWatched", 8.0, ["parametrizations.weight.original"])
PYTHON
