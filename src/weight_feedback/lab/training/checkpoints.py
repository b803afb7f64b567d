"""Epoch checkpoints: how far training is, in one file, so that it can go on from there to the same bits.

The file is in the safetensors format and never unpickled. Its tensors and plain values are those of
`Resumable.state`; its metadata are a `Header`, as JSON, and a SHA-256 digest of all bytes of the file, with zeros
in the place of the digest itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from weight_feedback.files import write_atomically
from weight_feedback.lab.tasks.base import Resumable
from weight_feedback.lab.tasks.fields import Frozen, explain

FORMAT: Literal[1] = 1
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class CheckpointError(ValueError):
    """A checkpoint from which training can't go on; the message names the file, what was expected and found."""


class Header(Frozen):
    """What a checkpoint says besides its tensors."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    format: Literal[1] = FORMAT
    same: dict[str, str | int]
    """What must be the same where training goes on, or the bits may differ."""
    epoch: Annotated[int, Field(ge=1)]
    """How many epochs are finished."""
    plain: Annotated[Any, Field(alias="histories")]
    """Of the training's state; under the name that it had when only histories of networks were kept."""
    started: str
    """When training began, in ISO format."""
    seconds: Annotated[float, Field(ge=0)]
    """How long it has taken, without what was lost."""
    resumed: Annotated[int, Field(ge=0)]
    """How many times it has gone on from a checkpoint."""


def encode(header: Header, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a checkpoint's file.

    Args:
        header: what to say.
        tensors: name to tensor, on any device, of any strides.
    """
    parts = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(parts, {"checkpoint": header.model_dump_json(), "sha256": "0" * 64})
    place = _DIGEST.search(content)
    assert place is not None
    return _with_digest(content, place, hashlib.sha256(content).hexdigest())


def decode(content: bytes) -> tuple[Header, dict[str, Tensor]]:
    """Return what was given to `encode`, every byte of it checked.

    Args:
        content: of the file.

    Raises:
        CheckpointError: it is damaged, of another format, or not a checkpoint.
    """
    place = _DIGEST.search(content)
    if place is None:
        raise CheckpointError(f"expected a checkpoint, found {len(content)} bytes without a digest: it is damaged")
    expected, found = place[1].decode(), hashlib.sha256(_with_digest(content, place, "0" * 64)).hexdigest()
    if expected != found:
        raise CheckpointError(f"expected bytes whose digest is {expected}, found {found}: it is damaged")
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        said = json.loads(content[8 : 8 + length])["__metadata__"]["checkpoint"]
        number = json.loads(said)["format"]
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"expected a checkpoint, found something else ({error!r})") from None
    if number != FORMAT:
        raise CheckpointError(f"expected format {FORMAT}, found {number!r}, which this version can't read")
    try:
        header = Header.model_validate_json(said)
    except ValidationError as error:
        raise CheckpointError(f"header: {explain(error).splitlines()[0]}") from None
    return header, tensors


def _with_digest(content: bytes, place: re.Match[bytes], digest: str) -> bytes:
    return content[: place.start(1)] + digest.encode() + content[place.end(1) :]


class Checkpointer:
    """Keeps a checkpoint of training, and a clock that goes on with it.

    Args:
        path: of the file; None: none is kept.
        every: seconds, at least, from one checkpoint to the next, and from the start to the first.
        same: what must be as it was when the checkpoint was written.
        note: called with a line for people when a checkpoint can't be used or written.

    Attributes:
        started: when training began, in ISO format.
        resumed: how many times it has gone on from a checkpoint.

    Raises:
        ValueError: ``every`` isn't at least 0.
    """

    def __init__(
        self, path: Path | None, every: float, same: Mapping[str, str | int], note: Callable[[str], None]
    ) -> None:
        if not every >= 0:
            raise ValueError(f"checkpoint_seconds: expected at least 0, got {every}")
        self.started, self.resumed = datetime.now(UTC).isoformat(timespec="seconds"), 0
        self._path, self._every, self._same, self._note = path, every, dict(same), note
        self._clock = self._last = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long training has taken so far, without what was lost."""
        return time.perf_counter() - self._clock

    def resume(self, training: Resumable) -> int:
        """Let training go on from the checkpoint, if there is a usable one; move an unusable one aside.

        Args:
            training: that has yet to begin.

        Returns:
            How many epochs are finished.

        Raises:
            OSError: there is a file, but it can't be read or moved.
        """
        if self._path is None:
            return 0
        try:
            header = self._restore(training, self._path.read_bytes())
        except FileNotFoundError:
            return 0
        except CheckpointError as error:
            self._note(f"{self._path}: {error}; it is now {_move_aside(self._path)}, and training starts over")
            return 0
        self.started, self.resumed = header.started, header.resumed + 1
        self._clock -= header.seconds
        return header.epoch

    def _restore(self, training: Resumable, content: bytes) -> Header:
        header, tensors = decode(content)
        for name in {**self._same, **header.same}:
            expected, found = self._same.get(name), header.same.get(name)
            if expected != found:
                raise CheckpointError(f"expected {name} {expected!r}, found {found!r}")
        try:
            training.restore(header.epoch, header.plain, tensors)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        return header

    def keep(self, training: Resumable, epoch: int) -> None:
        """Write a checkpoint after an epoch, if it is time for one.

        One that can't be written is no reason to stop: that is noted, and the next one is tried.

        Args:
            training: to keep.
            epoch: how many are finished.
        """
        if self._path is None or time.perf_counter() - self._last < self._every:
            return
        plain, tensors = training.state()
        header = Header(
            same=self._same,
            epoch=epoch,
            plain=plain,
            started=self.started,
            seconds=self.seconds,
            resumed=self.resumed,
        )
        try:
            write_atomically(self._path, encode(header, tensors))
        except OSError as error:
            self._note(f"{error}; training goes on without this checkpoint")
        self._last = time.perf_counter()


def _move_aside(path: Path) -> Path:
    """Move a file to a free name beside it, and return that."""
    names = (path.with_name(f"{path.name}.unusable-{number}") for number in itertools.count(1))
    goal = next(name for name in names if not name.exists())
    with suppress(FileNotFoundError):  # another process moves it as well
        path.rename(goal)
    return goal
