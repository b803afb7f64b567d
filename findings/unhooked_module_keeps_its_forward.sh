#!/bin/sh
# accelerate 1.15.0: taking a hook off a module leaves `forward` behind on the instance, so its class no longer decides.
#
# remove_hook_from_module puts the saved method back as an instance attribute instead of deleting the attribute, and
# unwrap_model(keep_fp32_wrapper=False) does the same after mixed precision. The module looks clean (no `_hf_hook`,
# no `_old_forward`), yet a later change of its class, or of the class's forward, is never seen.
# Seen: left behind: ['forward'] ['forward']; with another class: 2.0 2.0, without hook: -1.0
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/pip" install --quiet accelerate==1.15.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from accelerate import Accelerator
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn


class Negated(nn.Linear):
    def forward(self, x):
        return -super().forward(x) + 1


def ones():
    layer = nn.Linear(2, 1, bias=False)
    nn.init.ones_(layer.weight)
    return layer


plain, hooked, prepared = ones(), ones(), ones()
names = set(vars(plain))

add_hook_to_module(hooked, ModelHook())
remove_hook_from_module(hooked)

accelerator = Accelerator(cpu=True, mixed_precision="bf16")
accelerator.prepare(prepared)
prepared = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)

left = [sorted(set(vars(layer)) - names - {"_is_accelerate_prepared"}) for layer in (hooked, prepared)]
for layer in (plain, hooked, prepared):
    layer.__class__ = Negated
out = [layer(torch.ones(2)).item() for layer in (plain, hooked, prepared)]
print("left behind:", *left, "with another class:", *out[1:], "without hook:", out[0])
assert left == [["forward"], ["forward"]] and out == [-1, 2, 2]
PYTHON
