"""The final weights of a trial, in a safetensors file; without torch, so that merging needs none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from weight_feedback.lab.store.store import Record, StoreError
from weight_feedback.lab.tasks.fields import weights_digest

Arrays = dict[str, np.ndarray[Any, Any]]


def read_weights(path: Path, record: Record) -> Arrays:
    """Read the final weights of a trial, and check that they are those of its record.

    Args:
        path: of the safetensors file.
        record: of the trial.

    Returns:
        Name to array.

    Raises:
        OSError: the file can't be read.
        StoreError: it is damaged, or holds other weights.
    """
    content = path.read_bytes()
    try:
        arrays = load(content)
    except (SafetensorError, KeyError):  # the latter where NumPy has no such type of number, as bfloat16
        arrays = {}
    known = record.result.get("weights") or record.result.get("kept", {}).get("weights")
    if weights_digest(arrays) != known:
        raise StoreError(f"{path}: not the weights of the trial's record; delete both to run the trial again")
    return arrays
