"""Fields of a saved model's description: what JSON values they take, and how settings are made from them."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, get_args

from weight_feedback.untrusted import printable


class PretrainedError(ValueError):
    """A saved model that can't be used as asked; the message names the file and the field, and says what to do."""

    def __str__(self) -> str:
        # Names in files may hold what commands a terminal, or can't be encoded at all.
        return printable(super().__str__())


class Field:
    """One kind of JSON value: whether a value is of this kind, and how it's made from a setting and read back.

    Args:
        expected: what a value must be, in words.
        accepts: whether a value is that.
        write: makes the value from a setting.
        read: makes the setting from a value; default: as ``write``.
    """

    def __init__(
        self,
        expected: str,
        accepts: Callable[[Any], bool],
        write: Callable[[Any], Any],
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        self.expected, self.accepts, self.write, self._read = expected, accepts, write, read or write

    def read(self, value: Any, where: str) -> Any:
        """Check a value, and make the setting from it.

        Args:
            value: what the file has.
            where: the file and the field, for messages.

        Raises:
            PretrainedError: the value isn't of this kind.
        """
        if not self.accepts(value):
            raise PretrainedError(f"{where} must be {self.expected}, got {reprlib.repr(value)}")
        return self._read(value)


class ListOf(Field):
    """A list, whose items are of one kind.

    Args:
        item: the kind.
    """

    def __init__(self, item: Field) -> None:
        super().__init__(
            "a list", lambda value: type(value) is list, lambda value: [item.write(v) for v in value], list
        )
        self.item = item

    def read(self, value: Any, where: str) -> list[Any]:
        """Check each item too.

        Args:
            value: what the file has.
            where: the file and the field, for messages.

        Raises:
            PretrainedError: it isn't a list, or an item isn't of its kind.
        """
        return [self.item.read(v, f"{where}[{i}]") for i, v in enumerate(super().read(value, where))]


class Record(Field):
    """An object with just these fields.

    Args:
        fields: by name, the kind of each.
    """

    def __init__(self, fields: Mapping[str, Field]) -> None:
        super().__init__("an object", lambda value: type(value) is dict, dict)
        self.fields = fields

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """Check each field too, and that none is missing or unknown.

        Args:
            value: what the file has.
            where: the file and the field, for messages.

        Raises:
            PretrainedError: it isn't an object with just these fields, or a field isn't of its kind.
        """
        found = super().read(value, where)
        if found.keys() != self.fields.keys():
            missing, unknown = self.fields.keys() - found.keys(), found.keys() - self.fields.keys()
            raise PretrainedError(
                f"{where} must have the fields {', '.join(self.fields)}; "
                f"missing: {', '.join(sorted(missing)) or 'none'}; "
                f"unknown: {', '.join(map(reprlib.repr, sorted(unknown))) or 'none'}"
            )
        inside = f"{where} " if where.endswith(":") else f"{where}."
        return {name: field.read(found[name], f"{inside}{name}") for name, field in self.fields.items()}


def whole(low: int, expected: str) -> Field:
    """Return the kind of whole numbers of 64 bits from a smallest one on.

    Args:
        low: the smallest.
        expected: the same in words.
    """
    # type() rather than isinstance(): true and false are whole numbers to Python.
    return Field(f"a whole number {expected}", lambda value: type(value) is int and low <= value < 2**63, int)


def choice(options: Any) -> Field:
    """Return the kind of strings that a `Literal` lists.

    Args:
        options: the `Literal`.
    """
    names = get_args(options)
    return Field(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names, str)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf", "nan")
    return type(value) in (int, float) and abs(value) < sys.float_info.max


INTEGER = whole(-(2**63), "of 64 bits")
INDEX = whole(0, "of at least 0")
SIZE = whole(1, "of at least 1")
FLAG = Field("true or false", lambda value: type(value) is bool, bool)
TEXT = Field("a string", lambda value: isinstance(value, str), str)
# JSON has no infinite numbers.
NUMBER = Field(
    'a number, "inf", "-inf" or "nan"',
    _is_number,
    lambda value: float(value) if math.isfinite(value) else str(float(value)),
    float,
)
PAIR = Field(
    "a pair of whole numbers of at least 1",
    lambda value: type(value) is list and len(value) == 2 and all(map(SIZE.accepts, value)),
    lambda value: [int(v) for v in value],
    tuple,
)
