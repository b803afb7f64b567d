"""Preflight: is a training fit to be compared? A few epochs of two arms are trained, several times over.

Nothing of it becomes a result. Each check has a verdict, what follows from it, and what to do.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from weight_feedback.lab.execution.isolation import call_forked, call_fresh, may_fork
from weight_feedback.lab.execution.workers import THREADS, prepare_once
from weight_feedback.lab.store.checks import Check, Verdict
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.tasks.base import CODE, Task, Trial
from weight_feedback.lab.tasks.loading import BUILT_IN, find_task, provide, provided
from weight_feedback.lab.training.context import EnoughError, Rehearsal
from weight_feedback.lab.training.evaluations import Evaluations, watch_evaluations
from weight_feedback.lab.training.run import Options, rehearse

#: A run begins with the short form if that takes at most so many seconds.
SHORT_SECONDS = 60.0
# Trained once for all, then timed: a first epoch takes longer than the others.
_TIMED_EPOCHS, _TIMED_SECONDS = 2, 10.0
_MANY = 6
_NOTHING = "nothing was reported so far, and nothing is named in trial.epochs"


@dataclass(frozen=True)
class _Seen:
    """A trial that was left after some epochs, and what was seen meanwhile."""

    rehearsal: Rehearsal
    ends: Sequence[float]
    seconds: float
    evaluations: Evaluations

    @property
    def epoch(self) -> float:
        """Seconds of an epoch; of the whole trial, where there is no loop over epochs."""
        return self.ends[-1] - self.ends[-2] if len(self.ends) > 1 else self.seconds

    @property
    def whole(self) -> float:
        """Seconds of a whole trial, estimated."""
        return self.seconds + max(0, self.rehearsal.epochs - len(self.ends)) * self.epoch


def _rehearse(
    path: str,
    task: Task | None,
    trials: Sequence[Trial],
    epochs: int,
    options: Options,
    most_seconds: float | None,
) -> list[_Seen]:
    """Train the first epochs of trials, one after the other in this process."""
    if task is not None:
        provide(path, task)
    prepare_once(find_task(path))
    found = []
    for trial in trials:
        start, ends = time.perf_counter(), list[float]()

        def note(*_: object, start: float = start, ends: list[float] = ends) -> None:
            ends.append(time.perf_counter() - start)
            if most_seconds is not None and ends[-1] > most_seconds:
                raise EnoughError

        with watch_evaluations() as evaluations:
            left = rehearse(trial, replace(options, on_epoch=note), epochs)
        found.append(_Seen(left, ends, time.perf_counter() - start, evaluations))
    return found


@dataclass(frozen=True)
class _Rehearser:
    """Trains first epochs in processes of their own."""

    study: Study
    data_dir: Path | None
    device: str

    def __call__(
        self,
        *trials: Trial,
        epochs: int,
        checkpoint: Path | None = None,
        most_seconds: float | None = None,
        fresh: bool = False,
    ) -> list[_Seen]:
        options = Options(
            data_dir=self.data_dir,
            device=self.device,
            threads=THREADS,
            metrics=self.study.reported,
            checkpoint=checkpoint,
            checkpoint_seconds=0.0,
        )
        path = self.study.task
        call = partial(_rehearse, path, provided(path), trials, epochs, options, most_seconds)
        if may_fork(self.device) and not fresh:
            prepare_once(find_task(path))
            return call_forked(call, lambda: True)  # type: ignore[no-any-return]
        return call_fresh(call, lambda: True)  # type: ignore[no-any-return]


def seconds_and_parameters(
    study: Study, arm: Arm, data_dir: Path | None = None, device: str = "auto"
) -> tuple[float, int | None]:
    """Train the first epochs of an arm's first trial, and return what a whole one takes, and its parameters.

    Args:
        study: of a task that isn't built in.
        arm: of it.
        data_dir: where data files are looked for.
        device: see `choose_device`.

    Raises:
        Exception: what the task raises.
    """
    study.running()
    trial = study.trial(arm, study.first_seed)
    (seen,) = _Rehearser(study, data_dir, device)(trial, epochs=_TIMED_EPOCHS, most_seconds=_TIMED_SECONDS)
    return seen.whole, seen.rehearsal.parameters


def preflight(
    study: Study,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    short: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[Check]:
    """Look at whether a study's training is fit to be compared.

    Args:
        study: of a task that isn't built in. The arms of its first primary contrast are trained, or its first two.
        data_dir: where data files are looked for.
        device: see `choose_device`.
        short: train one epoch in place of two, and leave out what takes more than three of them. Nothing is found
            if that would take more than `SHORT_SECONDS`.
        tell: called with what it is going to cost, and whether it is left out.

    Returns:
        All checks, in order.

    Raises:
        ValueError: the task is built in, or there is a single arm.
        Exception: what the task raises.
    """
    if study.task in BUILT_IN:
        raise ValueError(f"preflight: expected a task of your own; {study.task} is built in, and tested as it is")
    if len(study.arms) < 2:
        raise ValueError("preflight: expected a study of at least two arms, got one")
    study.running()  # of one that was read from its results nothing is imported
    say = tell or (lambda _: None)
    a, b = _two_arms(study)
    one, other = study.trial(a, study.first_seed), study.trial(b, study.first_seed)
    train = _Rehearser(study, data_dir, device)
    with tempfile.TemporaryDirectory(prefix="weight-feedback-") as folder:
        if short:
            (first,) = train(one, epochs=1)
            if 3 * first.seconds > SHORT_SECONDS:
                say(
                    f"preflight: left out, since an epoch takes {first.seconds:.0f} s; `weight-feedback preflight` "
                    "makes it"
                )
                return []
            (again,), (changed,) = train(one, epochs=1, fresh=True), train(other, epochs=1)
            return [
                _repeatable(first, again, study),
                _arms_differ(first, changed, a, b),
                _streams(first, changed, a, b),
                _evaluating(first, changed),
                _reported([first, changed], study),
            ]
        checkpoint = Path(folder) / "checkpoint"
        (started,) = train(one, epochs=1, checkpoint=checkpoint)
        loop = started.rehearsal.epochs
        more = 11 if loop else 5
        say(
            f"preflight: {more} more {'epochs' if loop else 'trials, which have no trial.epochs'} of {a.name} and "
            f"{b.name}, about {more * started.seconds:.1f} s of training"
        )
        resumed = train(one, epochs=2, checkpoint=checkpoint)[0] if loop > 1 else None
        first, after = train(one, other, epochs=2)
        # In a process that imports anew, and orders sets of texts in another way.
        (again,), (alone,) = train(one, epochs=2, fresh=True), train(other, epochs=2)
        (second,) = train(one.model_copy(update={"seed": study.first_seed + 1}), epochs=2)
    return [
        _repeatable(first, again, study),
        _seeds_differ(first, second),
        _arms_differ(first, alone, a, b),
        _streams(first, alone, a, b),
        _resumes(first, resumed, study),
        _evaluating(first, alone),
        _leaves_nothing(after, alone, study),
        _reported([first, alone], study),
        _moves(first, alone, study),
    ]


def code_of(study: Study, data_dir: Path | None = None) -> str:
    """Return the digest of a study's code; empty where its task names none.

    Args:
        study: of any task.
        data_dir: where data files are looked for.
    """
    trial = study.trial(study.arms[0], study.first_seed)
    return study.running().fingerprint(trial, data_dir).get(CODE, "")


def _two_arms(study: Study) -> tuple[Arm, Arm]:
    by_name = {arm.name: arm for arm in study.arms}
    if study.declared:
        a, b = study.declared.primary[0]
        return by_name[b], by_name[a]
    return study.arms[0], study.arms[1]


# The checks ------------------------------------------------------------------------------------------------------


def _check(name: str, holds: bool, fine: str, else_said: str, failing: Verdict = "failed") -> Check:
    return Check(name=name, verdict="passed" if holds else failing, said=fine if holds else else_said)


def _repeatable(one: _Seen, again: _Seen, study: Study) -> Check:
    return _check(
        "repeatable",
        _same(one, again),
        "the same arm and seed, twice, gave the same numbers, bit for bit",
        f"the same arm and seed gave other numbers the second time ({_where(one, again, study)}): what is run "
        "again or goes on after a kill won't match, and noise that no seed explains widens every interval. Draw "
        "all that is random from trial.stream or trial.rng, or without a generator within trial.epochs; make the "
        "order of files and sets definite; see torch.use_deterministic_algorithms",
    )


def _seeds_differ(one: _Seen, other: _Seen) -> Check:
    if not _comparable(one, other):
        return Check(name="seeds differ", verdict="not tried", said=_NOTHING)
    return _check(
        "seeds differ",
        not _same_training(one, other),
        "two seeds gave different numbers",
        "two seeds gave the same numbers: nothing depends on the seed, so that more of them say nothing more. Draw "
        "weights, order and noise from trial.stream, trial.rng or trial.seed",
    )


def _arms_differ(one: _Seen, other: _Seen, a: Arm, b: Arm) -> Check:
    if not _comparable(one, other):
        return Check(name="arms differ", verdict="not tried", said=_NOTHING)
    return _check(
        "arms differ",
        not _same_training(one, other),
        f"{a.name} and {b.name} gave different numbers",
        f"{a.name} and {b.name} gave the same numbers, seed by seed: the function seems not to use what these arms "
        "change, or it acts in later epochs alone. See what it does with its settings",
        "noted",
    )


def _streams(one: _Seen, other: _Seen, a: Arm, b: Arm) -> Check:
    mine, others = one.rehearsal.streams, other.rehearsal.streams
    shared = [name for name in mine if name in others]
    apart = [name for name in shared if mine[name] != others[name]]
    said = [f"shared by the arms of a seed: {_named(shared) or 'no named stream'}"]
    said += [f"drawn from differently: {_named(apart)}"] if apart else []
    said += [
        f"in {arm.name} alone: {_named(alone)}"
        for arm, alone in ((a, mine.keys() - others.keys()), (b, others.keys() - mine.keys()))
        if alone
    ]
    text = "; ".join(said)
    if not shared:
        text += (
            ". What arms don't draw by name, they draw from the seed's state at the start of each epoch: the same "
            "in all arms as long as they draw alike. Names, as in trial.stream('order'), keep pairs alike, and so "
            "make differences surer"
        )
    elif apart:
        text += (
            ". From there on the arms of a seed don't see the same; give what only one of them draws its own name"
        )
    return Check(name="streams", verdict="passed" if shared and not apart else "noted", said=text)


def _resumes(whole: _Seen, resumed: _Seen | None, study: Study) -> Check:
    name = "resumes"
    if resumed is None:
        return Check(
            name=name,
            verdict="not tried",
            said="there is no loop of several epochs over trial.epochs: a trial that is killed starts over",
        )
    return _check(
        name,
        _same(whole, resumed),
        "interrupted after the first epoch, it went on to the same numbers, bit for bit",
        f"interrupted after the first epoch, it went on to other numbers ({_where(whole, resumed, study)}): name "
        "everything that training changes in trial.epochs (network, optimiser, scheduler, scaler, averages, a "
        "loader's generator), or take generators from trial.stream and trial.rng",
    )


def _evaluating(*seen: _Seen) -> Check:
    name = "evaluating changes nothing"
    if not any(one.evaluations.number for one in seen):
        return Check(
            name=name,
            verdict="not tried",
            said="no module of PyTorch was called without gradients, as under no_grad",
        )
    changed = sorted(itertools.chain.from_iterable(one.evaluations.changed for one in seen))
    if changed:
        return Check(
            name=name,
            verdict="noted",
            said=f"a forward without gradients changed {_named(dict.fromkeys(changed))}. If that was an "
            "evaluation, test data reach what is trained, as through a batch norm in training mode: call eval() "
            "before it and train() after. In training, as where activations are computed again, that is right",
        )
    return _check(
        name,
        not any(one.evaluations.drew for one in seen),
        "forwards without gradients changed no buffer and drew nothing at random",
        "a forward without gradients drew random numbers, as dropout in training mode does. If that was an "
        "evaluation, the metric is noisier than it need be: call eval() before it and train() after",
        "noted",
    )


def _leaves_nothing(after: _Seen, alone: _Seen, study: Study) -> Check:
    return _check(
        "trials leave nothing",
        _same(after, alone),
        "after another trial in the same process, a trial gave the same numbers",
        f"after another trial in the same process, a trial gave other numbers ({_where(after, alone, study)}): it "
        "leaves something behind, such as a global or a cache. Results don't depend on it, since each trial has a "
        "process of its own",
        "noted",
    )


def _reported(seen: Sequence[_Seen], study: Study) -> Check:
    names = {name for one in seen for name in one.rehearsal.curves}
    diverged = [one.rehearsal.diverged for one in seen if one.rehearsal.diverged]
    if diverged:
        return Check(name="metrics", verdict="failed", said=f"a trial diverged at {diverged[0]}")
    missing = [name for name in study.reported if name not in names]
    return _check(
        "metrics",
        study.judged in names and not missing,
        f"reported: {', '.join(sorted(names))}",
        f"{', '.join(missing)}: not reported so far (reported: {', '.join(sorted(names)) or 'nothing'}); fine if "
        "that comes after these epochs, or is returned at the end",
        "noted",
    )


def _moves(one: _Seen, other: _Seen, study: Study) -> Check:
    name, metric = "the metric moves", study.judged
    curves = [seen.rehearsal.curves.get(metric, ()) for seen in (one, other)]
    if not all(len(curve) > 1 for curve in curves):
        return Check(name=name, verdict="not tried", said=f"{metric} has fewer than two points so far")
    return _check(
        name,
        any(len({*curve}) > 1 for curve in curves),
        f"{metric} changed from the first epoch to the second",
        f"{metric} was the same after both epochs, in both arms: is it measured on what is trained, and can it "
        "tell models apart?",
    )


# What is compared ------------------------------------------------------------------------------------------------


def _same_numbers(one: _Seen, other: _Seen) -> bool:
    """Say whether what would become a result is the same."""
    a, b = one.rehearsal, other.rehearsal
    return (a.curves, a.kept, a.diverged) == (b.curves, b.kept, b.diverged)


def _same_training(one: _Seen, other: _Seen) -> bool:
    """Say whether what would become a result, and what was named in the loop, are the same."""
    return _same_numbers(one, other) and one.rehearsal.trained == other.rehearsal.trained


def _comparable(*seen: _Seen) -> bool:
    """Say whether there is anything yet in which two trainings could differ."""
    return all(one.rehearsal.curves or one.rehearsal.trained for one in seen)


def _same(one: _Seen, other: _Seen) -> bool:
    """Say whether a result would be the same, and what further training depends on."""
    return _same_numbers(one, other) and one.rehearsal.state == other.rehearsal.state


def _where(one: _Seen, other: _Seen, study: Study) -> str:
    """Return in what two trainings differ, first in what people look at."""
    curves, others = one.rehearsal.curves, other.rehearsal.curves
    for name in study.reported:
        for epoch, pair in enumerate(zip(curves.get(name, ()), others.get(name, ()), strict=False), start=1):
            if pair[0] != pair[1]:
                return f"{name} after epoch {epoch}: {' and '.join(map(_value, pair))}"
    if one.rehearsal.kept != other.rehearsal.kept:
        return "what is kept or diagnosed"
    return "what is named in trial.epochs, or a stream"


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.17g}"


def _named(names: Iterable[str]) -> str:
    """Return names for people, the first few of them; a stream's, which is JSON, as a path."""
    listed = [
        "/".join(map(str, json.loads(name.partition(" ")[2]))) if name.endswith("]") else name for name in names
    ]
    more = f" and {len(listed) - _MANY} more" if len(listed) > _MANY else ""
    return ", ".join(listed[:_MANY]) + more
