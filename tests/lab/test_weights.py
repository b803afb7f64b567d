"""Files of final weights, read without torch: the digest is that of what torch writes; all else is damaged."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors import torch as tensors

from weight_feedback.lab.store.store import Record, StoreError
from weight_feedback.lab.store.weights import read_weights
from weight_feedback.lab.tasks.fields import weights_digest

STATE = {
    "weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    "steps": torch.tensor(2),
    "empty": torch.zeros(0),
    "mask": torch.tensor([True, False]),
    "half": torch.ones(2, dtype=torch.float16),
}


def record_of(content: bytes) -> Record:
    return Record({"weights": hashlib.sha256(content).hexdigest()}, {})


def test_the_digest_is_that_of_the_file_without_metadata(tmp_path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    content = tensors.save(STATE)
    assert weights_digest(arrays) == hashlib.sha256(content).hexdigest()
    (tmp_path / "weights").write_bytes(tensors.save(STATE, {"network": "any"}))
    read = read_weights(tmp_path / "weights", record_of(content))
    assert read.keys() == STATE.keys()
    assert all(torch.equal(torch.from_numpy(array), STATE[name]) for name, array in read.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_numpy_has_no_type_for_are_damage(tmp_path, dtype) -> None:
    content = tensors.save({"weight": torch.ones(2).to(dtype)})
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(StoreError, match="weights: not the weights of the trial's record"):
        read_weights(tmp_path / "weights", record_of(content))
