"""Training the networks of one cohort: build them, train them epoch by epoch, and say what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from safetensors.torch import save

from weight_feedback.files import write_atomically
from weight_feedback.lab.data import datasets
from weight_feedback.lab.tasks.base import Context
from weight_feedback.lab.tasks.fields import weights_digest
from weight_feedback.lab.tasks.notebook.building import build_cohort
from weight_feedback.lab.tasks.notebook.graphs import recorder_for
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import count_parameters


def train(trials: Sequence[Context]) -> None:
    """Train the networks of one cohort.

    Args:
        trials: their contexts, in the order of the cohort.
    """
    first = trials[0]
    settings, device = first.settings, first.device
    data = datasets.load(settings.data, first.data_dir)
    epoch_steps = settings.training.epoch_steps(len(data.train_labels))
    models, donors = build_cohort([trial.settings for trial in trials], epoch_steps, device)
    seeds = [trial.seed for trial in trials]
    lockstep = Lockstep(models, data.to(device), settings.training, seeds, donors, recorder_for(device))
    for _ in first.epochs_of(settings.training.epochs, lockstep):
        if lockstep.finished:  # all have diverged
            break
        evaluation = lockstep.train_epoch(first.log)
        if evaluation:
            first.report(accuracy=evaluation.accuracy, loss=evaluation.loss)
    for trial, model, history in zip(trials, models, lockstep.histories, strict=True):
        subspace = settings.training.subspace
        trial.keep("parameters", subspace.dimensions if subspace else count_parameters(model))
        trial.keep("classes", model.fc2.out_features)
        for name, value in asdict(history).items():
            trial.keep(name, value)
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        trial.keep("weights", weights_digest({name: value.cpu().numpy() for name, value in state.items()}))
        if trial.weights is not None:
            header = {"network": trial.settings.model, "data": settings.data, "seed": str(trial.seed)}
            write_atomically(trial.weights, save(state, header))
