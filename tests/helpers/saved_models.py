"""What the tests of saved models share."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

import weight_feedback as wf
from helpers.cases import net
from weight_feedback.pretrained import PretrainedError, load_pretrained, save_pretrained

X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
WEIGHTS, CONFIG = "model.safetensors", "weight_feedback.json"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def blank(model: nn.Module) -> nn.Module:
    """A base whose own numbers are of no use, so that everything has to come from the files."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model


def check_round_trip(model: nn.Module, base: nn.Module, folder: Path) -> nn.Module:
    save_pretrained(model, folder / "one")
    generator = torch.get_rng_state()
    assert load_pretrained(base, folder / "one") is base
    assert torch.equal(torch.get_rng_state(), generator)
    wf.check(base)
    assert repr(base) == repr(model)
    for signal, other in zip(wf.signals(model).values(), wf.signals(base).values(), strict=True):
        assert torch.equal(signal(), other())
    save_pretrained(base, folder / "two")
    assert contents(folder / "one") == contents(folder / "two")
    return base


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description, and make all checksums right again."""
    config = json.loads((folder / CONFIG).read_text())
    weights = (folder / WEIGHTS).read_bytes()
    config["weights"] = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    del config["sha256"]
    change(config)
    config["sha256"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(config))


def check_refused(folder: Path, message: str, make: Callable[[], nn.Module] = net) -> None:
    base = make()
    untouched = copy.deepcopy(base)
    generator = torch.get_rng_state()
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(base, folder)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [type(module) for module in base.modules()] == [type(module) for module in untouched.modules()]
    assert [vars(m).keys() for m in base.modules()] == [vars(m).keys() for m in untouched.modules()]
    assert base.state_dict().keys() == untouched.state_dict().keys()
    for name, tensor in base.state_dict().items():
        assert tensor.is_meta or is_lazy(tensor) or torch.equal(tensor, untouched.state_dict()[name])


def model_of_errors() -> nn.Module:
    """Signal 0 is a noise, 1 the noise delayed, 2 own weights: pooled, 3 own weights: moments."""
    torch.manual_seed(0)
    model = wf.attach(net(), "conv1", signal=wf.Stale(wf.Noise(torch.randn(5)), lag=2))
    wf.attach(model, "fc1", reads=["fc1", "fc2"], summary=wf.MaxPool([(6, 8), (4, 1)], 16))
    return wf.attach(model, "fc2", summary=wf.Moments())
