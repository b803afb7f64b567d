#!/bin/sh
# transformers 5.24.0: from_pretrained replaces every non-persistent buffer that it doesn't know by uninitialised memory,
# even one that was made on the CPU, and even in a module that rebuilds it in set_extra_state.
#
# The model is built on the meta device. After loading, each buffer outside the state_dict is assigned torch.empty_like of
# itself, whatever device it is on; set_extra_state ran before that. Nothing calls reset_parameters(). Only
# _init_weights(module) of the model class comes later. No key is missing, and nothing is reported.
# PyTorch can fill new memory with NaN, which makes it visible.
# Seen: missing: [] on cpu: [nan, nan] rebuilt: [nan, nan] in _init_weights: [1.0, 2.0]
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet torch==2.13.0
"$home/venv/bin/pip" install --quiet transformers==5.24.0
"$home/venv/bin/python" -W ignore - <<'PYTHON'
import tempfile

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.tensor([1.0, 2.0], device="cpu"), persistent=False)


class Rebuilt(Table):
    def get_extra_state(self):
        return torch.tensor(0, device="cpu")

    def set_extra_state(self, state):
        self.table = torch.tensor([1.0, 2.0])


class Model(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear, self.a, self.b, self.c = nn.Linear(2, 2), Table(), Rebuilt(), Table()
        self.post_init()

    def _init_weights(self, module):
        if module is self.c:
            module.table.copy_(torch.tensor([1.0, 2.0]))


torch.use_deterministic_algorithms(True)
with tempfile.TemporaryDirectory() as folder:
    Model(PretrainedConfig()).save_pretrained(folder)
    model, info = Model.from_pretrained(folder, output_loading_info=True)
a, b, c = (part.table.tolist() for part in (model.a, model.b, model.c))
print("missing:", sorted(info["missing_keys"]), "on cpu:", a, "rebuilt:", b, "in _init_weights:", c)
assert not info["missing_keys"] and c == [1, 2]
assert all(number != number for number in a + b), "these buffers survive now"
PYTHON
