#!/bin/sh
# PyTorch 2.13.0: a batch norm in training mode changes its running statistics in place, and their `_version` stays.
#
# Each tensor counts in-place changes in `_version`, which autograd checks, and by which tools see whether a buffer was
# touched. The operator behind nn.BatchNorm updates running_mean and running_var without counting, with or without
# gradients; of the layer's buffers only num_batches_tracked, which Python increments, counts. A layer without that
# buffer, or F.batch_norm itself, changes statistics and leaves no trace in any version. An explicit mul_ counts.
# Seen: running_mean changed: True, its version: 1 -> 1; num_batches_tracked: 1 -> 2; after mul_: 2
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
x = torch.randn(8, 3)
for grad in (True, False):
    with torch.set_grad_enabled(grad):
        norm = nn.BatchNorm1d(3)
        before = norm.running_mean.clone()
        versions = norm.running_mean._version, norm.num_batches_tracked._version
        norm(x)
        changed = not torch.equal(before, norm.running_mean)
        after = norm.running_mean._version, norm.num_batches_tracked._version
        assert changed and after[0] == versions[0] and after[1] == versions[1] + 1, (changed, versions, after)
mean, var = torch.zeros(3), torch.ones(3)
F.batch_norm(x, mean, var, training=True)
assert mean.abs().sum() > 0 and mean._version == var._version == 0, "the operator counts its change"
norm.running_mean.mul_(1)
print(f"running_mean changed: {changed}, its version: {versions[0]} -> {after[0]}; num_batches_tracked: "
      f"{versions[1]} -> {after[1]}; after mul_: {norm.running_mean._version}")
assert norm.running_mean._version == after[0] + 1
PYTHON
