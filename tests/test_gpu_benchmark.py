"""The benchmark for GPUs: without one it says so; with one, it has a figure for each way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from interrupted import few_images
from weight_feedback.lab import plan


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import gpu

    return gpu


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
        return plan.time_trial(trial, data, torch.device("cpu"), steps, graphs)

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
