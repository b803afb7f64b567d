"""The one place that turns the name of a task into the task."""

from __future__ import annotations

import functools
import importlib
import operator
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weight_feedback.lab.tasks.base import PlainTrial, Task

#: Tasks that come with this package, none of which imports PyTorch before it trains: name to module and object.
BUILT_IN = {
    "notebook": "weight_feedback.lab.tasks.notebook.task:NOTEBOOK",
    "intrinsic-dimension": "weight_feedback.lab.tasks.intrinsic.task:INTRINSIC",
}


#: Functions of a process's main module, which others can't import: path to task.
_PROVIDED: dict[str, Task] = {}


def find_task(path: str) -> Task:
    """Return a task.

    Args:
        path: the name of a built-in task; or ``module:object`` of a task, or of a function that is one, which is
            imported: code of whoever wrote it.

    Raises:
        ValueError: there is none.
    """
    return _PROVIDED.get(path) or _import(path)


def provide(path: str, task: Task) -> None:
    """Let a task be found that can't be imported.

    Args:
        path: under which.
        task: the task.
    """
    _PROVIDED[path] = task


def provided(path: str) -> Task | None:
    """Return a task that only this process knows, so that its workers must be given it; None for any other.

    Args:
        path: of the task.
    """
    return _PROVIDED.get(path)


def name_function(function: Callable[..., Any]) -> tuple[str, Task | None]:
    """Return the path of a function that is a task, and the task where only this process knows it.

    Args:
        function: see `FunctionTask`.

    Raises:
        ValueError: it is no function that can be a task.
    """
    if not isinstance(function, types.FunctionType) or function.__name__ == "<lambda>":
        raise ValueError(f"task: expected the name of a task, or a function with a name, got {function!r}")
    module = function.__module__
    if module == "__main__":
        # As the module is called where a command imports it.
        module = Path(getattr(sys.modules[module], "__file__", None) or "__main__").stem
    path = f"{module}:{function.__qualname__}"
    if function.__module__ == "__main__" or "<locals>" in path:
        task = _of_function(function)
        provide(path, task)
        return path, task
    return path, None


def _import(path: str) -> Task:
    module, colon, name = BUILT_IN.get(path, path).partition(":")
    if not colon:
        raise ValueError(
            f"task: expected {', '.join(BUILT_IN)}, or module:object of a task of your own, got {path!r}"
        )
    try:
        task = operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task: {path!r} can't be imported: {error}") from None
    if isinstance(task, types.FunctionType):
        return _of_function(task)
    if not isinstance(task, Task):
        raise ValueError(f"task: expected {path!r} to be a task or a function, found {type(task).__name__}")
    return task


@functools.cache
def _of_function(function: Callable[..., Any]) -> Task:
    """Return a function as a task: its code is read once, unless its module is loaded anew."""
    from weight_feedback.lab.tasks.functions import FunctionTask

    return FunctionTask(function)


def reading(path: str) -> Task:
    """Return what reads the results of a task, without importing anybody's code.

    Args:
        path: see `find_task`.
    """
    return find_task(path) if path in BUILT_IN else _ANY


class _Any(Task):
    """What reads the results of any task that isn't built in, from settings that are filled in."""

    def make_trial(self, path: str, settings: dict[str, Any], seed: int) -> PlainTrial:
        """See `Task`."""
        return PlainTrial(path=path, values=settings, seed=seed)


_ANY = _Any()
