"""A function as a task: its keyword arguments are its settings, and what it uses is its code."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import json
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, create_model

from weight_feedback.lab.tasks.base import CODE, Task, Trial

#: What a message calls a function that it has no name of.
_FORM = "def train(trial, *, lr: float = 0.1, …)"
_STRICT = ConfigDict(
    frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
)


class FunctionTask(Task):
    """A task that calls a function with a trial's context and its settings.

    Args:
        function: takes the context, and settings by keyword alone, each with an annotation.
        code: its digest; default: see `code_digest`.
        fields: its settings; default: see `fields_of`.
        prepared: is called once, before the first trial; default: what its module calls ``prepare``.

    Raises:
        ValueError: it takes something else, or uses what can't be digested.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        code: str | None = None,
        fields: Mapping[str, Any] | None = None,
        prepared: Callable[[], object] | None = None,
    ) -> None:
        self._function = function
        self._prepare = prepared or _preparing(function)
        self._fields = fields_of(function) if fields is None else fields
        self._code = code_digest(function) if code is None else code
        for hint, _ in self._fields.values():
            _mend(hint)
        self.Settings = _model(_called(function), self._fields)

    def __reduce__(self) -> tuple[Any, ...]:
        # In a worker there may be no source to digest, and no module in which annotations have a meaning.
        return type(self), (self._function, self._code, self._fields, self._prepare)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._code == self._code

    def __hash__(self) -> int:
        return hash(self._code)

    def prepare(self) -> None:
        """Call ``prepare`` of the function's module, if there is one."""
        if self._prepare:
            self._prepare()

    def fingerprint(self, trial: Trial, data_dir: Path | None) -> dict[str, str]:
        """Return the digest of the function and of what it uses."""
        return {CODE: self._code}

    def run(self, trial: Any) -> Mapping[str, float] | None:
        """Call the function."""
        settings = {name: getattr(trial.settings, name) for name in type(trial.settings).model_fields}
        found: Mapping[str, float] | None = self._function(trial, **settings)
        return found


def _preparing(function: Callable[..., Any]) -> Callable[[], object] | None:
    """Return what a function's module calls ``prepare``, if that is a function without arguments."""
    found = getattr(function, "__globals__", {}).get("prepare")
    return found if isinstance(found, types.FunctionType) and not inspect.signature(found).parameters else None


def fields_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of a function: name to type and default.

    Args:
        function: see `FunctionTask`.

    Raises:
        ValueError: an argument isn't a setting; the message says why.
    """
    called, fields = _called(function), dict[str, Any]()
    first, *others = inspect.signature(function).parameters.values() or (None,)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise ValueError(f"task: {called}: expected the trial as its first argument, as in {_FORM}")
    hints = _hints(function)
    for one in others:
        if one.kind is not one.KEYWORD_ONLY:
            raise ValueError(f"task: {called}: expected settings by keyword alone, as in {_FORM}, got {one.name!r}")
        if one.name.startswith("_"):
            raise ValueError(
                f"task: {called}: expected a setting whose name begins with a letter, got {one.name!r}"
            )
        if one.name not in hints:
            raise ValueError(f"task: {called}: expected an annotation of the setting {one.name!r}, as in {_FORM}")
        if {set, frozenset} & {getattr(hint, "__origin__", hint) for hint in _within(hints[one.name])}:
            raise ValueError(
                f"task: {called}: expected a list or tuple, whose order is known, got {one.name!r}, a set"
            )
        fields[one.name] = (hints[one.name], ... if one.default is one.empty else one.default)
    return fields


def _model(called: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    with warnings.catch_warnings():  # a setting may be called as a method of models is
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        try:
            return create_model(f"Settings of {called}", __config__=_STRICT, **fields)
        except (PydanticUserError, NameError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"task: {called}: its settings can't be read: {reason}") from None


def _within(hint: Any) -> list[Any]:
    """Return a type and those within it."""
    inner = [part for argument in get_args(hint) for part in _within(argument)]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        inner += [part for field in dataclasses.fields(hint) for part in _within(field.type)]
    return [hint, *inner]


def _mend(hint: Any) -> None:
    """Let a dataclass that came from another process by value know again which of its fields have no default."""
    for kind in _within(hint):
        for field in getattr(kind, "__dataclass_fields__", {}).values():
            for name in ("default", "default_factory", "kw_only"):
                if type(getattr(field, name)).__name__ == type(dataclasses.MISSING).__name__:
                    setattr(field, name, dataclasses.MISSING)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ValueError(f"task: {_called(function)}: an annotation can't be read: {error}") from None


def _called(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def code_digest(function: Callable[..., Any]) -> str:
    """Return the hex SHA-256 digest of a function's source, and of what it uses of its module, wherever that leads.

    Modules that it imports, and what these define, are named in it and not read. A value that has no text of its
    own, such as a tensor, stands for the file of the module that makes it.

    Args:
        function: plain, with source.

    Raises:
        ValueError: it uses a value that can't be digested: one that isn't made in a file.
    """
    parts: dict[str, str] = {}
    # Names within the module, which is another where it is the script itself that is run.
    _add(parts, function, function.__qualname__, function.__module__)
    if prepare := _preparing(function):
        _add(parts, prepare, "prepare", function.__module__)
    return hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()


def _add(parts: dict[str, str], value: Any, name: str, home: str) -> None:
    """Add what a value consists of, by name.

    Args:
        parts: so far.
        value: to add.
        name: of it, for people.
        home: the module in which it is used.
    """
    if name in parts:
        return
    if isinstance(value, types.ModuleType):
        parts[name] = f"module {value.__name__}"
    elif isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        if value.__module__ == home:
            parts[name] = _source(value, name, home)
            for inner, used in _used(value, parts[name], home):
                _add(parts, used, inner, home)
        else:
            parts[name] = f"{value.__module__}:{value.__qualname__}"
    else:
        parts[name] = _text(value, name, home)


def _source(value: Any, name: str, home: str) -> str:
    _check_as_imported(value, name)
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        if (file := _file(home)) is not None:  # a class that a function made, such as a named tuple
            return file
    raise ValueError(
        f"task: {name}: its source can't be read, so that nothing would tell results of another version apart; "
        "write it into a file"
    )


def _check_as_imported(value: Any, name: str) -> None:
    """Refuse a function, or a class with methods, whose file isn't what it was when it was imported.

    Its source would be the new one, and what runs the old one. Modules that others than Python itself load, such as
    those that rewrite assertions, are left out.
    """
    functions = [value] if isinstance(value, types.FunctionType) else vars(value).values()
    for function in functions:
        module = sys.modules.get(getattr(function, "__module__", ""))
        if not isinstance(function, types.FunctionType) or module is None:
            continue
        loader, file = getattr(module, "__loader__", None), Path(getattr(module, "__file__", None) or "")
        own = type(loader) is SourceFileLoader and function.__code__.co_filename == str(file)
        if own and file.is_file() and function.__code__ not in _codes(file, file.stat().st_mtime_ns):
            raise ValueError(
                f"task: {name}: {file} was edited after it was imported: start Python again, or reload the module"
            )


@functools.lru_cache(maxsize=64)
def _codes(file: Path, _: int) -> set[types.CodeType]:
    """Return the code of all functions in a file."""
    whole = SourceFileLoader("", str(file)).source_to_code(file.read_bytes(), str(file))
    found, left = set[types.CodeType](), [whole]
    while left:
        code = left.pop()
        found.add(code)
        left += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return found


def _text(value: Any, name: str, home: str) -> str:
    """Return a plain value as text, and of another one the digest of the file that makes it."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        file = _file(home)
    if file is None:
        raise ValueError(
            f"task: {name}: is a {type(value).__name__}, which can't be digested, so that nothing would tell "
            "results of another one apart; make it in the function, or write both into a file"
        )
    return file


def _file(module: str) -> str | None:
    """Return the digest of a module's file; None if it has none, as what is typed in."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _used(value: Any, source: str, home: str) -> Iterator[tuple[str, Any]]:
    """Yield names and values of what a function or class names of its module, and of what it closes over."""
    if isinstance(value, types.FunctionType):
        closed = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        for name, cell in closed:
            with suppress(ValueError):  # nothing is in it yet
                yield f"{value.__qualname__}.{name}", cell.cell_contents
    known = vars(sys.modules[home]) if home in sys.modules else getattr(value, "__globals__", {})
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a part of a line, as that of a function in a call
        tree = ast.Module([], [])
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    yield from ((name, known[name]) for name in sorted(names) if name in known)
