"""One trial: what is recorded, what is kept, and what is refused before training."""

from __future__ import annotations

import pytest
import torch
from safetensors import numpy, safe_open
from safetensors.torch import load_file

import weight_feedback
from weight_feedback.lab.data import datasets
from weight_feedback.lab.tasks.fields import weights_digest
from weight_feedback.lab.tasks.notebook.evaluation import evaluate
from weight_feedback.lab.tasks.notebook.networks import build
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Training
from weight_feedback.lab.training.environment import choose_device, thread_count
from weight_feedback.lab.training.run import Options, run_trial


def make(**changes) -> NetworkTrial:
    fields = {"data": "generated", "training": Training(epochs=1), "model": "mnist-projected", "seed": 2}
    return NetworkTrial(**(fields | changes))


def test_a_record_says_what_came_out_and_where(tmp_path) -> None:
    file = tmp_path / "deep" / "weights.safetensors"
    record = run_trial(make(), Options(threads=1, weights={make(): file}))
    assert record.result["trial"] == make().settings()
    assert record.result["data"] == datasets.load("generated").fingerprint
    assert record.result["parameters"] == 11_250
    assert len(record.result["step_losses"]) == 8
    assert record.result["epochs"][0].keys() == {"loss", "correct", "accuracy"}
    assert record.provenance["torch"] == torch.__version__
    assert record.provenance["weight_feedback"] == weight_feedback.__version__
    assert record.provenance["threads"] == 1
    assert record.provenance["device"] == str(choose_device())

    # The weights are those of the trained network: they load strictly and give the recorded accuracy.
    model = build("mnist-projected", 99)
    model.load_state_dict(load_file(file))
    assert evaluate(model, datasets.load("generated")).correct == record.result["epochs"][-1]["correct"]
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"network": "mnist-projected", "data": "generated", "seed": "2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "mnist-other"}, r"network: expected one of mnist-plain, .*, got 'mnist-other'"),
        ({"model": "cifar10-plain"}, r"expected images of shape \(3, 32, 32\), .* generated are \(1, 28, 28\)"),
        ({"training": Training(batch_size=501)}, r"training.batch_size: must be at most the 500 .*, got 501"),
        ({"data": "other"}, r"expected a data set among .*mnist-5k.*'other'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        run_trial(make(**changes))


def test_a_place_where_weights_cannot_go_is_refused_before_training(tmp_path) -> None:
    def trained(*_: object) -> None:
        raise AssertionError("training began")

    with pytest.raises(OSError, match="directory"):
        run_trial(make(), Options(weights={make(): tmp_path}, on_log=trained))


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device: expected auto, cpu, .*got '{wrong}'"):
            choose_device(wrong)


def test_thread_count_is_put_back() -> None:
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_have_bounds(threads) -> None:
    with pytest.raises(ValueError, match=f"threads: expected 1 to 1024, got {threads}"):
        run_trial(make(), Options(threads=threads))


def test_the_digest_of_the_weights_is_part_of_the_result(tmp_path) -> None:
    first, again, other = (
        run_trial(make(seed=seed), Options(threads=1, weights={make(seed=seed): tmp_path / name})).result["weights"]
        for seed, name in ((2, "a"), (2, "b"), (3, "c"))
    )
    assert first == again != other
    assert weights_digest(numpy.load_file(tmp_path / "a")) == first


def test_a_diverged_trial_is_a_result(tmp_path) -> None:
    result = run_trial(make(training=Training(epochs=2, lr=1e30)), Options(threads=1)).result
    assert result["diverged"] == 2
    assert result["epochs"] == []
