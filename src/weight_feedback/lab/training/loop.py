"""The training loop, as the original notebook did it, of one network or of many in lockstep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from weight_feedback.lab.data.datasets import Dataset
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation, Hearing, evaluate_all, hear, heard
from weight_feedback.lab.tasks.notebook.graphs import Recorder, Replayed, recorder_for
from weight_feedback.lab.tasks.notebook.lockstep import Learner
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Training


@dataclass(frozen=True)
class Progress:
    """Where training stands, for those who watch.

    Attributes:
        epoch: from 1.
        seen: images seen in this epoch.
        images: images in an epoch.
        loss: of the last batch.
    """

    epoch: int
    seen: int
    images: int
    loss: float


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


@dataclass(frozen=True)
class Donor:
    """The uncounted network of a yoked trial, trained in lockstep with the counted one.

    Attributes:
        model: the network; it has feedback of its own weights.
        seed: of its data order.
        tell: writes what the counted network hears of the donor's present weights; None in a subspace, where it
            hears the donor's coordinates.
    """

    model: ConvNet
    seed: int
    tell: Callable[[], None] | None = None


def train(
    model: ConvNet,
    data: Dataset,
    settings: Training,
    seed: int,
    on_log: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    donor: Donor | None = None,
) -> History:
    """Train a classifier in place.

    Args:
        model: returns log-probabilities ``[n, classes]``; its device is the device of training.
        data: training and test set, on the same device.
        settings: of the optimiser and the batches.
        seed: of the data order, which depends on it and the epoch alone.
        on_log: called every ``settings.log_interval`` steps, beginning with the first.
        on_epoch: called after each epoch with its number, from 1, and the evaluation.
        donor: a network that takes the same number of steps on the same data, in an order of its own, and tells
            of its weights before each step and each evaluation of ``model``.

    Returns:
        The losses and evaluations of ``model``, and what it heard.
    """
    donors = [donor] if donor else []
    return train_cohort([model], data, settings, [seed], on_epoch, donors, on_log)[0]


def train_cohort(
    models: Sequence[ConvNet],
    data: Dataset,
    settings: Training,
    seeds: Sequence[int],
    on_epoch: Callable[[int, Evaluation], None] | None = None,
    donors: Sequence[Donor] = (),
    on_log: Callable[[Progress], None] | None = None,
) -> list[History]:
    """Train classifiers of one arm in place and at once; several as a `Cohort`, a single one plainly.

    Args:
        models: of one architecture and one kind of signal.
        data: training and test set, on the models' device.
        settings: of the optimiser and the batches.
        seeds: of the data order, one a model.
        on_epoch: called after each epoch with its number and the evaluation of the first model that hasn't
            diverged.
        donors: one for each of the models; see `train`.
        on_log: see `train`; it is told of the first model.

    Returns:
        What `train` returns for each of them.
    """
    recorder = recorder_for(data.train_labels.device)
    return Lockstep(models, data, settings, seeds, donors, recorder).train(on_epoch, on_log)


class Lockstep:
    """Networks in training, their donors if they have any, and how far they are.

    Args:
        models: see `train_cohort`, here and below.
        data: training and test set.
        settings: of the optimiser and the batches.
        seeds: of the data order.
        donors: one for each of the models, or none.
        recorder: records a step of all networks, which is replayed from then on; None: each step is taken plainly.

    Attributes:
        epoch: how many are finished.
        histories: what training has left behind so far, one a model.
    """

    def __init__(
        self,
        models: Sequence[ConvNet],
        data: Dataset,
        settings: Training,
        seeds: Sequence[int],
        donors: Sequence[Donor] = (),
        recorder: Recorder | None = None,
    ) -> None:
        self.epoch = 0
        self.histories = [History() for _ in models]
        self._data, self._settings, self._donors = data, settings, donors
        self._learners = {"network": Learner(models, data, settings, seeds)}
        if donors:
            others, their_seeds = [donor.model for donor in donors], [donor.seed for donor in donors]
            self._learners["donor"] = Learner(others, data, settings, their_seeds)
        self._step: Callable[[Tensor], Tensor] = self._take_step
        if recorder:
            shape, device = (len(self._learners), len(models), settings.batch_size), data.train_labels.device
            self._step = Replayed(self._take_step, recorder, torch.empty(shape, dtype=torch.int64, device=device))
        self._tell()
        self._starts = [heard(model) for model in models]

    def train(
        self,
        on_epoch: Callable[[int, Evaluation], None] | None = None,
        on_log: Callable[[Progress], None] | None = None,
        keep: Callable[[], None] | None = None,
    ) -> list[History]:
        """Train what is left of all epochs, or until every model has diverged.

        Args:
            on_epoch: see `train_cohort`.
            on_log: see `train_cohort`.
            keep: called after each epoch, before ``on_epoch``, when all that there is to keep is in `tensors`,
                ``epoch`` and ``histories``.

        Returns:
            The histories.
        """
        if self.epoch == 0:
            for i, history in enumerate(self.histories):
                history.hearings += self._hear(i)
        while self.epoch < self._settings.epochs and any(history.diverged is None for history in self.histories):
            losses = self._steps(on_log)
            self.epoch += 1
            evaluations = evaluate_all(self._learners["network"].model, self._data, self._settings.test_batch_size)
            for i, (step_losses, result) in enumerate(zip(losses, evaluations, strict=True)):
                self._write_down(i, step_losses, result)
            if keep:
                keep()
            live = [result for result, h in zip(evaluations, self.histories, strict=True) if h.diverged is None]
            if on_epoch and live:
                on_epoch(self.epoch, live[0])
        return self.histories

    def _steps(self, on_log: Callable[[Progress], None] | None) -> list[list[float]]:
        """Train for an epoch."""
        epoch, labels, learners = self.epoch + 1, self._data.train_labels, self._learners.values()
        orders = torch.stack([learner.order(epoch) for learner in learners]).to(labels.device)
        batches = orders.split(self._settings.batch_size, dim=2)
        for learner in learners:
            learner.precompute(len(batches))
        losses: list[Tensor] = []
        for i, batch in enumerate(batches):
            losses.append(self._step(batch))  # no .item(), which would wait for the device at every step
            if on_log and i % self._settings.log_interval == 0:
                on_log(Progress(epoch, i * self._settings.batch_size, len(labels), float(losses[-1][0])))
        for learner in learners:
            learner.precompute(0)
        return torch.stack(losses, dim=1).tolist()

    def _take_step(self, batches: Tensor) -> Tensor:
        """Take a step: the models, then their donors, which tell of it.

        Args:
            batches: indices of images, shape ``[1 or 2, n, batch]``: those of the models, those of the donors.

        Returns:
            The losses of the models, shape ``[n]``.
        """
        losses, *_ = [learner.step(batch) for learner, batch in zip(self._learners.values(), batches, strict=True)]
        self._tell()
        return losses

    def _tell(self) -> None:
        for donor in self._donors:
            if donor.tell:
                donor.tell()
        spoken = self._learners.get("donor", self._learners["network"]).confined
        for learner in self._learners.values():
            if learner.confined and spoken:
                learner.confined.hear(spoken)

    def _hear(self, i: int) -> list[Hearing]:
        return hear(self._learners["network"].networks[i], self._data, self._starts[i])

    def _write_down(self, i: int, step_losses: list[float], result: Evaluation) -> None:
        """Add an epoch to a history, unless training had diverged before it."""
        history = self.histories[i]
        if history.diverged is not None:
            return
        hearings = self._hear(i)
        finite = list(itertools.takewhile(math.isfinite, step_losses))
        history.step_losses.extend(finite)
        measured = [result.loss, *(value for hearing in hearings for value in astuple(hearing))]
        if len(finite) < len(step_losses) or not all(map(math.isfinite, measured)):
            # After a last step that was finite, the weights may be finite no more, or too large to be measured.
            history.diverged = min(len(history.step_losses) + 1, self.epoch * len(step_losses))
        else:
            history.epochs.append(result)
            history.hearings += hearings

    def tensors(self) -> dict[str, Tensor]:
        """Return, by name, all tensors that further training depends on: live ones, not copies.

        Seeds, and what is drawn from them, aren't among them: whoever builds the networks gives them.
        """
        starts = {f"network.{i}.start": z for i, z in enumerate(self._starts) if z is not None}
        return starts | {
            f"{who}.{name}": tensor
            for who, learner in self._learners.items()
            for name, tensor in learner.tensors().items()
        }

    def restore(self, epoch: int, histories: Sequence[History], tensors: Mapping[str, Tensor]) -> None:
        """Go to where training was after an epoch; training goes on from there to the same bits.

        Args:
            epoch: how many were finished then.
            histories: as they were then, one a model.
            tensors: what `tensors` returned then, of networks that were built alike.

        Raises:
            ValueError: that can't have been; nothing is changed.
        """
        own = self.tensors()
        for name in {**own, **tensors}:
            expected, found = (_kind(named.get(name)) for named in (own, tensors))
            if expected != found:
                raise ValueError(f"{name}: expected {expected}, found {found}")
        self._check_histories(epoch, histories)
        for i, history in enumerate(histories):
            for name in (name for name in own if name.split(".")[1] == str(i) and ".signal." not in name):
                if history.diverged is None and tensors[name].isnan().any():
                    raise ValueError(f"{name}: expected numbers, found NaN in training that hasn't diverged")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.epoch, self.histories = epoch, list(histories)

    def _check_histories(self, epoch: int, histories: Sequence[History]) -> None:
        if not 1 <= epoch <= self._settings.epochs or len(histories) != len(self.histories):
            raise ValueError(
                f"expected {len(self.histories)} histories of 1 to {self._settings.epochs} epochs, "
                f"found {len(histories)} of {epoch}"
            )
        steps = self._settings.epoch_steps(len(self._data.train_labels))
        for i, (history, start) in enumerate(zip(histories, self._starts, strict=True)):
            _check_history(f"history {i}", history, epoch, steps, start is not None)


def _check_history(name: str, history: History, epochs: int, steps: int, hears: bool) -> None:
    """Check that there is as much in a history as there must be after so many epochs of so many steps."""
    last, possible = epochs * steps, {epochs * steps}
    if history.diverged is not None:
        if not 1 <= history.diverged <= last:
            raise ValueError(
                f"{name}: expected a step from 1 to {last} at which it diverged, found {history.diverged}"
            )
        # The loss of that step is kept if it is finite, and what came of the step isn't.
        epochs, possible = (history.diverged - 1) // steps, {history.diverged - 1, history.diverged}
    expected = epochs, epochs + 1 if hears else 0
    losses, found = len(history.step_losses), (len(history.epochs), len(history.hearings))
    if losses not in possible or found != expected:
        raise ValueError(
            f"{name}: expected {max(possible)} losses and {expected} evaluations and hearings, found {losses} and "
            f"{found}"
        )


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
