"""Networks trained in random subspaces: against loops and matrices, the same bits each time, and nothing twice."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.made_up_records import RECORD, TRIAL
from helpers.recording_watcher import Watched
from weight_feedback.lab.data import datasets
from weight_feedback.lab.data.datasets import normalise
from weight_feedback.lab.execution import runner
from weight_feedback.lab.execution.progress import Progress, ProgressFiles
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.execution.workers import Worker
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import Record, Store, StoreError
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.fields import weights_digest
from weight_feedback.lab.tasks.intrinsic import training
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.lab.tasks.intrinsic.task import INTRINSIC
from weight_feedback.lab.tasks.intrinsic.training import build, check_fit
from weight_feedback.lab.tasks.notebook.evaluation import evaluate
from weight_feedback.lab.tasks.notebook.settings import Subspace
from weight_feedback.lab.tasks.notebook.subspace import projection
from weight_feedback.lab.training.run import Options, run_trial
from weight_feedback.streams import stream
from weight_feedback.subspace import Subspace as Confined

DATA = datasets.load("generated")
ONE = Measurement(data="generated", network="fc", subspace=Subspace(dimensions=30), epochs=2, lr=0.1, seed=0)
LENET = ONE.model_copy(update={"network": "lenet", "epochs": 1})
#: What version 0.1.0 measured, and where that was.
FINISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "parent-stores" / "finished.json").read_bytes())
KNOWN = {
    Path(name).stem: result
    for name, result in FINISHED["results"].items()
    if name.startswith("intrinsic-dimension")
}


def dimensions(d: int, **changes) -> Measurement:
    return ONE.model_copy(update={"subspace": Subspace(dimensions=d), **changes})


def measure(one: Measurement, **options: Any) -> dict[str, Any]:
    """Run a measurement by itself; return its result."""
    return run_trial(one, Options(device="cpu", threads=1, **options)).result


def sizes(*several: int, **changes: Any) -> Study:
    """A study whose trials are those of `dimensions` with one epoch."""
    fields = {"name": "sizes", "title": "Sizes", "task": "intrinsic-dimension", "seeds": 1}
    settings = {"data": "generated", "network": "fc", "epochs": 1, "lr": 0.1}
    arms = [{"name": str(d), "subspace": {"dimensions": d}} for d in several]
    return Study.model_validate({**fields, **settings, "arms": arms, **changes})


def keep(one: Measurement, store: Store) -> Record:
    """Run a measurement of one epoch in a study of its own; return what is kept."""
    run(sizes(one.subspace.dimensions), store, jobs=1)
    return store.read(one)


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
    flat, parts = torch.cat([w.flatten() for w in start.values()]), [w.numel() for w in start.values()]
    v, m, s, t = torch.zeros(30), torch.zeros(30), torch.zeros(30), 0

    def output(coordinates: Tensor, images: Tensor) -> Tensor:
        moved = (flat + coordinates @ p).split(parts)
        weights = {name: part.view(w.shape) for (name, w), part in zip(start.items(), moved, strict=True)}
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
    monkeypatch.setattr(training, "weights_digest", lambda arrays: arrays["coordinates"].tolist())
    found = measure(one)
    assert v.abs().max() > 0.3
    torch.testing.assert_close(torch.tensor(found["coordinates"]), v, rtol=1e-3, atol=1e-3)
    # Rounding may decide about an image or two.
    assert found["accuracy"] == pytest.approx(accuracy, abs=2)
    assert found["parameters"] == len(flat)


@pytest.mark.parametrize("one", [ONE, LENET], ids=["fc", "lenet"])
def test_the_bits_are_those_of_a_plain_loop(one) -> None:
    threads, seed, accuracy = torch.get_num_threads(), run_seed(one), []
    torch.set_num_threads(1)
    try:
        small = Confined(build(one.network, seed), projection(one.subspace, seed))
        optimiser = torch.optim.Adam([small.coordinates], lr=one.lr, fused=True)
        for epoch in range(1, one.epochs + 1):
            for batch in torch.randperm(500, generator=stream(seed, "data order", epoch)).split(one.batch_size):
                optimiser.zero_grad()
                output = small(normalise(DATA.train_images[batch], DATA.mean, DATA.std))
                F.nll_loss(output, DATA.train_labels[batch]).backward()
                optimiser.step()
            accuracy.append(evaluate(small.materialize(), DATA).accuracy)
    finally:
        torch.set_num_threads(threads)
    assert measure(one) == {
        "measurement": one.settings(),
        "data": DATA.fingerprint,
        "parameters": sum(weight.numel() for weight in build(one.network, 0).parameters()),
        "accuracy": accuracy,
        "coordinates": weights_digest({"coordinates": small.coordinates.detach().numpy()}),
    }


@pytest.mark.parametrize("name", KNOWN)
def test_results_of_the_first_version_stay_as_they_are(name) -> None:
    known = KNOWN[name]
    one = Measurement.model_validate(known["measurement"])
    assert one.file_name == name
    assert one.settings() == known["measurement"]
    record = run_trial(one, Options(device="cpu", threads=1))
    assert [*record.result] == [*known]
    there = {field: value for field, value in FINISHED["where"].items() if field != "weight_feedback"}
    if others := {f: (record.provenance[f], value) for f, value in there.items() if record.provenance[f] != value}:
        pytest.skip(f"other bits are right where this differs: {others}")
    assert record.result == known


def test_the_same_settings_give_the_same_bits() -> None:
    epochs: list[tuple[int, float]] = []
    first = measure(ONE, on_epoch=lambda epoch, values: epochs.append((epoch, values["accuracy"])))
    with torch.random.fork_rng():
        torch.manual_seed(5)  # PyTorch's own generator has no part in it
        assert measure(ONE) == first
    assert epochs == [*enumerate(first["accuracy"], start=1)]
    assert json.loads(json.dumps(first)) == first
    assert measure(ONE.model_copy(update={"seed": 1}))["coordinates"] != first["coordinates"]


class Cut(BaseException):
    """Training is cut short here."""


def cut(one: Measurement, path: Path, epoch: int) -> None:
    """Train from where the checkpoint is, and be interrupted after an epoch."""

    def interrupt(finished: int, _: object) -> None:
        if finished == epoch:
            raise Cut

    with pytest.raises(Cut):
        measure(one, checkpoint=path, checkpoint_seconds=0, on_epoch=interrupt)


@pytest.mark.parametrize("one", [ONE, LENET], ids=["fc", "lenet"])
def test_training_that_was_interrupted_goes_on_to_the_same_bits(tmp_path, one) -> None:
    one, path, epochs = one.model_copy(update={"epochs": 4}), tmp_path / "checkpoint", []
    whole = measure(one)
    cut(one, path, 1)
    cut(one, path, 3)
    options = {"checkpoint": path, "on_epoch": lambda epoch, _: epochs.append(epoch)}
    record = run_trial(one, Options(device="cpu", threads=1, **options))
    assert epochs == [4]
    assert record.provenance["resumed"] == 2
    assert record.result == whole


def test_a_checkpoint_of_another_measurement_is_moved_aside(tmp_path) -> None:
    path, notes, other = tmp_path / "checkpoint", [], ONE.model_copy(update={"seed": 1})
    cut(other, path, 1)
    content = path.read_bytes()
    assert measure(ONE, checkpoint=path, on_note=notes.append) == measure(ONE)
    (note,) = notes
    assert "expected settings " in note
    assert "training starts over" in note
    assert (tmp_path / "checkpoint.unusable-1").read_bytes() == content


def test_runs_of_one_seed_share_nothing_over_dimensions() -> None:
    """The estimate takes them for independent: even where they begin, they differ."""
    still = {"lr": 1e-30, "epochs": 1}
    begins = [[measure(dimensions(d, seed=seed, **still))["accuracy"] for seed in range(4)] for d in (1, 2)]
    assert begins[0] != begins[1]


def test_what_is_finished_is_kept_and_only_the_rest_is_run(tmp_path, monkeypatch) -> None:
    store, watcher, asked = Store(tmp_path), Watched(), [dimensions(d, epochs=1) for d in (1, 2, 3)]
    real = training.train

    def stop(trial) -> None:
        if trial.trial == asked[1]:
            raise Cut
        real(trial)

    monkeypatch.setattr(training, "train", stop)
    with pytest.raises(Cut):
        run(sizes(1, 2, 3), store, jobs=1, watcher=watcher)
    monkeypatch.setattr(training, "train", real)
    kept = store.path(asked[0]).read_bytes()
    assert run(sizes(1, 2, 3), store, jobs=1, watcher=watcher) == 2
    assert watcher.begun == [(3, 3, 3, 1), (3, 2, 2, 1)]
    assert watcher.standings[-1] == Progress(epochs=2, running=0, done=2, failed=0)
    assert store.path(asked[0]).read_bytes() == kept
    for one in asked:
        record = store.read(one)
        assert record.result == json.loads(json.dumps(measure(one)))
        assert record.provenance["threads"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "study.json", "trials"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_what_fails_is_noted_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    store, watcher, asked = Store(tmp_path), Watched(), [dimensions(d, epochs=1) for d in (1, 2, 3)]
    real = training.train

    def fail(trial) -> None:
        if trial.trial == asked[1]:
            raise RuntimeError("no luck")
        real(trial)

    monkeypatch.setattr(training, "train", fail)
    run(sizes(1, 2, 3), store, jobs=1, watcher=watcher)
    assert watcher.standings[-1] == Progress(epochs=3, running=0, done=2, failed=1)
    assert watcher.notes == [f"failed: {asked[1].file_name}: RuntimeError: no luck"]
    assert [store.finished(one) for one in asked] == [True, False, True]
    assert store.failure(asked[1]).startswith("RuntimeError: no luck\n")
    monkeypatch.setattr(training, "train", real)
    assert run(sizes(1, 2, 3), store, jobs=1) == 1
    assert [store.failure(one) for one in asked] == [None] * 3
    assert store.read(asked[1]).result == measure(asked[1])


def test_what_is_damaged_is_set_aside_and_made_again(tmp_path) -> None:
    store, one = Store(tmp_path), dimensions(2, epochs=1)
    whole = keep(one, store).result
    path = store.path(one)
    path.write_bytes(path.read_bytes().replace(b'"accuracy": [', b'"accuracy": [1'))
    with pytest.raises(StoreError, match="the next run sets it aside"):
        store.read(one)
    with pytest.warns(UserWarning, match=f"{one.file_name}.json: .*it is now {tmp_path}/damaged/"):
        assert keep(one, store).result == whole
    assert len(list((tmp_path / "damaged").iterdir())) == 2


def worker(study: Study, store: Store, progress: Path) -> Worker:
    return Worker(study, store, ProgressFiles(progress), None, "cpu", None, 60.0)


def test_what_another_run_has_finished_is_not_made_again(tmp_path, monkeypatch) -> None:
    store, one, study = Store(tmp_path / "a"), dimensions(2, epochs=1), sizes(2)
    keep(one, store)
    written = store.path(one).read_bytes()
    monkeypatch.setattr(type(INTRINSIC), "run", lambda *_: pytest.fail("measured again"))
    assert worker(study, store, tmp_path).run_cohort(study.arms[0], [one]) is None
    assert store.path(one).read_bytes() == written


def test_folders_can_be_merged_and_names_are_checked(tmp_path) -> None:
    store, one, other = Store(tmp_path / "a"), dimensions(2, epochs=1), dimensions(3, epochs=1)
    keep(one, store)
    assert merge(tmp_path / "b", [tmp_path / "a"]).trials == 1
    assert Store(tmp_path / "b").read(one) == store.read(one)
    store.path(one).rename(store.path(other))
    with pytest.raises(StoreError, match=f"expected the result that its name says, .* with the key {one.key()};"):
        store.read(other)
    both = replace(RECORD, result={"trial": TRIAL.settings(), "measurement": one.settings()})
    store.write(one, both)
    with pytest.raises(StoreError, match=f"expected the result that its name says, .* with the key {TRIAL.key()};"):
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


def test_trials_of_a_study_are_measurements() -> None:
    study = sizes(3, 2, seeds=2, first_seed=4, batch_size=64)
    expected = [dimensions(d, epochs=1, batch_size=64, seed=seed) for seed in (4, 5) for d in (3, 2)]
    assert [trial for _, trial in study.trials()] == expected
    assert {trial.planned_epochs for _, trial in study.trials()} == {expected[0].planned_epochs} == {1}


@pytest.mark.parametrize("kind", ["kronecker", "dense"])
def test_other_projections(kind) -> None:
    one = dimensions(4, network="lenet", epochs=1)
    other = one.model_copy(update={"subspace": Subspace(dimensions=4, projection=kind)})
    assert measure(other)["coordinates"] != measure(one)["coordinates"]


def test_tasks_can_go_to_other_processes() -> None:
    study = sizes(30)
    sent = worker(study, Store(Path("a")), Path("b"))
    copied = pickle.loads(pickle.dumps(partial(sent.run_cohort, study.arms[0], [ONE])))
    assert copied.args == (study.arms[0], [ONE])
    assert copied.func.__self__.study == study
    assert (copied.func.__self__.progress, copied.func.__self__.driver) == (sent.progress, os.getpid())


def test_what_dies_again_and_again_is_noted_as_failed(tmp_path, monkeypatch) -> None:
    def give_up(jobs, *_) -> None:
        for job in jobs:
            job.give_up("its process died, 3 times")

    monkeypatch.setattr(runner, "run_all", give_up)
    store, watcher = Store(tmp_path), Watched()
    run(sizes(30, epochs=2), store, watcher=watcher)
    assert store.failure(ONE) == "its process died, 3 times"
    assert watcher.notes == [f"failed: {ONE.file_name}: its process died, 3 times"]


DENSE = ONE.model_copy(update={"subspace": Subspace(dimensions=5390, projection="dense")})


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (dimensions(199_211), "subspace.dimensions: must be at most the network's 199210 parameters, got 199211"),
        (DENSE, "subspace.dimensions: must be at most 5389, for a matrix"),
    ],
)
def test_subspaces_that_do_not_fit_are_refused_before_anything_is_kept(tmp_path, one, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_fit([one], DATA)
    with pytest.raises(ValueError, match=message):
        measure(one)
    unfit = sizes(2, one.subspace.dimensions, subspace={"projection": one.subspace.projection})
    with pytest.raises(ValueError, match=message):
        run(unfit, Store(tmp_path / "out"), jobs=1)
    assert not (tmp_path / "out").exists()


def test_other_images_and_no_jobs_are_refused(tmp_path) -> None:
    colour = replace(DATA, name="colour", train_images=torch.zeros(500, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"data: expected images of shape \(1, 28, 28\), .* colour are \(3, 32"):
        check_fit([ONE], colour)
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        run(sizes(2), Store(tmp_path), jobs=0)
