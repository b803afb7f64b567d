"""What training leaves behind: losses, evaluations, and what was heard."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from weight_feedback.lab.tasks.notebook.evaluation import Evaluation, Hearing


@dataclass
class History:
    """What training leaves behind.

    Attributes:
        step_losses: training loss of every step, in order, up to the last finite one.
        epochs: the evaluation after each epoch that was finished.
        hearings: what fc1 hears before the first step and after each finished epoch; empty without feedback.
        diverged: the first step, from 1, whose loss isn't finite, or after which the evaluation isn't; training
            stops at the end of its epoch. None: there was none.
    """

    step_losses: list[float] = field(default_factory=list)
    epochs: list[Evaluation] = field(default_factory=list)
    hearings: list[Hearing] = field(default_factory=list)
    diverged: int | None = None

    def add(self, step_losses: Sequence[float], result: Evaluation, hearings: Sequence[Hearing]) -> None:
        """Add an epoch of training that hadn't diverged before it.

        Args:
            step_losses: of each of its steps.
            result: the evaluation after it.
            hearings: what is heard after it.
        """
        steps_before = len(self.step_losses)
        finite = list(itertools.takewhile(math.isfinite, step_losses))
        self.step_losses.extend(finite)
        measured = [result.loss, *(value for hearing in hearings for value in astuple(hearing))]
        if len(finite) < len(step_losses) or not all(map(math.isfinite, measured)):
            # After a last step that was finite, the weights may be finite no more, or too large to be measured.
            self.diverged = min(len(self.step_losses) + 1, steps_before + len(step_losses))
        else:
            self.epochs.append(result)
            self.hearings += hearings

    def check(self, name: str, epochs: int, steps: int, hears: bool) -> None:
        """Check that there is as much here as there must be after some epochs.

        Args:
            name: of this history, for errors.
            epochs: how many.
            steps: of each epoch.
            hears: whether the network has feedback.

        Raises:
            ValueError: there is more or less.
        """
        last, possible = epochs * steps, {epochs * steps}
        if self.diverged is not None:
            if not 1 <= self.diverged <= last:
                raise ValueError(
                    f"{name}: expected a step from 1 to {last} at which it diverged, found {self.diverged}"
                )
            # The loss of that step is kept if it is finite, and what came of the step isn't.
            epochs, possible = (self.diverged - 1) // steps, {self.diverged - 1, self.diverged}
        expected = epochs, epochs + 1 if hears else 0
        losses, found = len(self.step_losses), (len(self.epochs), len(self.hearings))
        if losses not in possible or found != expected:
            raise ValueError(
                f"{name}: expected {max(possible)} losses and {expected} evaluations and hearings, found {losses} "
                f"and {found}"
            )
