"""How studies spell a task's settings: among a study's own fields and an arm's, or in tables called settings."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from weight_feedback.lab.tasks.base import Task
from weight_feedback.lab.tasks.loading import find_task
from weight_feedback.untrusted import shown


def spread(model: type[BaseModel], given: Any) -> Any:
    """Return given fields with those that a model doesn't know moved into its field ``settings``.

    Args:
        model: of a study or an arm.
        given: to be validated; what isn't a table stays as it is.
    """
    if not isinstance(given, dict):
        return given
    own = {name: value for name, value in given.items() if name in model.model_fields}
    others = {name: value for name, value in given.items() if name not in model.model_fields}
    settings = own.get("settings", {})
    if not isinstance(settings, dict) or not (others or settings):
        return own | others
    return {**own, "settings": plain({**others, **settings})}


def joined(model: type[BaseModel], dumped: dict[str, Any]) -> dict[str, Any]:
    """Return dumped fields with settings among them, unless one is called like a field.

    Args:
        model: of a study or an arm.
        dumped: its fields.
    """
    settings = dumped.get("settings", {})
    if set(settings) & set(model.model_fields):
        return dumped
    fields = {name: value for name, value in dumped.items() if name != "settings"}
    return {**fields, **settings}


def plain(value: Any) -> Any:
    """Return settings with models, dataclasses and tuples as tables and lists, and enumerations as their values.

    Args:
        value: of any kind.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def merged(shared: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an arm: those of all arms, changed; tables field by field.

    Args:
        shared: by all arms.
        changes: of the arm.
    """
    both = dict(shared)
    for name, value in changes.items():
        known = both.get(name)
        both[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def wrong_settings(fields: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Return what is wrong with the settings of a study, each where it was given.

    Args:
        fields: of the study, with its settings in a table of theirs.
    """
    path, shared, arms = fields.get("task", "notebook"), fields.get("settings", {}), fields.get("arms")
    if fields.get("resolved") is True or not (isinstance(path, str) and isinstance(shared, dict)):
        return []
    try:
        task = find_task(path)
    except ValueError as error:
        message = str(error).removeprefix("task: ")
        return [_wrong(("task",), path, message)]
    changes = [_changes(arm) for arm in arms] if isinstance(arms, list | tuple) else []
    found: dict[Any, InitErrorDetails] = {}
    for one in _wrong_in(task, path, shared, dict(enumerate(changes)) or {-1: {}}):
        found.setdefault(one["loc"], one)  # what all arms share is wrong in each of them
    return [*found.values()]


def _changes(arm: Any) -> Any:
    return arm.get("settings", {}) if isinstance(arm, dict) else getattr(arm, "settings", None)


def _wrong_in(
    task: Task, path: str, shared: Mapping[str, Any], arms: Mapping[int, Any]
) -> Iterator[InitErrorDetails]:
    for i, changes in arms.items():
        if not isinstance(changes, dict):
            continue
        for name in task.shared & changes.keys():
            message = "all arms share this setting: give it once, outside of the arms"
            yield _wrong(("arms", i, name), changes[name], message)
        settings = merged(shared, changes)
        try:
            task.make_trial(path, settings, 0)
            json.dumps(settings, allow_nan=False)
        except ValidationError as error:
            yield from _placed(error, i, changes.keys(), shared.keys() | task.shared, [*task.Settings.model_fields])
        except (TypeError, ValueError) as error:
            yield _wrong(("arms", i) if i >= 0 else (), changes, f"settings: {error}")


def _placed(
    error: ValidationError, arm: int, changed: Set[str], shared: Set[str], known: Sequence[str]
) -> Iterator[InitErrorDetails]:
    """Yield what is wrong with the settings of an arm, where it was given, or has to be."""
    for one in error.errors():
        name = one["loc"][0] if one["loc"] else ""
        of_arm = name in changed or name not in shared
        if not (of_arm and arm < 0):
            place = ("arms", arm, *one["loc"]) if of_arm else one["loc"]
            if one["type"] == "extra_forbidden" and len(one["loc"]) == 1:
                close = difflib.get_close_matches(str(name).lower(), known, n=1)
                meant = f"did you mean {close[0]}?" if close else f"the task's settings are {', '.join(known)}"
                yield _wrong(place, one["input"], f"there is no such field, got {shown(one['input'])}; {meant}")
                continue
            yield InitErrorDetails(type=one["type"], loc=place, input=one["input"], ctx=one.get("ctx", {}))


def _wrong(place: tuple[int | str, ...], value: Any, message: str) -> InitErrorDetails:
    # Braces would be places of its context.
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    return InitErrorDetails(type=error, loc=place, input=value)
