"""Swaps: what a trained network hears in evaluation is what the swap says, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from helpers.studies import compare_signals
from weight_feedback.lab.data import datasets
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.store.store import Store, StoreError
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.training.interventions import possible, run_swap

STUDY = compare_signals(
    "none", "own", seeds=3, training={"epochs": 2, "batch_size": 125, "lr": 0.1}, summary={"k": 8}
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("swapped") / "tiny")
    run(STUDY, store, jobs=1)
    return store


def trained(store: Store, seed: int) -> torch.nn.Module:
    trial = STUDY.trial(STUDY.arms[1], seed)
    model = build_arm(trial, 4)
    model.load_state_dict(load_file(store.weights(trial)))
    return model


def test_each_swap_is_the_network_with_another_z(finished) -> None:
    data = datasets.load("generated")
    images = datasets.normalise(data.test_images, data.mean, data.std)
    swaps = [swap for _, swap in STUDY.swaps()]
    assert len(swaps) == 9
    for swap in swaps:
        model = trained(finished, swap.trial.seed)
        z = {
            "zeros": lambda: torch.zeros(8),
            "initial": lambda swap=swap: build_arm(swap.trial, 4).fc1.signal(),
            "other": lambda swap=swap: trained(finished, swap.other).fc1.signal(),
        }[swap.heard]()
        with torch.no_grad():
            pre = model.features(images) @ model.fc1.weight.T + model.fc1.bias + model.fc1.feedback_weight @ z
            output = F.log_softmax(model.fc2(F.relu(pre)), dim=1)
        result = finished.read(swap).result
        assert result["loss"] == pytest.approx(float(F.nll_loss(output, data.test_labels)), rel=1e-4)
        assert result["correct"] == int((output.argmax(1) == data.test_labels).sum())
    losses = {finished.read(swap).result["loss"] for swap in swaps}
    assert len(losses) == 9


def test_a_swap_is_run_once_and_only_if_its_weights_are_there(finished, tmp_path) -> None:
    times = {file: file.stat().st_mtime_ns for file in (finished.folder / "swaps").iterdir()}
    run(STUDY, finished, jobs=1)
    assert times == {file: file.stat().st_mtime_ns for file in (finished.folder / "swaps").iterdir()}
    swap = next(swap for _, swap in STUDY.swaps())
    assert possible(swap, finished)
    assert not possible(swap, Store(tmp_path))


def test_weights_that_are_not_the_trials_are_refused(finished) -> None:
    swap = Swap(trial=STUDY.trial(STUDY.arms[1], 0), heard="zeros")
    path = finished.weights(swap.trial)
    content, state = path.read_bytes(), load_file(path)
    try:
        save_file(state | {"fc2.bias": state["fc2.bias"] + 1}, path)
        with pytest.raises(StoreError, match="not the weights of the trial's record"):
            run_swap(swap, finished)
        path.write_bytes(content[:-7])
        with pytest.raises(StoreError, match="not the weights of the trial's record"):
            run_swap(swap, finished)
    finally:
        path.write_bytes(content)
