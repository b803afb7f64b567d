"""Packages whose public names are imported from their modules when they are first asked for.

So importing the package costs next to nothing, and nothing is imported that isn't used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType


def hand_on(package: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """Let a package hand on names of its modules; each is imported when it is first asked for (see PEP 562).

    A name can be that of a module too, as `weight_feedback.attach` is: it stays what is handed on, whenever the
    module is imported.

    Args:
        package: the name of the package, which is being imported.
        names: by module of the package, what of it is handed on.

    Returns:
        All names, in order: the package's ``__all__``.
    """
    this = sys.modules[package]
    this.__class__ = _Package
    vars(this)["_modules"] = {name: f"{package}.{module}" for module, handed in names.items() for name in handed}
    return sorted(vars(this)["_modules"])


class _Package(ModuleType):
    """A package that `hand_on` was called for.

    The methods stand in a class, not in the package itself: to type checkers, a package with a ``__getattr__`` has
    every name, the misspelt ones too.
    """

    def __getattr__(self, name: str) -> object:
        modules: Mapping[str, str] = vars(self)["_modules"]
        if name not in modules:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing a module binds it in its package, also where a name that is handed on has its place.
        if not (name in vars(self)["_modules"] and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *vars(self)["_modules"]})
