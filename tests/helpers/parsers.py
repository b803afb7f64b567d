"""Every parser of what comes from outside, with valid inputs to start from.

Where a checksum would turn every change away at the door, a target says how to make it right again, so that what
lies behind is reached too.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import weight_feedback as wf
from helpers.fuzzing import Target
from helpers.made_up_study import STUDY, record
from helpers.saved_models import CONFIG, WEIGHTS
from helpers.studies import BASE, document
from weight_feedback.lab.data import datasets, parsers
from weight_feedback.lab.data.reading import DataError
from weight_feedback.lab.store.store import Store, StoreError, read_record
from weight_feedback.lab.study.toml import StudyError, load_study
from weight_feedback.lab.tasks.base import PlainTrial, Resumable
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import ConvNet
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.training.checkpoints import Checkpointer, CheckpointError, Header, decode, encode
from weight_feedback.lab.training.context import TrialContext
from weight_feedback.pretrained import PretrainedError, load_pretrained, save_pretrained

_JSON = [b"NaN", b"1e999", b"9" * 5000, b"[" * 100_000, b"{}", b"[]", b"null", b"true", b'"\\ud800"', b"-0.0", b"2"]
_SAFETENSORS = [
    b"F32",
    b"F64",
    b"I64",
    b"BF16",
    b"[0,0]",
    b"[1099511627776]",
    b"-1",
    b"data_offsets",
    b"__metadata__",
]


def targets(folder: Path) -> dict[str, Target]:
    """Return all targets by name.

    Args:
        folder: empty; for files, which some parsers read.
    """
    makers = {
        "idx": _idx,
        "idx-files": _idx_files,
        "cifar": _cifar,
        "archive": _archive,
        "pickle": _pickle,
        "record": _record,
        "study": _study,
        "config": _config,
        "weights": _weights,
        "checkpoint": _checkpoint,
        "state": _state,
    }
    made = {}
    for name, make in makers.items():
        (folder / name).mkdir(parents=True)
        made[name] = make(folder / name)
    return made


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)  # with a small dictionary, which each reading allocates


def _idx(folder: Path) -> Target:
    whole = struct.pack(">4I", 0x0803, 2, 3, 4) + bytes(24)
    return Target([whole], lambda data: parsers.parse_idx(data, "idx", (2, 3, 4)), DataError)


def _idx_files(folder: Path) -> Target:
    images = struct.pack(">4I", 0x0803, 2, 3, 4) + bytes(range(24))
    labels = struct.pack(">2I", 0x0801, 2) + bytes([3, 9])
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(labels)

    def parse(data: bytes) -> object:
        (folder / "data").write_bytes(data)
        try:
            return parsers.read_idx(folder / "data", folder / "labels", 2, (3, 4))
        except DataError:
            return parsers.read_idx(folder / "images", folder / "data", 2, (3, 4))

    packed = [pack(kind) for kind in (images, labels) for pack in (bytes, gzip.compress, _xz)]
    return Target(packed, parse, DataError)


def _cifar(folder: Path) -> Target:
    whole = b"".join(bytes([label]) + bytes(3072) for label in (0, 9))
    return Target([whole], lambda data: parsers.parse_cifar(data, "cifar", 2), DataError)


def _archive(folder: Path) -> Target:
    def pack(kind: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
            for label, name in enumerate(parsers.CIFAR_BATCHES):
                info = tarfile.TarInfo(f"{parsers.CIFAR_BINARY_FOLDER}/{name}.bin")
                info.size, info.mtime = 3073, 1.5
                archive.addfile(info, io.BytesIO(bytes([label]) + bytes(3072)))
        return buffer.getvalue()

    def mend(data: bytes) -> bytes:
        blocks = bytearray(data)
        for start in range(0, len(blocks) - 511, 512):
            if blocks[start + 257 : start + 262] == b"ustar":
                blocks[start + 148 : start + 156] = 8 * b" "
                blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + 512])
        return bytes(blocks)

    def parse(data: bytes) -> object:
        (folder / "archive").write_bytes(data)
        return parsers.read_cifar_archive(folder / "archive", 1)

    plain = [pack(kind) for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    words = [b"../", b"/", b"x", b"g", b"L", b"S", b"2", b"ustar\x0000", b"\xff" * 12, b"77777777777", bytes(512)]
    return Target([*plain, gzip.compress(plain[0]), _xz(plain[0])], parse, DataError, words, mend)


def _pickle(folder: Path) -> Target:
    # As Python 2 wrote it, by hand: numpy has changed since.
    pixels = bytes(2 * 3072)
    whole = (
        b"\x80\x02}q\x01(U\x06labelsq\x02](K\x03K\x09eU\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(pixels)) + pixels + b"tbu."
    )
    codes = b"(.012BCFGIJKLMNPQRSTUVX]abcdeghijloqrstu}"
    codes += b"\x80\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8e\x8f\x90\x91\x93\x94\x95\x96"
    words = [
        b"cos\nsystem\n",
        b"cnumpy\nndarray\n",
        b"q\x01",
        b"h\x01",
        b"r\xff\xff\xff\x7f",
        b"q\x01h\x01\x86" * 40,
    ]
    words += [bytes([code]) for code in codes]
    return Target([whole], lambda data: parsers.parse_cifar_pickle(data, "pickle", 2), DataError, words)


def _record(folder: Path) -> Target:
    trial = STUDY.trial(STUDY.arms[3], 0)
    path = Store(folder).write(trial, record(trial, "own"))

    def mend(data: bytes) -> bytes:
        try:
            content = json.loads(data)
            for part in content["sha256"]:
                text = json.dumps(content[part], sort_keys=True)
                content["sha256"][part] = hashlib.sha256(text.encode()).hexdigest()
            return json.dumps(content).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            return data

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read_record(path)

    return Target([path.read_bytes()], parse, StoreError, _JSON, mend)


def _study(folder: Path) -> Target:
    path = folder / "study.toml"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return load_study(str(path)).declaration()

    words = [b"nan", b"1e999", b"0x" + b"f" * 900, b"9" * 900, b"[" * 900, b"a" + b".a" * 450, b"\xef\xbb\xbf"]
    words += [b'"""', b"'''", b"\\u202e", b"\\U00110000", b"2026-01-01T00:00:00Z", b"[[arms]]", b"{}", b"[]", b"\r"]
    return Target([document(BASE).encode()], parse, StudyError, words)


class _Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 2), nn.Linear(2, 2)


def _saved(folder: Path) -> tuple[bytes, bytes, Callable[[], object]]:
    """Save a model with feedback; return its two files, and what loads them."""
    model = wf.attach(_Tiny(), "fc1", signal=wf.Stale(wf.Noise(torch.ones(3)), lag=2))
    wf.attach(model, "fc2", reads=["fc1"], summary=wf.MaxPool([(1, 2)], 3))
    save_pretrained(model, folder)
    base = _Tiny()
    return (
        (folder / CONFIG).read_bytes(),
        (folder / WEIGHTS).read_bytes(),
        lambda: wf.remove(load_pretrained(base, folder)),
    )


def _described(content: Any, weights: bytes) -> bytes:
    """Return a description whose checksums are right."""
    content["weights"] = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    content.pop("sha256", None)
    text = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def _config(folder: Path) -> Target:
    config, weights, load = _saved(folder)

    def mend(data: bytes) -> bytes:
        try:
            return _described(json.loads(data), weights)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return data

    def parse(data: bytes) -> object:
        (folder / CONFIG).write_bytes(data)
        return load()

    return Target([config], parse, PretrainedError, _JSON, mend)


def _weights(folder: Path) -> Target:
    config, weights, load = _saved(folder)
    content = json.loads(config)

    def parse(data: bytes) -> object:
        (folder / WEIGHTS).write_bytes(data)
        # The checksum is in the other file.
        (folder / CONFIG).write_bytes(_described(content, data))
        return load()

    return Target([weights], parse, PretrainedError, [*_SAFETENSORS, *_JSON])


def _checkpoint(folder: Path) -> Target:
    data = datasets.load("generated")
    small = replace(
        data,
        train_images=data.train_images[:4, :, :16, :16],
        train_labels=data.train_labels[:4] % 2,
        test_images=data.test_images[:2, :, :16, :16],
        test_labels=data.test_labels[:2] % 2,
    )

    def fresh() -> Lockstep:
        model = ConvNet((1, 1, 1), side=16, hidden=1, classes=2)
        wf.attach(model, "fc1", reads=["fc2"], summary=wf.CountSketch(1, seed=0))
        return Lockstep([model], small, Training(epochs=2, batch_size=2), [0])

    whole = fresh()
    whole.train_epoch()
    plain, tensors = whole.state()
    header = Header(same={"torch": "2"}, epoch=1, plain=plain, started="now", seconds=1.0, resumed=0)
    goes_on = fresh()
    return _resumed(encode(header, tensors), lambda: goes_on)


def _state(folder: Path) -> Target:
    class Held:
        """Takes the place of what keeps checkpoints, and hands out what it is to keep."""

        def resume(self, training: Resumable) -> int:
            self.training = training
            return 0

    def fresh() -> tuple[TrialContext, Resumable]:
        trial, device, held = PlainTrial(path="tasks:own", values={}, seed=0), torch.device("cpu"), Held()
        one = TrialContext(trial, None, device, None, None, cast(Checkpointer, held), ["accuracy"])
        one.stream("noise")
        one.rng("order", 1)
        model = nn.Linear(1, 1)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
        model(torch.ones(1)).sum().backward()
        next(one.epochs(2, model=model, optimiser=optimiser))
        optimiser.step()
        return one, held.training

    one, training = fresh()
    one.report(accuracy=0.5)
    one.diagnose(drift=float("nan"))
    one.keep("text", "a")
    plain, tensors = training.state()
    header = Header(same={"torch": "2"}, epoch=1, plain=plain, started="now", seconds=1.0, resumed=0)
    return _resumed(encode(header, tensors), lambda: fresh()[1])


def _resumed(whole: bytes, make: Callable[[], Resumable]) -> Target:
    """Return what lets training that is made go on from a checkpoint."""

    def mend(data: bytes) -> bytes:
        before, mark, after = data.partition(b'"sha256":"')
        blank = before + mark + b"0" * 64 + after[64:]
        return before + mark + hashlib.sha256(blank).hexdigest().encode() + after[64:] if mark else data

    def parse(data: bytes) -> None:
        header, tensors = decode(data)
        try:
            make().restore(header.epoch, header.plain, tensors)
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    return Target([whole], parse, CheckpointError, [b"checkpoint", *_SAFETENSORS, *_JSON], mend)
