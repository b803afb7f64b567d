"""The loop over epochs: what is trained in them is the task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Trainable(Protocol):
    """What is trained epoch by epoch."""

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""

    def train_epoch(self, on_log: Callable[[Any], None] | None = None) -> Any:
        """Train for an epoch.

        Args:
            on_log: called now and then within the epoch.

        Returns:
            The evaluation after it; None if there is none to show.
        """


def train(
    trainable: Trainable,
    on_epoch: Callable[[int, Any], None] | None = None,
    on_log: Callable[[Any], None] | None = None,
    keep: Callable[[], None] | None = None,
) -> None:
    """Train what is left of all epochs.

    Args:
        trainable: what to train.
        on_epoch: called after each epoch with its number, from 1, and its evaluation, if there is one.
        on_log: see `Trainable.train_epoch`.
        keep: called after each epoch, before ``on_epoch``, to keep how far training is.
    """
    while not trainable.finished:
        evaluation = trainable.train_epoch(on_log)
        if keep:
            keep()
        if on_epoch and evaluation is not None:
            on_epoch(trainable.epoch, evaluation)
