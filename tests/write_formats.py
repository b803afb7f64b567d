"""Writes one file of each format as this version writes it, for `test_released_formats.py` to read for ever.

``python tests/write_formats.py tests/fixtures/format-N`` is run when a format is released, and replaces nothing
there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import weight_feedback as wf
from weight_feedback.lab.execution import runner
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.training.checkpoints import Header, encode
from weight_feedback.pretrained import save_pretrained

STUDY = """name = "frozen"
title = "One of each"
data = "generated"
seeds = 1
summary = {k = 2}

[training]
epochs = 1
batch_size = 250

[[arms]]
name = "none"
model = "mnist-plain"
label = "w/o"
signal = "none"

[[arms]]
name = "own"
model = "mnist-plain"
label = "w/"
signal = "own"

[declared]
primary = [["own", "none"]]
margin = 0.5
"""


def build() -> torch.nn.Sequential:
    """Return the network whose feedback is saved, without it."""
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))


def store(folder: Path) -> None:
    """Write what is kept of a study: two results, weights, two swaps and the declaration."""
    study = folder.with_name("study.toml")
    study.write_text(STUDY)
    runner.run(load_study(str(study)), Store(folder), jobs=1)


def model(folder: Path) -> None:
    """Write a saved model, whose time has begun."""
    network = wf.attach(build(), "0", signal=wf.Stale(wf.Noise(torch.arange(1.0, 4.0), redraw=True, seed=5), lag=2))
    wf.attach(network, "2", reads=["0", "2"], summary=wf.DenseProjection(3, seed=7))
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) / 8 + number)
    wf.advance(network)
    save_pretrained(network, folder)


def checkpoint(file: Path) -> None:
    """Write a checkpoint of two networks, of which one has diverged."""
    hearings = [{"norm": 1.0, "drift": 0.0, "share": 0.5}, {"norm": 1.5, "drift": 0.25, "share": 0.75}]
    evaluation = {"loss": 2.0, "correct": 1, "accuracy": 10.0}
    header = Header(
        same={"torch": "2.13.0", "threads": 1},
        epoch=1,
        plain=[
            {"epochs": [evaluation], "hearings": hearings, "diverged": None},
            {"epochs": [], "hearings": hearings[:1], "diverged": 2},
        ],
        started="2026-11-24T09:00:00+00:00",
        seconds=1.5,
        resumed=3,
    )
    tensors = {
        "network.0.fc1.weight": torch.arange(6.0).view(2, 3),
        "network.0.fc1.signal.step": torch.tensor(2),
        "network.0.losses": torch.tensor([2.5, 2.25], dtype=torch.float64),
        "network.1.losses": torch.tensor([2.5], dtype=torch.float64),
    }
    file.write_bytes(encode(header, tensors))


def main(folder: Path) -> None:
    """Write all that isn't there.

    Args:
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in {"store": store, "model": model, "checkpoint.safetensors": checkpoint}.items():
        if not (folder / name).exists():
            write(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
