"""Experiments with weight feedback: data, networks, training, studies, statistics, reports and the command line.

These names are the front door; what a name needs is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from weight_feedback.lazy import hand_on as _hand_on

if TYPE_CHECKING:
    # For type checkers and editors: the same names as below.
    from weight_feedback.lab.commands.presenting import report as report
    from weight_feedback.lab.commands.presenting import run as run
    from weight_feedback.lab.execution.preflight import preflight as preflight
    from weight_feedback.lab.statistics.analysis import Analysis as Analysis
    from weight_feedback.lab.statistics.analysis import analyse as analyse
    from weight_feedback.lab.store.store import Store as Store
    from weight_feedback.lab.study.declared import Declared as Declared
    from weight_feedback.lab.study.study import Arm as Arm
    from weight_feedback.lab.study.study import Study as Study
    from weight_feedback.lab.study.toml import load_study as load_study
    from weight_feedback.lab.tasks.base import Context as Context
    from weight_feedback.lab.tasks.base import Metric as Metric
    from weight_feedback.lab.tasks.base import Task as Task
    from weight_feedback.lab.tasks.base import Trial as Trial

__all__ = _hand_on(
    __name__,
    {
        "commands.presenting": ["report", "run"],
        "execution.preflight": ["preflight"],
        "statistics.analysis": ["Analysis", "analyse"],
        "store.store": ["Store"],
        "study.declared": ["Declared"],
        "study.study": ["Arm", "Study"],
        "study.toml": ["load_study"],
        "tasks.base": ["Context", "Metric", "Task", "Trial"],
    },
)
