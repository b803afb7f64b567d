"""What a study will take, before it is run: trials, time, and how many seeds its margin needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weight_feedback.files import remove
from weight_feedback.lab.execution.preflight import seconds_and_parameters
from weight_feedback.lab.execution.runner import Watcher, run
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.statistics.pilot import Piloted, pilot_contrasts
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import KEPT
from weight_feedback.lab.tasks.base import SEEDS_END
from weight_feedback.lab.tasks.loading import BUILT_IN
from weight_feedback.lab.training.environment import choose_device, keep_freed_memory, thread_count


@dataclass(frozen=True)
class PlannedArm:
    """One arm before it is run.

    Attributes:
        name: of the arm.
        parameters: that are trained, exactly; None where the task doesn't say.
        trials: one a seed.
        seconds: of one trial on one thread, estimated; None where the task doesn't say.
    """

    name: str
    parameters: int | None
    trials: int
    seconds: float | None


def plan(
    study: Study,
    *,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
) -> list[PlannedArm]:
    """Say what a trial of each arm costs, on one thread: as its task says, or by the first epochs of one.

    Args:
        study: arms × seeds.
        arms: names of the arms to plan; default: all.
        seeds: another number of them than the study's.
        data_dir: where data files are looked for.
        device: see `choose_device`.

    Returns:
        One entry an arm, in the study's order.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: an arm can't be run on these data, there is none of a name, or there are too few or too many
            seeds.
    """
    trials = Counter(arm.name for arm, _ in study.trials(arms, seeds))
    where, task = choose_device(device), study.running()
    keep_freed_memory()
    planned = []
    for arm in [arm for arm in study.arms if arm.name in trials]:
        trial = study.trial(arm, study.first_seed)
        task.check([trial], data_dir)
        with thread_count(1):
            costs = task.plan(trial, data_dir, where)
        seconds, parameters = costs
        if seconds is None and study.task not in BUILT_IN:
            seconds, trained = seconds_and_parameters(study, arm, data_dir, device)
            parameters = trained if parameters is None else parameters
        planned.append(PlannedArm(arm.name, parameters, trials[arm.name], seconds))
    return planned


def pilot(
    study: Study,
    folder: Path,
    seeds: int,
    jobs: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> tuple[list[Piloted], list[float]]:
    """Run some seeds outside a study, and say how many the study needs; not which arm was better.

    Args:
        study: arms × seeds, with a declaration.
        folder: where the pilot's trials are kept, so that a later one goes on.
        seeds: how many; the last ones that there are.
        jobs: trials side by side; see `run`.
        data_dir: where data files are looked for.
        device: see `choose_device`.
        watcher: told how it goes.

    Returns:
        One entry a primary contrast; and seconds that a trial took, one an arm of these.

    Raises:
        ValueError: nothing is declared, the pilot's seeds are among the study's, or trials fail or diverge.
    """
    if study.declared is None:
        raise ValueError("pilot: expected a declaration, whose margin says how many seeds are needed; got none")
    first = (SEEDS_END - seeds) // study.together * study.together
    if study.seed_numbers()[-1] >= first:
        raise ValueError(f"pilot: expected a study whose seeds are below {first}, which the pilot takes")
    arms = tuple(arm for arm in study.arms if arm.name in study.declared_arms)
    few = study.model_copy(update={"arms": arms, "seeds": seeds, "first_seed": first, "declared": None})
    store = Store(folder)
    run(few, store, jobs=jobs, data_dir=data_dir, device=device, watcher=watcher)
    found = analyse(few, store)
    # Without it nothing shows the pilot's means, by which a margin could be chosen.
    remove(store.folder / KEPT)
    if failed := [reason for arm in found.arms for reason in arm.failed.values()]:
        raise ValueError(f"pilot: {len(failed)} of its trials failed: {failed[0].partition(chr(10))[0]}")
    return pilot_contrasts(study, found.arms), [float(arm.seconds.mean()) for arm in found.arms if arm.seeds]
