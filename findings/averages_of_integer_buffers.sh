#!/bin/sh
# PyTorch 2.13.0: AveragedModel(use_buffers=True) rounds averages of integer buffers down at each update. A constant buffer
# doesn't stay constant, and a counter doesn't move.
#
# With get_ema_multi_avg_fn(0.9) a permutation that never changes turns into one with repeated entries, since 0.9 · 3 +
# 0.1 · 3 is a little below 3 in floating point and is cut off to 2. With the default mean the count of batches that
# BatchNorm keeps, 1 to 100, is averaged to 1. Without use_buffers both are copied from the model.
# Seen: permutation: [0, 1, 2, 2, 4, 5, 5, 6]; count: 1; copied: [0, 1, 2, 3, 4, 5, 6, 7] 100
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Ordered(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
        self.register_buffer("order", torch.arange(8))


def averaged(model, **how):
    average = AveragedModel(model, **how)
    for _ in range(100):
        model.train()(torch.randn(4, 1))
        average.update_parameters(model)
    return average.module


ema = get_ema_multi_avg_fn(0.9)
order = averaged(Ordered(), multi_avg_fn=ema, use_buffers=True).order.tolist()
count = averaged(nn.BatchNorm1d(1), use_buffers=True).num_batches_tracked.item()
copied = averaged(Ordered(), multi_avg_fn=ema).order.tolist(), averaged(nn.BatchNorm1d(1)).num_batches_tracked.item()
print("permutation:", order, "count:", count, "copied:", *copied)
assert order == [0, 1, 2, 2, 4, 5, 5, 6] and count == 1
assert copied == ([0, 1, 2, 3, 4, 5, 6, 7], 100)
PYTHON
