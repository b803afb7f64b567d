"""What a study will take, before it is run: trials, time, and what else its task knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weight_feedback.lab.study.study import Study
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
    """Ask a study's task what a trial of each arm costs, on one thread.

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
        planned.append(PlannedArm(arm.name, costs.parameters, trials[arm.name], costs.seconds))
    return planned
