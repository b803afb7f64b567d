"""Texts from outside, shown without harm."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text as one line without control characters, marks of direction and half characters.

    Args:
        text: any; what can't be printed becomes its escape, such as ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
