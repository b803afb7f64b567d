"""Every parser takes an input or refuses it with the typed error; whatever the input is, nothing else happens.

20,000 inputs a parser here; `make fuzz` runs many more, and lets coverage lead them.
"""

from __future__ import annotations

import itertools
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import fuzzing, limits
from helpers.fuzzing import Target
from helpers.parsers import targets
from weight_feedback.lab.data.archives import BLOCK

NAMES = [
    *("idx", "idx-files", "cifar", "archive", "pickle", "record", "study", "config", "weights", "checkpoint"),
    "state",
]
RUNS = 20_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")  # each input of some parsers is a file
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def parsers(folder) -> dict[str, Target]:
    return targets(folder / "files")


@pytest.fixture
def kept(tmp_path) -> Path:
    return tmp_path / "kept"


def test_the_names_are_all(parsers) -> None:
    assert list(parsers) == NAMES


@pytest.mark.no_cover  # what counts lines would double the time
@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs_are_taken_or_refused(parsers, kept, name) -> None:
    target = parsers[name]
    for seed in target.seeds:
        assert fuzzing.survives(name, target, seed, kept)
        assert not target.mend or fuzzing.survives(name, target, target.mend(seed), kept)
    outcome = fuzzing.fire(name, target, RUNS, seed=6, kept=kept)
    assert outcome.valid + outcome.refused == RUNS
    # Changes go neither unseen nor to the first check alone.
    assert min(outcome.valid, outcome.refused) > RUNS / 50


# By structure


def check(parsers, name: str, data: bytes) -> None:
    fuzzing.survives(name, parsers[name], data, Path(tempfile.gettempdir()) / "fuzz-failures")


@given(st.sampled_from(NAMES), st.binary(max_size=200))
def test_any_bytes(parsers, name, data) -> None:
    check(parsers, name, data)


SHORT = st.binary(max_size=12)
OPERATIONS = st.one_of(
    st.sampled_from(
        [bytes([code]) for code in b"(.012FIJKLMNPQRSTUVX]abdeghijloqrstu}\x81\x85\x86\x87\x88\x89\x90\x93\x94"]
    ),
    st.builds(lambda text: b"U" + bytes([len(text)]) + text, SHORT),
    st.builds(lambda place: b"q" + bytes([place]), st.integers(0, 9)),
    st.builds(lambda place: b"h" + bytes([place]), st.integers(0, 9)),
    st.builds(lambda value: b"K" + bytes([value]), st.integers(0, 255)),
    st.builds(lambda size: b"\x96" + struct.pack("<Q", size), st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1])),
    st.sampled_from(
        [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cos\nsystem\n", b"c\n\n", b"U\x04data", b"U\x06labels"]
    ),
)


@given(st.lists(OPERATIONS, max_size=40))
@settings(max_examples=500)
def test_any_operations_of_a_pickle(parsers, operations) -> None:
    check(parsers, "pickle", b"\x80\x02" + b"".join(operations) + b".")


FIELDS = st.one_of(st.binary(max_size=12), st.integers(0, 8**11 - 1).map(lambda size: b"%o" % size))
MEMBERS = st.tuples(
    st.binary(max_size=100) | st.sampled_from([b"cifar-10-batches-bin/data_batch_1.bin", b"../x", b"/x", b"a/b"]),
    FIELDS | st.none(),
    st.sampled_from([bytes([kind]) for kind in b"\x0001234567xgLKSDVMA"]),
    st.binary(max_size=700),
)


def member(name: bytes, size: bytes | None, kind: bytes, data: bytes) -> bytes:
    block = bytearray(BLOCK)
    block[: len(name)] = name
    field = b"%o" % len(data) if size is None else size
    block[124 : 124 + len(field)] = field
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = 8 * b" "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % BLOCK)


@given(st.lists(MEMBERS, max_size=5), st.sampled_from([b"", bytes(BLOCK), bytes(2 * BLOCK)]))
@settings(max_examples=300)
def test_any_members_of_an_archive(parsers, members, end) -> None:
    check(parsers, "archive", b"".join(itertools.starmap(member, members)) + end)


# What fires is tested too


def starved(_: bytes) -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise ValueError("refused") from error


def endless(_: bytes) -> None:
    while True:
        pass


def greedy(_: bytes) -> None:
    bytearray(2 * fuzzing.MEMORY)


def wrong(_: bytes) -> None:
    raise KeyError("x")


def unprintable(_: bytes) -> None:
    raise ValueError("refused: \ud800")


@pytest.mark.parametrize(
    ("parse", "failure"),
    [
        (starved, ValueError),
        (endless, limits.Endless),
        pytest.param(
            greedy, MemoryError, marks=pytest.mark.skipif(sys.platform != "linux", reason="no such bound")
        ),
        (wrong, KeyError),
        (unprintable, ValueError),
    ],
)
def test_a_parser_that_does_anything_else_is_found_out(kept, parse, failure) -> None:
    target, seconds = Target([b"seed"], parse, ValueError), 0.2 if parse is endless else fuzzing.SECONDS
    with pytest.raises(AssertionError, match=r"python tests/fuzz.py bad --again .*/bad-\w+ raises") as found:
        fuzzing.fire("bad", target, 1, 0, kept, seconds)
    assert type(found.value.__cause__) is failure
    (path,) = kept.iterdir()
    with pytest.raises(AssertionError, match=re.escape(str(path))) as found:
        fuzzing.again("bad", target, path, kept, seconds)
    assert type(found.value.__cause__) is failure


def test_the_same_seed_gives_the_same_inputs(kept) -> None:
    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []
        fuzzing.fire("any", Target([bytes(range(99))], seen.append, ValueError), 50, seed, kept)
        return seen

    assert inputs(0) == inputs(0) != inputs(1)
    assert len(set(inputs(0))) > 40
