"""Which trials come from surroundings whose bits may differ; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

#: What bits depend on besides settings and data: entries of a trial's provenance, and what they are called.
DECIDING = {
    "machine": "machine",
    "processor": "processor",
    "cpu": "CPU capability",
    "device": "device",
    "threads": "threads a trial",
    "torch": "torch",
    "weight_feedback": "weight-feedback",
}


def differences(here: Mapping[str, Any], finished: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what differs between the surroundings of a run and those that finished trials come from.

    Args:
        here: as in a provenance.
        finished: provenances; what older ones lack is unknown, and counts as equal.

    Returns:
        One phrase for each entry that differs; none if trials may be added.
    """
    phrases = []
    for entry, found in _values(finished).items():
        if others := sorted(set(found) - {_value(entry, here)}):
            phrases.append(f"{DECIDING[entry]} {' and '.join(others)}, here {_value(entry, here)}")
    return phrases


def mixed_surroundings(provenances: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one sentence for each entry that decides about bits and differs between trials.

    Args:
        provenances: of finished trials.
    """
    sentences = []
    for entry, found in _values(provenances).items():
        if len(found) > 1:
            values = ", ".join(f"{value} ({count} trials)" for value, count in sorted(found.items()))
            sentences.append(
                f"Trials come from different surroundings, whose bits may differ: {DECIDING[entry]} {values}."
            )
    return sentences


def _values(provenances: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    known = list(provenances)
    return {entry: Counter(_value(entry, one) for one in known if entry in one) for entry in DECIDING}


def _value(entry: str, provenance: Mapping[str, Any]) -> str:
    value = str(provenance[entry])
    # Whichever of several GPUs it was; their kind is the processor.
    return value.partition(":")[0] if entry == "device" else value
