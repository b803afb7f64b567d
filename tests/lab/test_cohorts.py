"""Cohorts: what a network computes among others is what it computes alone, to rounding."""

from __future__ import annotations

import copy
from dataclasses import astuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import weight_feedback as wf
from helpers.interrupted_trials import few_images
from helpers.lockstep_training import train, train_cohort
from helpers.recording_watcher import Watched
from helpers.studies import compare_signals
from weight_feedback.lab.data import datasets
from weight_feedback.lab.execution import runner
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.notebook import evaluation, lockstep
from weight_feedback.lab.tasks.notebook.arms import build_arm
from weight_feedback.lab.tasks.notebook.building import build_networks
from weight_feedback.lab.tasks.notebook.cohorts import Cohort
from weight_feedback.lab.tasks.notebook.evaluation import evaluate, evaluate_all
from weight_feedback.lab.tasks.notebook.lockstep import Donor
from weight_feedback.lab.tasks.notebook.networks import ConvNet, build
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Training
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK
from weight_feedback.lab.training.run import Options, run_cohort, run_trial
from weight_feedback.streams import stream

# With larger steps, rounding that swaps the maximum of a pool grows past any bound: on some processors it did.
SETTINGS = Training(epochs=2, batch_size=96, test_batch_size=50, lr=0.02)
N = 3


def make(signal: str | None = "own", seed: int = 0, cohort: int = 1, **changes) -> NetworkTrial:
    fields = {
        "data": "generated",
        "training": SETTINGS.model_copy(update={"cohort": cohort}),
        "model": "mnist-plain",
        "signal": signal,
        "summary": Projected(k=7) if signal else None,
        "seed": seed,
    }
    return NetworkTrial(**(fields | changes))


ARMS = {
    "plain": lambda seed: build("mnist-plain", seed),
    "pooled": lambda seed: build("mnist-pooled", seed),
    "projected": lambda seed: build("mnist-projected", seed),
    "own": lambda seed: build_arm(make("own", seed), 6),
    "noise": lambda seed: build_arm(make("noise", seed), 6),
    "film": lambda seed: build_arm(make("own", seed, conditioning="film"), 6),
}


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("generated")


@pytest.mark.parametrize("arm", ARMS)
def test_outputs_and_gradients_are_those_of_each_alone(arm) -> None:
    alone = [ARMS[arm](seed).double() for seed in range(N)]
    together = [copy.deepcopy(model) for model in alone]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 5, 1, 28, 28, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (N, 5), generator=generator)
    cohort = Cohort(together)
    output = cohort(x)
    F.nll_loss(output.flatten(0, 1), y.flatten(), reduction="sum").backward()
    for i, model in enumerate(alone):
        expected = model(x[i])
        torch.testing.assert_close(output[i], expected, rtol=1e-11, atol=1e-12)
        F.nll_loss(expected, y[i], reduction="sum").backward()
        for name, parameter in model.named_parameters():
            stack = cohort.stacks[name.replace(".", "_")]
            torch.testing.assert_close(stack.grad[i], parameter.grad, rtol=1e-10, atol=1e-11)
            assert together[i].get_parameter(name).data_ptr() == stack[i].data_ptr()


@pytest.fixture
def float64(monkeypatch) -> None:
    """Feed networks in float64.

    There, the order in which some thousand numbers are added makes 1e-13 of a result, and a dozen steps little
    more: what agrees to `NEAR` is the same arithmetic, and another batch or signal shows in the first digits.
    """
    for module in (lockstep, evaluation):
        monkeypatch.setattr(module, "normalise", lambda *args: datasets.normalise(*args).double())


FEW = SETTINGS.model_copy(update={"batch_size": 32})  # of `few_images`, an epoch is three steps
NEAR = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arm", ARMS)
def test_training_is_the_plain_loop_of_each_seed(arm) -> None:
    models, data, seen = double(arm), few_images(), []
    histories = train_cohort(models, data, FEW, range(N), lambda *epoch: seen.append(epoch))
    assert seen == list(enumerate(histories[0].epochs, start=1))
    for seed, alone in enumerate(double(arm)):
        found, expected = histories[seed], train(alone, data, FEW, seed)
        assert found.step_losses == pytest.approx(expected.step_losses, rel=1e-10)
        for hearing, alike in zip(found.hearings, expected.hearings, strict=True):
            assert astuple(hearing) == pytest.approx(astuple(alike), rel=1e-10)
        for result, alike in zip(found.epochs, expected.epochs, strict=True):  # whose loss is summed in float32
            assert astuple(result) == pytest.approx(astuple(alike), rel=1e-6)
        torch.testing.assert_close(models[seed].state_dict(), alone.state_dict(), **NEAR)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("arm", ARMS)
def test_training_is_that_of_torch_func(arm) -> None:
    models, data = double(arm), few_images()
    histories = train_cohort(models, data, FEW, range(N))
    losses, parameters = train_by_torch_func(double(arm), data)
    found = torch.tensor([history.step_losses for history in histories], dtype=torch.float64)
    torch.testing.assert_close(found, losses, **NEAR)
    for name, expected in parameters.items():
        torch.testing.assert_close(torch.stack([model.get_parameter(name) for model in models]), expected, **NEAR)


def double(arm: str) -> list[ConvNet]:
    """Build the networks of an arm in float64."""
    return [ARMS[arm](seed).double() for seed in range(N)]


def train_by_torch_func(models: list[ConvNet], data: datasets.Dataset) -> tuple[Tensor, dict[str, Tensor]]:
    """Train networks as the function of stacked parameters that ``torch.func`` makes of one, by SGD written out.

    Returns:
        The losses of each step, shape ``[n, steps]``, and the stacks of trained parameters.
    """
    parameters, _ = stack_module_state(models)
    parameters = {name: value.detach() for name, value in parameters.items()}
    velocities = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def loss(parameters, buffers, x: Tensor, labels: Tensor) -> Tensor:
        return F.nll_loss(functional_call(models[0], (parameters, buffers), (x,)), labels)

    x = datasets.normalise(data.train_images, data.mean, data.std).double()
    losses = []
    for epoch in range(1, FEW.epochs + 1):
        orders = [torch.randperm(len(x), generator=stream(seed, "data order", epoch)) for seed in range(N)]
        for batch in torch.stack(orders).split(FEW.batch_size, dim=1):
            _, buffers = stack_module_state(models)
            gradients, values = vmap(grad_and_value(loss))(parameters, buffers, x[batch], data.train_labels[batch])
            losses.append(values)
            for name, gradient in gradients.items():
                velocities[name] = FEW.momentum * velocities[name] + gradient
                parameters[name] = parameters[name] - FEW.lr * velocities[name]
            for model in models:
                wf.advance(model)
    return torch.stack(losses, dim=1), parameters


def test_yoked_networks_hear_donors_of_their_own(data) -> None:
    trials = [make("yoked", seed) for seed in range(N)]
    networks = [build_networks(trial, 6, torch.device("cpu")) for trial in trials]
    models, donors = zip(*networks, strict=True)
    assert all(isinstance(donor, Donor) for donor in donors)
    histories = train_cohort(models, data, SETTINGS, range(N), donors=donors)
    for trial, history in zip(trials, histories, strict=True):
        result = run_trial(trial, Options(threads=1)).result
        assert history.step_losses == pytest.approx(result["step_losses"], rel=1e-4)
        assert [h.norm for h in history.hearings] == pytest.approx(
            [h["norm"] for h in result["hearings"]], rel=1e-4
        )


def test_evaluation_is_that_of_each_alone(data) -> None:
    models = [ARMS["own"](seed) for seed in range(N)]
    cohort, sizes = Cohort(models), []
    hook = cohort.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2]))
    results = evaluate_all(cohort, data, batch_size=70)
    assert set(sizes) == {(N, 23), (N, 100 % 23)}  # 70 images for all of them together
    hook.remove()
    assert evaluate_all(cohort, data, batch_size=1)[0].correct == results[0].correct
    for model, result in zip(models, results, strict=True):
        expected = evaluate(model, data)
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (result.correct, result.accuracy) == (expected.correct, expected.accuracy)


def test_a_network_that_diverges_leaves_the_others_alone(data) -> None:
    models = [ARMS["own"](seed) for seed in range(N)]
    with torch.no_grad():
        models[0].fc2.weight.fill_(torch.inf)
    seen = []
    histories = train_cohort(models, data, SETTINGS, range(N), lambda *epoch: seen.append(epoch))
    assert [history.diverged for history in histories] == [1, None, None]
    assert [len(history.epochs) for history in histories] == [0, 2, 2]
    assert [len(history.hearings) for history in histories] == [1, 3, 3]
    assert seen == list(enumerate(histories[1].epochs, start=1))
    assert histories[2].step_losses == pytest.approx(train(ARMS["own"](2), data, SETTINGS, 2).step_losses, rel=1e-4)


def test_the_step_at_which_one_diverged_stays_that_step(data) -> None:
    models = [ARMS["plain"](seed) for seed in range(N)]
    with torch.no_grad():
        models[0].fc2.weight.mul_(1e30)  # the loss is finite at first, and nothing is after the first step
    whole = SETTINGS.model_copy(update={"batch_size": 500})
    histories = train_cohort(models, data, whole, range(N))
    assert [history.diverged for history in histories] == [1, None, None]
    assert [len(history.step_losses) for history in histories] == [1, 2, 2]


def test_a_cohort_is_part_of_what_a_trial_is() -> None:
    assert [trial.seed for trial in make(seed=6, cohort=4).cohort()] == [4, 5, 6, 7]
    assert make(seed=6).cohort() == [make(seed=6)]
    assert "cohort" not in make().settings()["training"]
    assert make(cohort=4).settings()["training"]["cohort"] == 4
    assert len({make(cohort=cohort).key() for cohort in (1, 2, 4)}) == 3


STUDY = compare_signals(
    *("none", "own"),
    seeds=4,
    training={"epochs": 1, "batch_size": 125, "cohort": 2},
    declared=None,
)


def test_a_study_of_cohorts_gives_the_same_bits_in_any_order(tmp_path) -> None:
    results = []
    for jobs in (1, 2):
        store, watcher = Store(tmp_path / str(jobs)), Watched()
        assert runner.run(STUDY, store, jobs=jobs, watcher=watcher) == 8
        assert watcher.seen[-1] == 8
        results.append({trial.key(): store.read(trial) for _, trial in STUDY.trials()})
    assert all(results[0][key].result == results[1][key].result for key in results[0])

    # One that was lost is run again with its cohort, and only it is written.
    lost = STUDY.trial(STUDY.arms[1], 3)
    times = {file: file.stat().st_mtime_ns for file in store.trials.iterdir()}
    store.path(lost).unlink()
    assert runner.run(STUDY, store, jobs=1) == 1
    assert store.read(lost).result == results[0][lost.key()].result == run_trial(lost, Options(threads=1)).result
    assert all(file.stat().st_mtime_ns == times[file] for file in times if file != store.path(lost))
    assert store.weights(lost).is_file()


def test_weights_and_failures_are_kept_for_each_network(tmp_path, monkeypatch) -> None:
    trials = make(seed=2, cohort=2).cohort()
    files = {trial: tmp_path / f"{trial.seed}.safetensors" for trial in trials}
    records = run_cohort(trials, Options(threads=1, weights=files))
    for trial, record in zip(trials, records, strict=True):
        assert record.result["trial"]["seed"] == trial.seed
        assert files[trial].is_file()
        assert record.result["weights"] == run_trial(trial, Options(threads=1)).result["weights"]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(type(NOTEBOOK), "run_together", fail)
    store = Store(tmp_path / "study")
    runner.run(STUDY, store, arms=["none"], jobs=1, watcher=Watched())
    assert all(store.failure(trial).startswith("RuntimeError: no luck") for _, trial in STUDY.trials(["none"]))


def test_what_does_not_go_with_cohorts_is_refused(tmp_path) -> None:
    text = STUDY.model_dump_json(exclude_none=True)
    for old, new, message in (
        ('"seeds":4', '"seeds":5', "seeds: expected a multiple of training.cohort, 2, got 5"),
        ('"signal":"own"', '"signal":"own-gradient"', "arms: 'own' needs gradients through what is heard"),
        ('"cohort":2', '"cohort":0', "expected at least 1"),
    ):
        assert old in text
        with pytest.raises(ValueError, match=message):
            Study.model_validate_json(text.replace(old, new), strict=False)
    with pytest.raises(ValueError, match=r"seeds: expected a multiple of training.cohort, 2, got 3"):
        list(STUDY.trials(seeds=3))
