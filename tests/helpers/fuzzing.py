"""Parsers under fire: damaged, spliced and lying inputs, each of which must give a valid object or the typed error.

`fire` runs a number of inputs at random, within bounds on memory and time; an input that gets through is kept in a
file, which ``tests/fuzz.py`` runs again. The parsers and their valid inputs are in ``parsers.py``.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from helpers import limits

#: Bytes that this process may ask for beyond what it has.
MEMORY = 192 * 2**20
#: Seconds that one input may take, however busy the machine is.
SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """A parser, ready to be fired at.

    Attributes:
        seeds: valid inputs.
        parse: raises one of ``refusals``, or returns.
        refusals: the typed errors.
        words: pieces of the format, to be put in anywhere.
        mend: makes checksums right again.
    """

    seeds: Sequence[bytes]
    parse: Callable[[bytes], object]
    refusals: type[Exception]
    words: Sequence[bytes] = ()
    mend: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Outcome:
    """How many inputs were valid, and how many were refused."""

    valid: int
    refused: int


def fire(name: str, target: Target, runs: int, seed: int, kept: Path, seconds: float = SECONDS) -> Outcome:
    """Run inputs at random.

    Args:
        name: of the target.
        target: the parser.
        runs: how many inputs.
        seed: of all of them.
        kept: a folder for an input that fails.
        seconds: that each may take.

    Returns:
        The counts.

    Raises:
        AssertionError: an input raised something else, or took too much memory or time; it names the file.
    """
    draw, valid = random.Random(seed), 0
    with limits.memory(MEMORY):
        for run in range(runs):
            data = mutate(draw, target)
            if target.mend and run % 2:
                data = target.mend(data)
            valid += survives(name, target, data, kept, seconds)
    return Outcome(valid, runs - valid)


def again(name: str, target: Target, file: Path, kept: Path, seconds: float = SECONDS) -> bool:
    """Run an input that was kept, within the bounds of `fire`, and say whether it was valid.

    Args:
        name: of the target.
        target: the parser.
        file: the input.
        kept: a folder for it, if it fails again.
        seconds: that it may take.

    Raises:
        AssertionError: see `fire`.
    """
    data = file.read_bytes()
    with limits.memory(MEMORY):
        return survives(name, target, data, kept, seconds)


def survives(name: str, target: Target, data: bytes, kept: Path, seconds: float | None = SECONDS) -> bool:
    """Run one input, and say whether it was valid.

    Args:
        name: of the target.
        target: the parser.
        data: the input.
        kept: a folder for an input that fails.
        seconds: that it may take; None: as many as it wants.

    Raises:
        AssertionError: see `fire`.
    """
    try:
        with limits.seconds(seconds) if seconds else nullcontext():
            target.parse(data)
    except target.refusals as error:
        if not starved(error) and can_be_printed(error):
            return False
        failure: BaseException = error
    except (Exception, limits.Endless) as error:
        failure = error
    else:
        return True
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    raise AssertionError(f"python tests/fuzz.py {name} --again {path} raises {failure!r}") from failure


def can_be_printed(error: Exception) -> bool:
    """Say whether a message has an encoding: halves of characters have none."""
    try:
        str(error).encode()
    except UnicodeEncodeError:
        return False
    return True


def starved(error: BaseException | None) -> bool:
    """Say whether an error is a lack of memory in disguise."""
    return error is not None and (isinstance(error, MemoryError) or starved(error.__cause__ or error.__context__))


NUMBERS = [
    0,
    1,
    2,
    9,
    10,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
BYTES = [0, 1, 9, 10, 13, 32, 34, 46, 47, 57, 91, 93, 123, 125, 127, 128, 255]


def mutate(draw: random.Random, target: Target) -> bytes:
    """Return a valid input with one to six changes, mostly where its bytes differ from their neighbours.

    Args:
        draw: the stream.
        target: whose input it is.
    """
    data = bytearray(draw.choice(target.seeds))
    for _ in range(1 + min(int(draw.expovariate(0.7)), 5)):
        draw.choice(_CHANGES)(draw, data, place(draw, data), target)
    return bytes(data)


def place(draw: random.Random, data: bytearray) -> int:
    """Draw a position; long runs of one byte are rarely hit."""
    for _ in range(8):
        at = draw.randrange(len(data) + 1)
        if 0 < at < len(data) and data[at] != data[at - 1]:
            return at
    return draw.randrange(len(data) + 1)


def _flip(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    if at < len(data):
        data[at] ^= 1 << draw.randrange(8)


def _set(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    data[at : at + 1] = bytes([draw.choice(BYTES) if draw.random() < 0.7 else draw.randrange(256)])


def _number(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    number, form = draw.choice(NUMBERS), draw.choice(["<H", ">H", "<I", ">I", "<Q", ">Q", ""])
    text = struct.pack(form, number % 2 ** (8 * struct.calcsize(form))) if form else str(number).encode()
    data[at : at + len(text)] = text


def _insert(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    data[at:at] = draw.randbytes(draw.randrange(1, 9))


def _word(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    if target.words:
        word = draw.choice(target.words)
        data[at : at + draw.choice([0, len(word)])] = word


def _remove(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    del data[at : at + draw.choice([1, 2, 8, 512])]


def _cut(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    if draw.random() < 0.3:  # one that is cut off leaves little to change
        del data[at:]


def _again(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    data[at:at] = data[at : at + draw.choice([1, 16, 512])] * draw.choice([1, 2, 20])


def _splice(draw: random.Random, data: bytearray, at: int, target: Target) -> None:
    other = draw.choice(target.seeds)
    data[at:] = other[draw.randrange(len(other) + 1) :]


_CHANGES = [_flip, _set, _number, _insert, _word, _remove, _cut, _again, _splice]
