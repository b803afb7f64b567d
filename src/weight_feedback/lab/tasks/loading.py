"""The one place that turns the name of a task into the task."""

from __future__ import annotations

import functools
import importlib

from weight_feedback.lab.tasks.base import Task

#: Tasks that come with this package, none of which imports PyTorch before it trains: name to module and object.
BUILT_IN = {
    "notebook": "weight_feedback.lab.tasks.notebook.task:NOTEBOOK",
    "intrinsic-dimension": "weight_feedback.lab.tasks.intrinsic.task:INTRINSIC",
}


@functools.cache
def find_task(path: str) -> Task:
    """Return a task.

    Args:
        path: the name of a built-in task, or ``module:object``, which is imported: code of whoever wrote it.

    Raises:
        ValueError: there is none.
    """
    module, colon, name = BUILT_IN.get(path, path).partition(":")
    if not colon:
        raise ValueError(
            f"task: expected {', '.join(BUILT_IN)}, or module:object of a task of your own, got {path!r}"
        )
    try:
        task = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task: {path!r} can't be imported: {error}") from None
    if not isinstance(task, Task):
        raise ValueError(f"task: expected {path!r} to be a task, found {type(task).__name__}")
    return task


def reading(path: str) -> Task:
    """Return what reads the results of a task, without importing anybody's code.

    Args:
        path: see `find_task`.
    """
    return find_task(path) if path in BUILT_IN else _ANY


#: Results of tasks that aren't built in look alike.
_ANY = Task()
