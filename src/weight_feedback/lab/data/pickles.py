"""Pickles, read without unpickling: a machine that knows the few operations of plain values and numpy's arrays.

Nothing that a pickle names is looked up, imported or called. No keys are hashed but bytes and text, and nothing is
compared or walked through, so that time and memory grow with the pickle's length and no faster.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from weight_feedback.lab.data.reading import DataError
from weight_feedback.untrusted import LONGEST

#: What a pickle of an array names, as written by numpy 1.
_NAMES = ("numpy ndarray", "numpy dtype", "numpy.core.multiarray _reconstruct")
_EXPECTED = "a pickle of numpy arrays and plain containers alone"


class Named:
    """What a pickle wants to have called, and with what; it isn't.

    Attributes:
        name: of the function or class.
        args: of the call; None: it is only named.
        state: what the pickle gives the object afterwards.
    """

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.name = name
        self.args = args
        self.state: object = None


def read_pickle(data: bytes, file: str | Path, operations: int) -> Any:
    """Read a pickle of plain values and arrays.

    Args:
        data: the pickle, of protocol 2, in which Python 2's strings are bytes.
        file: its name, for messages.
        operations: how many it may have; each takes a byte of the file or more, and a hundred of memory or less.

    Returns:
        None, numbers, bytes, text, tuples, lists and dictionaries, with a `Named` in the place of each array.

    Raises:
        DataError: it is damaged, has bytes after its end, or contains or names anything else.
    """
    stream, machine, position = io.BytesIO(data), _Machine(), 0
    try:
        for count, (operation, argument, place) in enumerate(pickletools.genops(stream)):
            position = place or 0
            if count >= operations:
                raise ValueError(f"more than {operations} operations")
            if operation.name == "STOP":
                break
            machine.step(operation.name, argument)
            position = stream.tell()
        value = machine.result()
    except (ValueError, KeyError, IndexError, Warning) as error:
        raise DataError(file, position, _EXPECTED, f"{type(error).__name__}: {error}"[:LONGEST]) from error
    if stream.tell() < len(data):
        raise DataError(file, stream.tell(), "the end of the file after the pickle", "more bytes")
    return value


class _Machine:
    """A stack of values, a stack of marks in it, and values that are kept for later."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._kept: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one operation."""
        if name in _VALUES:
            self._stack.append(_VALUES[name](argument))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name != "PROTO":
            raise ValueError(f"the operation {name}")

    def result(self) -> Any:
        """Return the one value that must be left."""
        value = self._pop()
        if self._stack or self._marks:
            raise ValueError("more than one value")
        return value

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("an operation without its value")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"an operation on something else than a {kind.__name__}")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def small_tuple(self, _: Any, size: int) -> None:
        values = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(values)))

    def append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def extend(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self._pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        target, keys = self._top(dict), items[::2]
        # Hashing tuples of tuples may take without end, as may numbers that were chosen to have one hash.
        if len(items) % 2 or any(type(key) not in (bytes, str) for key in keys):
            raise ValueError("a dictionary whose keys aren't bytes or text")
        target.update(zip(keys, items[1::2], strict=True))

    def keep(self, place: int) -> None:
        self._kept[place] = self._stack[-1]

    def fetch(self, place: int) -> None:
        self._stack.append(self._kept[place])

    def name(self, name: str) -> None:
        # numpy 2 moved numpy.core to numpy._core; CIFAR-10's own pickles are older.
        if name.replace("numpy._core.", "numpy.core.") not in _NAMES:
            raise ValueError(f"the pickle names {name.replace(' ', '.')}, which was not run")
        self._stack.append(Named(name))

    def call(self, _: Any) -> None:
        args, called = self._pop(), self._pop()
        if type(args) is not tuple or type(called) is not Named or called.args is not None:
            raise ValueError("a call of something that isn't named")
        self._stack.append(Named(called.name, args))

    def build(self, _: Any) -> None:
        state = self._pop()
        self._top(Named).state = state


_VALUES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), int),
    "BINFLOAT": float,
    "BINUNICODE": str,
    # pickletools gives bytes as text.
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda text: text.encode("latin-1")),
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple,
    **{f"TUPLE{size}": partial(_Machine.small_tuple, size=size) for size in (1, 2, 3)},
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.keep),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.fetch),
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
