"""Benchmarks: what they compare does the same, and without a GPU the one for GPUs says so."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from helpers.interrupted_trials import few_images
from weight_feedback.lab.tasks.notebook import timing


@pytest.fixture
def gpu():
    return importlib.import_module("gpu")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_all_ways_of_training_several_networks_take_the_same_steps(name) -> None:
    vectorised, training = map(importlib.import_module, ("vectorised", "training"))
    data, generator = training.made_up(name), torch.Generator().manual_seed(0)
    batches = torch.randint(len(data.train_labels), (3, 2, 8), generator=generator)
    losses = {}
    for way, make in vectorised.WAYS.items():
        step = make(vectorised.networks(name, 2), data)
        losses[way] = torch.stack([step(batch) for batch in batches])
    assert losses["cohort"].unique().numel() == 6
    for way in vectorised.WAYS:
        torch.testing.assert_close(losses[way], losses["cohort"])


def test_without_a_gpu_there_is_no_figure(gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu.main()
    assert capsys.readouterr().out == "There is no CUDA device here: nothing was measured.\n"


def test_with_one_there_is_a_figure_for_each_way(gpu, monkeypatch, capsys) -> None:
    """On the CPU, which takes its place."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(gpu, "made_up", lambda _: few_images())
    timed = []

    def time_trial(trial, data, device, steps, graphs):
        timed.append((trial.training.cohort, graphs, device.type))
        return timing.time_trial(trial, data, torch.device("cpu"), steps, graphs)

    monkeypatch.setattr(gpu, "time_trial", time_trial)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--cohort", "2", "--repeats", "1"])
    gpu.main()
    assert timed == [(1, False, "cuda"), (1, True, "cuda"), (2, False, "cuda"), (2, True, "cuda")]
    *_, plain, plain_graphs, cohort, cohort_graphs = capsys.readouterr().out.splitlines()
    assert " plain loop: " in plain
    assert "trials an hour, 1.00 times" in plain
    assert " plain loop, CUDA graphs: " in plain_graphs
    assert " cohort of 2: " in cohort
    assert " cohort of 2, CUDA graphs: " in cohort_graphs
