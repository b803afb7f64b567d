"""Training and evaluation against a loop written the plain way, and on seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import weight_feedback as wf
from helpers.lockstep_training import train
from weight_feedback.lab.data import datasets
from weight_feedback.lab.tasks.intrinsic.training import FeedForward
from weight_feedback.lab.tasks.notebook import lockstep
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation, evaluate
from weight_feedback.lab.tasks.notebook.lockstep import LoggedStep
from weight_feedback.lab.tasks.notebook.networks import build
from weight_feedback.lab.tasks.notebook.settings import Training

SETTINGS = Training(epochs=2, batch_size=96, test_batch_size=32, lr=0.05, momentum=0.5, log_interval=2)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("generated")


def plain_loop(model: torch.nn.Module, data: datasets.Dataset, seed: int) -> tuple[list[float], list[Evaluation]]:
    """The protocol, example by example and parameter by parameter."""
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    losses, evaluations = [], []
    for epoch in (1, 2):
        order = torch.randperm(500, generator=wf.stream(seed, "data order", epoch)).tolist()
        for start in range(0, 500, 96):
            rows = order[start : start + 96]
            images = torch.stack([(data.train_images[i] / 255 - 0.1307) / 0.3081 for i in rows])
            output = model(images)
            loss = -sum(output[j, data.train_labels[i]] for j, i in enumerate(rows)) / len(rows)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
                    velocity[name] = 0.5 * velocity[name] + gradient
                    parameter -= 0.05 * velocity[name]
            losses.append(float(loss.detach()))
        with torch.no_grad():
            output = model((data.test_images / 255 - 0.1307) / 0.3081)
        correct = int((output.argmax(1) == data.test_labels).sum())
        evaluations.append(Evaluation(float(F.nll_loss(output, data.test_labels)), correct, float(correct)))
    return losses, evaluations


@pytest.mark.parametrize("network", ["mnist-plain", "mnist-pooled"])
def test_training_is_the_plain_loop(data, network) -> None:
    history = train(build(network, 3), data, SETTINGS, seed=3)
    losses, evaluations = plain_loop(build(network, 3), data, seed=3)
    assert history.step_losses == pytest.approx(losses, rel=1e-4)
    assert [epoch.loss for epoch in history.epochs] == pytest.approx([e.loss for e in evaluations], rel=1e-4)
    assert [epoch.correct for epoch in history.epochs] == [e.correct for e in evaluations]
    assert [epoch.accuracy for epoch in history.epochs] == [e.accuracy for e in evaluations]


def test_callbacks_see_every_interval_and_epoch(data) -> None:
    steps: list[LoggedStep] = []
    epochs: list[tuple[int, Evaluation]] = []
    history = train(build("mnist-plain", 0), data, SETTINGS, 0, steps.append, lambda *seen: epochs.append(seen))
    assert [(step.epoch, step.seen, step.images) for step in steps] == [
        (epoch, seen, 500) for epoch in (1, 2) for seen in (0, 192, 384)
    ]
    assert [step.loss for step in steps] == history.step_losses[::2]
    assert epochs == list(enumerate(history.epochs, start=1))


def test_time_moves_on_by_one_each_step(data) -> None:
    model = build("mnist-plain", 0)
    clock = wf.Clock(4)
    wf.attach(model, "fc1", signal=clock)
    train(model, data, SETTINGS, seed=0)
    assert int(clock.step) == 2 * 6  # 500 images are five batches of 96 and one of 20


def test_evaluation_counts_every_test_image_once(data) -> None:
    model = build("mnist-pooled", 0)
    whole = evaluate(model, data, batch_size=100)
    for batch_size in (1, 7, 1000):
        parts = evaluate(model, data, batch_size)
        assert parts.correct == whole.correct
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert whole.accuracy == whole.correct
    half = replace(data, test_images=data.test_images[:50], test_labels=data.test_labels[:50])
    assert evaluate(model, half).accuracy == 2 * evaluate(model, half).correct


def test_evaluation_leaves_the_model_as_it_was(data) -> None:
    model = build("mnist-pooled", 0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, data)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_evaluation_is_without_dropout(data) -> None:
    model = FeedForward(build("mnist-plain", 0), torch.nn.Dropout(0.9))
    assert evaluate(model, data) == evaluate(model[0], data)


def test_arms_of_one_seed_share_the_data_order_and_seeds_differ(data) -> None:
    """A signal of zeros is the plain net, so equal losses show equal batches and equal shared weights."""
    plain, silent = build("mnist-plain", 5), build("mnist-plain", 5)
    wf.attach(silent, "fc1", signal=wf.Zeros(26), init="default")
    plain_history, silent_history = train(plain, data, SETTINGS, 5), train(silent, data, SETTINGS, 5)
    assert plain_history.step_losses == silent_history.step_losses
    assert plain_history.epochs == silent_history.epochs
    orders = train(build("mnist-plain", 5), data, SETTINGS, 6)
    assert orders.step_losses != train(build("mnist-plain", 5), data, SETTINGS, 5).step_losses


def test_what_is_heard_is_measured_before_the_first_step_and_after_each_epoch(data) -> None:
    model = build("mnist-projected", 4)
    z0 = model.fc1.signal().detach().double()
    history = train(model, data, SETTINGS, seed=4)
    assert len(history.hearings) == 3
    first, last = history.hearings[0], history.hearings[-1]
    assert (first.norm, first.drift) == (pytest.approx(float(z0.norm())), 0.0)
    z = model.fc1.signal().detach().double()
    assert last.norm == pytest.approx(float(z.norm()), rel=1e-5)
    assert last.drift == pytest.approx(float((z - z0).norm() / z0.norm()), rel=1e-3)
    features = model.features((data.test_images / 255 - 0.1307) / 0.3081).detach().double()
    rest = features @ model.fc1.weight.detach().double().T + model.fc1.bias.detach().double()
    added = (model.fc1.feedback_weight.detach().double() @ z).square().mean().sqrt()
    share = added / (added + rest.square().mean().sqrt())
    assert last.share == pytest.approx(float(share), rel=1e-4)
    assert train(build("mnist-plain", 4), data, SETTINGS, seed=4).hearings == []


def test_measuring_what_is_heard_changes_nothing(data, monkeypatch) -> None:
    seen = train(build("mnist-pooled", 4), data, SETTINGS, seed=4)
    monkeypatch.setattr(lockstep, "hear", lambda *_: [])
    unseen = train(build("mnist-pooled", 4), data, SETTINGS, seed=4)
    assert (seen.step_losses, seen.epochs) == (unseen.step_losses, unseen.epochs)


def test_a_diverged_training_stops_at_the_end_of_its_epoch_and_says_at_which_step(data) -> None:
    model = build("mnist-plain", 0)
    steps: list[LoggedStep] = []
    epochs: list[object] = []
    settings = SETTINGS.model_copy(update={"lr": 1e30, "epochs": 3})
    history = train(model, data, settings, 0, steps.append, lambda *seen: epochs.append(seen))
    # The first loss is finite; the first step makes weights so large that the second isn't.
    assert (history.diverged, len(history.step_losses), history.epochs) == (2, 1, [])
    assert all(map(math.isfinite, history.step_losses))
    assert {step.epoch for step in steps} == {1}
    assert epochs == []
    assert train(build("mnist-plain", 0), data, SETTINGS, seed=0).diverged is None


def test_weights_that_diverge_in_the_last_step_of_an_epoch_are_noticed(data) -> None:
    settings = SETTINGS.model_copy(update={"lr": 1e30, "epochs": 2, "batch_size": 500})
    history = train(build("mnist-plain", 0), data, settings, seed=0)
    assert (history.diverged, len(history.step_losses), history.epochs) == (1, 1, [])


def test_a_signal_too_large_to_be_measured_counts_as_diverged(data) -> None:
    model = build("mnist-plain", 0)
    wf.attach(model, "fc1", signal=wf.Received(4))
    model.fc1.feedback_weight.requires_grad_(False)  # V stays 0: the loss doesn't notice

    def shout(step: LoggedStep) -> None:
        if step.epoch == 2:
            model.fc1.signal.receive(torch.full((4,), 1e30))

    history = train(model, data, SETTINGS.model_copy(update={"epochs": 3}), seed=0, on_log=shout)
    assert (history.diverged, len(history.step_losses)) == (12, 12)
    assert (len(history.epochs), len(history.hearings)) == (1, 2)
