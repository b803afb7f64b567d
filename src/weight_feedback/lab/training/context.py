"""What a task is given of one trial: settings, streams, epochs that can be resumed, and where to report."""

from __future__ import annotations

import hashlib
import json
import math
import random
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from weight_feedback.lab.tasks.base import Measured, Resumable, Trial
from weight_feedback.lab.training import states
from weight_feedback.lab.training.checkpoints import Checkpointer
from weight_feedback.streams import stream

# What the state of a trial's training as a whole is made of.
_KINDS = {
    "curves": dict,
    "diagnostics": dict,
    "diverged": str,
    "kept": dict,
    "examples": list,
    "handed out": dict,
    "states": dict,
}
#: Numbers that a trial may keep under one name, or examples.
MOST_KEPT = 1_000_000


class EnoughError(BaseException):
    """A trial is left before its end; no fault, so that no task's own handler takes it for one."""


class TrialContext:
    """The context of one trial; see `weight_feedback.lab.tasks.base.Context`.

    Args:
        trial: the trial.
        settings: of its task, checked and filled in.
        device: where to train.
        data_dir: where data files are looked for.
        weights: where to write the final weights; None: nowhere.
        checkpointer: keeps how far training is.
        metrics: names of the metrics that may be reported.
        on_epoch: called after each epoch with its number and what was reported in it.
        on_log: called with what the task says within an epoch.
        scratch: where the trial's own folder is made; default: the system's place for what is temporary.
        stop_after: the epoch after which the trial is left, by `EnoughError`; default: none.
    """

    def __init__(
        self,
        trial: Trial,
        settings: Any,
        device: torch.device,
        data_dir: Path | None,
        weights: Path | None,
        checkpointer: Checkpointer,
        metrics: Collection[str],
        on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
        on_log: Callable[[Any], None] | None = None,
        scratch: Path | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.trial, self.settings, self.seed = trial, settings, trial.seed
        self.device, self.data_dir, self.weights = device, data_dir, weights
        self.kept: dict[str, Any] = {}
        self._checkpointer, self._metrics = checkpointer, metrics
        self._on_epoch, self._on_log = on_epoch, on_log
        self._scratch, self._stop_after = scratch, stop_after
        self._training: Resumable | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._examples: list[float] = []
        self._reported: dict[str, float] = {}
        self._epochs = self._now = 0
        self._curves: dict[str, list[float | None]] = {}
        self._diagnostics: dict[str, list[float]] = {}
        self._diverged = ""
        self._streams: dict[str, torch.Generator] = {}
        self._rngs: dict[str, np.random.Generator] = {}
        # States of streams that a checkpoint knows and nobody has asked for yet.
        self._waiting: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        """See `Context`."""
        if self._folder is None:
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix="trial-", dir=self._scratch)
        return Path(self._folder.name)

    def clear(self) -> None:
        """Remove the trial's own folder, if it was asked for."""
        if self._folder is not None:
            self._folder.cleanup()

    def stream(self, *names: str | int) -> torch.Generator:
        """See `Context`."""
        name = _purpose(names)
        if name not in self._streams:
            self._streams[name] = stream(self.seed, *names)
            if (state := self._waiting.pop(f"stream {name}", None)) is not None:
                self._streams[name].set_state(state)
        return self._streams[name]

    def rng(self, *names: str | int) -> np.random.Generator:
        """See `Context`."""
        name = _purpose(names)
        if name not in self._rngs:
            drawn = torch.randint(2**62, (), generator=stream(self.seed, *names), device="cpu")
            self._rngs[name] = np.random.default_rng(int(drawn))
            if (state := self._waiting.pop(f"rng {name}", None)) is not None:
                self._rngs[name].bit_generator.state = state
        return self._rngs[name]

    def epochs(self, n: int, **stateful: Any) -> Iterator[int]:
        """See `Context`."""
        for name, value in stateful.items():
            if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
                raise TypeError(
                    f"trial.epochs: {name}: expected an object with state_dict() and load_state_dict(), got "
                    f"{type(value).__name__}"
                )
        whole = _Whole(self, stateful)
        whole.state()  # what can't be kept is said now, and not after a minute
        return self._epochs_of(n, whole, seeded=True)

    def epochs_of(self, n: int, training: Resumable) -> Iterator[int]:
        """See `Context`."""
        return self._epochs_of(n, training, seeded=False)

    def _epochs_of(self, n: int, training: Resumable, *, seeded: bool) -> Iterator[int]:
        if self._epochs:
            raise RuntimeError("trial.epochs: expected one loop over epochs in a trial, got a second one")
        if n < 1:
            raise ValueError(f"trial.epochs: expected at least 1, got {n}")
        self._training = training
        self._epochs, self._now = n, self._checkpointer.resume(training)
        for epoch in range(self._now + 1, n + 1):
            if seeded:
                seed_everything(self.seed, epoch)
            self._now, self._reported = epoch, {}
            yield epoch
            # After the last one a task may go on with what is within its loop, which must be run for that.
            if not seeded or epoch < n:
                self._checkpointer.keep(training, epoch)
            if self._on_epoch:
                self._on_epoch(epoch, self._reported)
            if epoch == self._stop_after:
                raise EnoughError

    def report(self, **metrics: SupportsFloat) -> None:
        """See `Context`."""
        self._check_names(metrics)
        values = {name: _number(name, value) for name, value in metrics.items()}
        self._reported |= values
        if self._diverged:
            return
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            epoch = self._now or 1 + max(len(self._curves.get(name, ())) for name in wrong)
            self._diverged = f"epoch {epoch}, where {wrong[0]} is {values[wrong[0]]}"
            return
        for name, value in values.items():
            self._add(name, value)

    def _add(self, name: str, value: float) -> None:
        """Add a point to a curve: that of the present epoch, of which the last value counts."""
        curve = self._curves.setdefault(name, [])
        index = self._now - 1 if self._epochs else len(curve)
        curve += [None] * (index + 1 - len(curve))
        curve[index] = value

    def diagnose(self, **diagnostics: SupportsFloat) -> None:
        """See `Context`."""
        for name, value in diagnostics.items():
            self._diagnostics.setdefault(name, []).append(_number(name, value))

    def keep(self, name: str, value: Any) -> None:
        """See `Context`."""
        if isinstance(value, Tensor | np.ndarray | np.generic):
            if (size := math.prod(value.shape)) > MOST_KEPT:
                raise ValueError(f"trial.keep: {name}: expected at most {MOST_KEPT:,} numbers, got {size:,}")
            value = value.tolist()
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"trial.keep: {name}: expected what JSON can hold, but: {error}") from None
        self.kept[name] = value

    def examples(self, values: Any) -> None:
        """See `Context`."""
        listed = np.asarray(values.tolist() if isinstance(values, Tensor) else values)
        if listed.ndim != 1 or listed.dtype.kind not in "biuf" or not 0 < listed.size <= MOST_KEPT:
            raise ValueError(
                f"trial.examples: expected one number an example, 1 to {MOST_KEPT:,} of them, got "
                f"{listed.dtype} of shape {list(listed.shape)}"
            )
        if not np.isfinite(listed).all():
            raise ValueError("trial.examples: expected finite numbers, got some that aren't")
        self._examples = (listed.astype(int) if listed.dtype.kind == "b" else listed).tolist()

    def log(self, line: Any) -> None:
        """See `Context`."""
        if self._on_log:
            self._on_log(line)

    def so_far(self) -> Rehearsal:
        """Return what can be compared of a trial that was left."""
        plain, tensors = self._training.state() if self._training else (None, {})
        handed_out = {
            **{f"stream {name}": value.get_state() for name, value in self._streams.items()},
            **{f"rng {name}": value.bit_generator.state for name, value in self._rngs.items()},
        }
        stateful = self._training.stateful if isinstance(self._training, _Whole) else {}
        trained = {name: value.state_dict() for name, value in stateful.items()}
        return Rehearsal(
            curves=deepcopy(self._curves),
            kept=digest_of([self.kept, self._examples, self._diagnostics]),
            diverged=self._diverged,
            epochs=self._epochs,
            state=digest_of(plain, tensors),
            trained=digest_of(*states.flatten(trained)) if trained else "",
            streams={name: digest_of(*states.flatten(state)) for name, state in handed_out.items()},
            parameters=_parameters(self._training),
        )

    def finish(self, returned: Mapping[str, float] | None) -> Measured:
        """Return what came out.

        Args:
            returned: by the task: final values of metrics.

        Raises:
            TypeError: it isn't metrics by name.
            ValueError: nothing was reported, or something that isn't a metric.
        """
        if returned is not None and not isinstance(returned, Mapping):
            raise TypeError(f"expected the task to return metrics by name, got {type(returned).__name__}")
        for name, value in (returned or {}).items():
            if self._diverged:
                break
            if math.isfinite(final := _number(name, value)):
                self._check_names([name])
                if not self._epochs:
                    del self._curves.get(name, [])[-1:]
                self._add(name, final)
            else:
                self.report(**{name: value})
        if not (self._curves or self._diverged or self.kept):
            raise ValueError(f"expected the task to report metrics ({', '.join(self._metrics)}), got none")
        return Measured(
            curves=self._curves,
            epochs=max([self._epochs, 1, *map(len, self._curves.values())]),
            diverged=self._diverged,
            diagnostics=self._diagnostics,
            examples=self._examples,
        )

    def _check_names(self, names: Collection[str]) -> None:
        for name in names:
            if name not in self._metrics:
                raise ValueError(
                    f"expected metrics among {', '.join(self._metrics)}, as the study names them, got {name!r}"
                )


@dataclass(frozen=True)
class Rehearsal:
    """What can be compared of a trial that was left after some epochs.

    Attributes:
        curves: of metrics, so far.
        kept: digest of what else lies with a result.
        diverged: see `Measured`.
        epochs: that the trial would have had; 0 for one without a loop, which went to its end.
        state: digest of what further training depends on.
        trained: digest of what was named in the loop, without streams; empty if nothing was.
        streams: of PyTorch and NumPy that were asked for, each with a digest of its state.
        parameters: that are trained, of what was named in the loop; None if nothing was.
    """

    curves: Mapping[str, Sequence[float | None]]
    kept: str
    diverged: str
    epochs: int
    state: str
    trained: str
    streams: Mapping[str, str]
    parameters: int | None


def digest_of(plain: Any, tensors: Mapping[str, Tensor] = {}) -> str:
    """Return a digest of plain values and tensors, bit for bit.

    Args:
        plain: what JSON can hold.
        tensors: by name, on the CPU.
    """
    found = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _parameters(training: Resumable | None) -> int | None:
    if not isinstance(training, _Whole):
        return None
    modules = [value for value in training.stateful.values() if isinstance(value, torch.nn.Module)]
    trained = {id(p): p.numel() for module in modules for p in module.parameters() if p.requires_grad}
    return sum(trained.values()) if modules else None


class _Whole:
    """A trial's training as a whole: what the task changes, and what its context has handed out."""

    def __init__(self, context: TrialContext, stateful: Mapping[str, Any]) -> None:
        self._context, self.stateful = context, stateful

    def state(self) -> tuple[Any, Mapping[str, Tensor]]:
        """See `Resumable`."""
        one = self._context
        return states.flatten(
            {
                "curves": one._curves,
                "diagnostics": one._diagnostics,
                "diverged": one._diverged,
                "kept": one.kept,
                "examples": one._examples,
                "handed out": {
                    **{f"stream {name}": value.get_state() for name, value in one._streams.items()},
                    **{f"rng {name}": value.bit_generator.state for name, value in one._rngs.items()},
                    **one._waiting,
                },
                "states": {name: value.state_dict() for name, value in self.stateful.items()},
            }
        )

    def restore(self, epoch: int, plain: Any, tensors: dict[str, Tensor]) -> None:
        """See `Resumable`."""
        one, known = self._context, states.unflatten(plain, tensors)
        if not _is_whole(known):
            raise ValueError(f"expected the state of a trial after epoch {epoch}, found something else")
        if known["states"].keys() != self.stateful.keys():
            raise ValueError(f"expected states of {[*self.stateful]}, found those of {[*known['states']]}")
        _check_handed_out(known["handed out"])
        self._load(known["states"])
        one._curves, one._diagnostics = known["curves"], known["diagnostics"]
        one._diverged, one.kept, one._examples = known["diverged"], known["kept"], known["examples"]
        for name, state in known["handed out"].items():
            kind, _, asked = name.partition(" ")
            if kind == "stream" and asked in one._streams:
                one._streams[asked].set_state(state)
            elif kind == "rng" and asked in one._rngs:
                one._rngs[asked].bit_generator.state = state
            else:
                one._waiting[name] = state

    def _load(self, known: Mapping[str, Any]) -> None:
        """Load the states of what the task changes: all of them, or none."""
        before = {name: deepcopy(value.state_dict()) for name, value in self.stateful.items()}
        for name, value in self.stateful.items():
            try:
                value.load_state_dict(known[name])
            except Exception as error:  # each has exceptions of its own
                for other, state in before.items():
                    self.stateful[other].load_state_dict(state)
                raise ValueError(f"{name}: its state can't be loaded: {type(error).__name__}: {error}") from error


def _number(name: str, value: Any) -> float:
    """Return a metric as a plain number; tensors and arrays of one element are taken as well."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None


def _purpose(names: tuple[str | int, ...]) -> str:
    """Return the names of a purpose as one text, which no other purpose has."""
    return json.dumps([name if isinstance(name, str) else int(name) for name in names])


def _is_whole(known: Any) -> bool:
    """Say whether this has the form of a trial's training as a whole."""
    return (
        isinstance(known, dict)
        and {name: type(value) for name, value in known.items()} == _KINDS
        and all(
            type(values) is list and all(value is None or type(value) is float for value in values)
            for curves in (known["curves"], known["diagnostics"])
            for values in curves.values()
        )
    )


def _check_handed_out(known: Mapping[str, Any]) -> None:
    """Refuse what can't be states of streams, before anything is changed."""
    for name, state in known.items():
        try:
            if name.startswith("stream "):
                torch.Generator().set_state(state)
            else:
                np.random.default_rng().bit_generator.state = state
        except Exception as error:  # of many kinds
            raise ValueError(f"{name}: its state can't be set: {type(error).__name__}: {error}") from error


def seed_everything(seed: int, epoch: int) -> None:
    """Set the random state of PyTorch, NumPy and Python, which tasks use without asking for a stream.

    Args:
        seed: of a trial.
        epoch: that begins; 0 for what comes before the first.
    """
    drawn = torch.randint(2**31, (3,), generator=stream(seed, "random state", epoch), device="cpu").tolist()
    torch.manual_seed(drawn[0])
    np.random.seed(drawn[1])  # noqa: NPY002 - that of others
    random.seed(drawn[2])
