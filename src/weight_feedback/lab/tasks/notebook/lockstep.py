"""Networks in training: one, or several in lockstep as a cohort, and the donors that yoked ones hear.

A step reads from top to bottom: `Lockstep.train_epoch` takes an epoch's batches to `_take_step`, which lets each
`Learner` take its `Learner.step`, and tells the networks what they hear next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from weight_feedback.attach import advance, precompute
from weight_feedback.lab.data.datasets import Dataset, normalise
from weight_feedback.lab.tasks.fields import Frozen, explain
from weight_feedback.lab.tasks.notebook.cohorts import as_one
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation, Hearing, evaluate_all, hear, heard
from weight_feedback.lab.tasks.notebook.graphs import Recorder, Replayed
from weight_feedback.lab.tasks.notebook.history import History
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.tasks.notebook.subspace import Confined
from weight_feedback.lab.tasks.optimisers import SGD
from weight_feedback.streams import stream

_HISTORIES = TypeAdapter(list[History], config=Frozen.model_config)


@dataclass(frozen=True)
class LoggedStep:
    """A training step, for a log.

    Attributes:
        epoch: from 1.
        seen: images seen in this epoch.
        images: images in an epoch.
        loss: of its batch, before the step.
    """

    epoch: int
    seen: int
    images: int
    loss: float


class Learner:
    """One network, or several as a cohort, with the optimiser and the data orders that train it.

    Args:
        networks: of one architecture and one kind of signal; they are trained in place.
        data: with the training set, on the networks' device.
        settings: of the optimiser and the batches.
        seeds: of the data order, one a network.

    Attributes:
        networks: as given.
        model: the network, or the cohort.
        confined: the subspace that the network is confined to; None: there is none.
    """

    def __init__(
        self, networks: Sequence[ConvNet], data: Dataset, settings: Training, seeds: Sequence[int]
    ) -> None:
        self.networks, self.model = networks, as_one(networks)
        self._data, self._seeds = data, seeds
        self.confined = Confined(networks[0], settings.subspace, seeds[0]) if settings.subspace else None
        self._trained = dict(self.model.named_parameters())
        if self.confined:
            self._trained = {"coordinates": self.confined.coordinates}
        self._optimiser = SGD(self._trained.values(), settings.lr, settings.momentum)

    def order(self, epoch: int) -> Tensor:
        """Return the order in which the networks see the images in an epoch.

        Args:
            epoch: from 1.

        Returns:
            Indices, shape ``[n, images]``, on the CPU.
        """
        images = len(self._data.train_labels)
        return torch.stack(
            [
                torch.randperm(images, generator=stream(seed, "data order", epoch), device="cpu")
                for seed in self._seeds
            ]
        )

    def precompute(self, steps: int) -> None:
        """Make ready for so many steps; see `weight_feedback.precompute`.

        Args:
            steps: how many; 0 when they are done.
        """
        for network in self.networks:
            precompute(network, steps)

    def step(self, batch: Tensor) -> Tensor:
        """Train for a step. It never waits for the device, and sends nothing to it.

        Args:
            batch: indices of images, shape ``[n, batch]``, on the networks' device.

        Returns:
            The losses before the step, shape ``[n]``.
        """
        data = self._data
        self.model.train()
        x = normalise(data.train_images[batch.flatten()], data.mean, data.std).unflatten(0, batch.shape)
        _, losses = self.model.classify(x, data.train_labels[batch], "mean")
        # To None: so the backward pass of a step that is recorded makes gradients that belong to the recording.
        self.model.zero_grad(set_to_none=True)
        losses.sum().backward()
        if self.confined:
            self.confined.collect()
        self._optimiser.step()
        if self.confined:
            self.confined.move()
        for network in self.networks:
            advance(network)
        return losses.detach()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, coordinates, momentum and the buffers of signals; of a cohort, each network's part."""
        tensors = {
            f"{i}.{name}": value
            for i, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
            if not name.endswith("_extra_state")  # a seed
        }
        if self.confined:
            tensors["0.coordinates"] = self.confined.coordinates.detach()
        for name, parameter in self._trained.items():
            parts = self.model.parts(self._optimiser.momenta[parameter])
            tensors |= {f"{i}.momentum_buffer.{name}": part for i, part in enumerate(parts)}
        return tensors


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


class Lockstep:
    """Networks in training, their donors if they have any, and how far they are.

    Args:
        models: of one architecture and one kind of signal; several are trained as a `Cohort`. Each returns
            log-probabilities ``[n, classes]``, and is trained in place.
        data: training and test set, on the models' device.
        settings: of the optimiser and the batches.
        seeds: of the data order, one a model.
        donors: one for each of the models, or none. A donor takes the same number of steps on the same data, in an
            order of its own, and tells of its weights before each step and each evaluation of its model.
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

    @property
    def finished(self) -> bool:
        """Whether all epochs are, or every model has diverged."""
        return self.epoch == self._settings.epochs or all(one.diverged is not None for one in self.histories)

    def train_epoch(self, on_log: Callable[[LoggedStep], None] | None = None) -> Evaluation | None:
        """Train all networks for an epoch, evaluate the models, and add both to their histories.

        Args:
            on_log: called every ``settings.log_interval`` steps, beginning with the first, with the step of the
                first model.

        Returns:
            The evaluation of the first model that hasn't diverged; None if all have.
        """
        if self.epoch == 0:
            for i, history in enumerate(self.histories):
                history.hearings += self._hear(i)
        losses = self._take_steps(on_log)
        self.epoch += 1
        evaluations = evaluate_all(self._learners["network"].model, self._data, self._settings.test_batch_size)
        for i, history in enumerate(self.histories):
            if history.diverged is None:
                history.add(losses[i], evaluations[i], self._hear(i))
        live = [one for one, history in zip(evaluations, self.histories, strict=True) if history.diverged is None]
        return live[0] if live else None

    def _take_steps(self, on_log: Callable[[LoggedStep], None] | None) -> list[list[float]]:
        """Take the steps of an epoch; return their losses, one list a model."""
        epoch, labels, learners = self.epoch + 1, self._data.train_labels, self._learners.values()
        orders = torch.stack([learner.order(epoch) for learner in learners]).to(labels.device)
        batches = orders.split(self._settings.batch_size, dim=2)
        for learner in learners:
            learner.precompute(len(batches))
        losses: list[Tensor] = []
        for i, batch in enumerate(batches):
            losses.append(self._step(batch))  # no .item(), which would wait for the device at every step
            if on_log and i % self._settings.log_interval == 0:
                on_log(LoggedStep(epoch, i * self._settings.batch_size, len(labels), float(losses[-1][0])))
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
        losses = [learner.step(batch) for learner, batch in zip(self._learners.values(), batches, strict=True)]
        self._tell()
        return losses[0]

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

    def state(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return what further training depends on: histories as plain values; tensors, losses among them."""
        plain = [asdict(history) for history in self.histories]
        losses = {
            _losses(i): torch.tensor(one.pop("step_losses"), dtype=torch.float64) for i, one in enumerate(plain)
        }
        return plain, self.tensors() | losses

    def tensors(self) -> dict[str, Tensor]:
        """Return, by name, all tensors that further training depends on: live ones, not copies.

        Seeds, and what is drawn from them, aren't among them: they come with the networks.
        """
        starts = {f"network.{i}.start": z for i, z in enumerate(self._starts) if z is not None}
        return starts | {
            f"{who}.{name}": tensor
            for who, learner in self._learners.items()
            for name, tensor in learner.tensors().items()
        }

    def restore(self, epoch: int, plain: Any, tensors: dict[str, Tensor]) -> None:
        """Go to where training was after an epoch; training goes on from there to the same bits.

        Args:
            epoch: how many were finished then.
            plain: the histories, as `state` returned them then, of networks that were built alike.
            tensors: likewise.

        Raises:
            ValueError: that can't have been; nothing is changed.
        """
        histories, tensors = _as_histories(plain, dict(tensors))
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
            history.check(f"history {i}", epoch, steps, start is not None)


def _losses(i: int) -> str:
    return f"network.{i}.losses"


def _as_histories(plain: Any, tensors: dict[str, Tensor]) -> tuple[list[History], dict[str, Tensor]]:
    """Return histories with their losses, and the other tensors."""
    try:
        histories = _HISTORIES.validate_json(json.dumps(plain))
    except ValidationError as error:
        raise ValueError(f"histories: {explain(error).splitlines()[0]}") from None
    for i, history in enumerate(histories):
        losses = tensors.pop(_losses(i), None)
        if losses is None or losses.dtype != torch.float64 or losses.dim() != 1 or not losses.isfinite().all():
            raise ValueError(
                f"{_losses(i)}: expected a vector of finite numbers in torch.float64, found {losses!r}"
            )
        history.step_losses = losses.tolist()
    return histories, tensors


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
