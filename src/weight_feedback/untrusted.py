"""Texts and values from outside, shown without harm."""

from __future__ import annotations

import reprlib

#: Characters of a value in a message.
LONGEST = 120


def printable(text: str) -> str:
    r"""Return text as one line without control characters, marks of direction and half characters.

    Args:
        text: any; what can't be printed becomes its escape, such as ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a short text of any value, at most `LONGEST` characters.

    Args:
        value: however large and deep.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, LONGEST - 20, LONGEST - 20

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002 - the signature is reprlib's
        # Python refuses to write very long numbers in decimal digits.
        return repr(x) if x.bit_length() <= 256 else f"a whole number of {x.bit_length()} bits"


_SHORT = _Short()
