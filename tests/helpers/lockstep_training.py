"""Training networks from start to end, as `training.run` does it with a trial's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weight_feedback.lab.data.datasets import Dataset
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation
from weight_feedback.lab.tasks.notebook.graphs import recorder_for
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.lockstep import Donor, Lockstep, LoggedStep
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Training


def train(
    model: ConvNet,
    data: Dataset,
    settings: Training,
    seed: int,
    on_log: Callable[[LoggedStep], None] | None = None,
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    donor: Donor | None = None,
) -> History:
    """Train a network in place; return what that leaves behind."""
    return train_cohort([model], data, settings, [seed], on_epoch, [donor] if donor else [], on_log)[0]


def train_cohort(
    models: Sequence[ConvNet],
    data: Dataset,
    settings: Training,
    seeds: Sequence[int],
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    donors: Sequence[Donor] = (),
    on_log: Callable[[LoggedStep], None] | None = None,
) -> list[History]:
    """Train networks of one arm in place and at once; return what that leaves behind of each."""
    lockstep = Lockstep(models, data, settings, seeds, donors, recorder_for(data.train_labels.device))
    return trained(lockstep, on_epoch, on_log)


def trained(
    lockstep: Lockstep,
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    on_log: Callable[[LoggedStep], None] | None = None,
) -> list[History]:
    """Train what is left; return what all of it leaves behind."""
    while not lockstep.finished:
        evaluation = lockstep.train_epoch(on_log)
        if on_epoch and evaluation:
            on_epoch(lockstep.epoch, evaluation)
    return lockstep.histories
