"""Networks trained in random subspaces: against loops and matrices, the same bits each time, and nothing twice."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.made_up_records import RECORD, TRIAL
from helpers.recording_watcher import Watched
from weight_feedback.lab.data import datasets
from weight_feedback.lab.data.datasets import normalise
from weight_feedback.lab.execution import measurements
from weight_feedback.lab.execution.measurements import run
from weight_feedback.lab.execution.progress import Progress, ProgressFiles
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import Store, StoreError
from weight_feedback.lab.tasks.intrinsic import task
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.lab.tasks.intrinsic.task import build, check, measure
from weight_feedback.lab.tasks.notebook.settings import Subspace
from weight_feedback.lab.tasks.notebook.subspace import projection
from weight_feedback.streams import stream

DATA = datasets.load("generated")
ONE = Measurement(data="generated", network="fc", subspace=Subspace(dimensions=30), epochs=2, lr=0.1, seed=0)
LENET = ONE.model_copy(update={"network": "lenet", "epochs": 1})


def dimensions(d: int, **changes) -> Measurement:
    return ONE.model_copy(update={"subspace": Subspace(dimensions=d), **changes})


def by_hand(network: str, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The paper's networks, written the plainest way."""
    if network == "lenet":
        for i in (1, 2):
            x = F.max_pool2d(F.relu(F.conv2d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"])), 2)
    x = x.flatten(1)
    for i in (1, 2, 3):
        x = x @ weights[f"fc{i}.weight"].T + weights[f"fc{i}.bias"]
        x = F.relu(x) if i < 3 else x
    return x - x.logsumexp(1, keepdim=True)


@pytest.mark.parametrize(("network", "parameters"), [("fc", 199_210), ("lenet", 44_426)])
def test_networks_are_those_of_the_paper(network, parameters) -> None:
    model = build(network, 3)
    weights = dict(model.named_parameters())
    assert sum(weight.numel() for weight in weights.values()) == parameters
    x = torch.randn(5, 1, 28, 28, generator=stream(0, "x"))
    torch.testing.assert_close(model(x), by_hand(network, weights, x), rtol=1e-5, atol=1e-5)
    bound = {
        name: max(w.abs().max().item() for n, w in weights.items() if n.startswith(name)) for name in ("fc1", "fc3")
    }
    # PyTorch's default: up to 1/√inputs.
    assert bound["fc1"] == pytest.approx(model.fc1.in_features**-0.5, rel=0.01)
    assert bound["fc3"] == pytest.approx(model.fc3.in_features**-0.5, rel=0.05)


def run_seed(one: Measurement) -> int:
    drawn = stream(one.seed, "intrinsic dimension", one.subspace.dimensions)
    return int(torch.randint(2**62, (), generator=drawn))


@pytest.mark.parametrize("one", [ONE, LENET], ids=["fc", "lenet"])
def test_training_is_adam_on_coordinates_as_written_out(one, monkeypatch) -> None:
    seed = run_seed(one)
    start = {name: weight.detach() for name, weight in build(one.network, seed).named_parameters()}
    bound = projection(one.subspace, seed).bind(start)
    p = torch.stack([torch.cat([part.flatten() for part in bound.adjoint(unit)]) for unit in torch.eye(30)])
    flat, sizes = torch.cat([w.flatten() for w in start.values()]), [w.numel() for w in start.values()]
    v, m, s, t = torch.zeros(30), torch.zeros(30), torch.zeros(30), 0

    def output(coordinates: Tensor, images: Tensor) -> Tensor:
        parts = (flat + coordinates @ p).split(sizes)
        weights = {name: part.view(w.shape) for (name, w), part in zip(start.items(), parts, strict=True)}
        return by_hand(one.network, weights, normalise(images, DATA.mean, DATA.std))

    accuracy = []
    for epoch in range(1, one.epochs + 1):
        order = torch.randperm(500, generator=stream(seed, "data order", epoch))
        for batch in order.split(128):
            live = v.clone().requires_grad_()
            F.nll_loss(output(live, DATA.train_images[batch]), DATA.train_labels[batch]).backward()
            t, m, s = t + 1, 0.9 * m + 0.1 * live.grad, 0.999 * s + 0.001 * live.grad.square()
            v = v - 0.1 * (m / (1 - 0.9**t)) / ((s / (1 - 0.999**t)).sqrt() + 1e-8)
        right = output(v, DATA.test_images).argmax(1) == DATA.test_labels
        accuracy.append(100 * right.float().mean().item())
    monkeypatch.setattr(task, "weights_digest", lambda arrays: torch.from_numpy(arrays["coordinates"]))
    found = measure(one, DATA)
    assert v.abs().max() > 0.3
    torch.testing.assert_close(found["coordinates"], v, rtol=1e-3, atol=1e-3)
    # Rounding may decide about an image or two.
    assert found["accuracy"] == pytest.approx(accuracy, abs=2)
    assert found["parameters"] == len(flat)


def test_the_same_settings_give_the_same_bits() -> None:
    epochs: list[int] = []
    first = measure(ONE, DATA, epochs.append)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # PyTorch's own generator has no part in it
        assert measure(ONE, DATA) == first
    assert epochs == [1, 2]
    assert json.loads(json.dumps(first)) == first
    assert measure(ONE.model_copy(update={"seed": 1}), DATA)["coordinates"] != first["coordinates"]


def test_runs_of_one_seed_share_nothing_over_dimensions() -> None:
    """The estimate takes them for independent: even where they begin, they differ."""
    still = {"lr": 1e-30, "epochs": 1}
    begins = [[measure(dimensions(d, seed=seed, **still), DATA)["accuracy"] for seed in range(4)] for d in (1, 2)]
    assert begins[0] != begins[1]


def test_what_is_finished_is_kept_and_only_the_rest_is_run(tmp_path, monkeypatch) -> None:
    store, watcher, asked = Store(tmp_path), Watched(), [dimensions(d, epochs=1) for d in (1, 2, 3)]
    real = measure

    def stop(one: Measurement, *rest):
        if one == asked[1]:
            raise RuntimeError("power cut")
        return real(one, *rest)

    monkeypatch.setattr(measurements, "measure", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        run(asked, store, jobs=1, watcher=watcher)
    monkeypatch.setattr(measurements, "measure", real)
    kept = store.path(asked[0]).read_bytes()
    run(asked, store, jobs=1, watcher=watcher)
    assert watcher.begun == [(3, 3, 3, 1), (3, 2, 2, 1)]
    assert watcher.standings[-1] == Progress(epochs=2, running=0, done=2, failed=0)
    assert store.path(asked[0]).read_bytes() == kept
    for one in asked:
        record = store.read(one)
        assert record.result == json.loads(json.dumps(measure(one, DATA)))
        assert record.provenance["threads"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trials"]


def test_what_is_damaged_is_set_aside_and_made_again(tmp_path) -> None:
    store, one = Store(tmp_path), dimensions(2, epochs=1)
    run([one], store, jobs=1)
    path = store.path(one)
    whole = store.read(one).result
    path.write_bytes(path.read_bytes().replace(b'"accuracy": [', b'"accuracy": [1'))
    with pytest.raises(StoreError, match="the next run sets it aside"):
        store.read(one)
    run([one], store, jobs=1)
    assert store.read(one).result == whole
    assert len(list((tmp_path / "damaged").iterdir())) == 2


def test_what_another_run_has_finished_is_not_made_again(tmp_path, monkeypatch) -> None:
    store, one = Store(tmp_path / "a"), dimensions(2, epochs=1)
    run([one], store, jobs=1)
    written = store.path(one).read_bytes()
    monkeypatch.setattr(measurements, "measure", lambda *_: pytest.fail("measured again"))
    measurements.Worker(store, ProgressFiles(tmp_path), None).run(one)
    assert store.path(one).read_bytes() == written


def test_folders_can_be_merged_and_names_are_checked(tmp_path) -> None:
    store, one = Store(tmp_path / "a"), dimensions(2, epochs=1)
    run([one], store, jobs=1)
    assert merge(tmp_path / "b", [tmp_path / "a"]).trials == 1
    assert Store(tmp_path / "b").read(one) == store.read(one)
    store.path(one).rename(store.path(dimensions(3, epochs=1)))
    with pytest.raises(StoreError, match="expected the result that its name says, found that of fc-00002-seed-0"):
        store.read(dimensions(3, epochs=1))
    both = replace(RECORD, result={"trial": TRIAL.settings(), "measurement": one.settings()})
    store.write(one, both)
    with pytest.raises(StoreError, match="settings that this version doesn't know"):
        store.read(one)


@pytest.mark.parametrize(
    "change",
    [
        {"data": "mnist"},
        {"network": "lenet"},
        {"subspace": Subspace(dimensions=31)},
        {"subspace": Subspace(dimensions=30, projection="dense")},
        {"epochs": 3},
        {"batch_size": 64},
        {"lr": 0.2},
        {"seed": 1},
    ],
)
def test_other_settings_are_kept_under_other_names(change) -> None:
    assert ONE.model_copy(update=change).file_name != ONE.file_name
    assert Measurement.model_validate(json.loads(json.dumps(ONE.settings()))).file_name == ONE.file_name


@pytest.mark.parametrize("kind", ["kronecker", "dense"])
def test_other_projections(kind) -> None:
    one = dimensions(4, network="lenet", epochs=1)
    other = one.model_copy(update={"subspace": Subspace(dimensions=4, projection=kind)})
    assert measure(other, DATA)["coordinates"] != measure(one, DATA)["coordinates"]


def test_tasks_can_go_to_other_processes() -> None:
    worker = measurements.Worker(Store(Path("a")), ProgressFiles(Path("b")), None)
    copied = pickle.loads(pickle.dumps(partial(worker.run, ONE)))
    assert copied.args == (ONE,)
    assert (copied.func.__self__.progress, copied.func.__self__.driver) == (worker.progress, os.getpid())


def test_what_dies_again_and_again_ends_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measurements, "run_all", lambda tasks, *_: tasks[0].give_up("its process died, 3 times"))
    with pytest.raises(ChildProcessError, match=f"{ONE.file_name}: its process died, 3 times"):
        run([ONE], Store(tmp_path))


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (dimensions(199_211), "--dimensions: must be at most the network's 199210 parameters, got 199211"),
        (
            ONE.model_copy(update={"subspace": Subspace(dimensions=5390, projection="dense")}),
            "--dimensions: must be at most 5389, for a matrix",
        ),
    ],
)
def test_subspaces_that_do_not_fit_are_refused(one, message) -> None:
    with pytest.raises(ValueError, match=message):
        check([one], DATA)


def test_other_images_and_no_jobs_are_refused(tmp_path) -> None:
    colour = replace(DATA, name="colour", train_images=torch.zeros(500, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"--data: expected images of shape \(1, 28, 28\), .* colour are \(3, 32"):
        check([ONE], colour)
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        run([ONE], Store(tmp_path), jobs=0)
