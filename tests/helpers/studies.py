"""Small studies that many tests run; studies as plain values, and as TOML."""

from __future__ import annotations

import json
from typing import Any

from weight_feedback.lab.study.study import Arm, Study

PLAIN = {"name": "plain", "model": "mnist-plain", "label": "w/o"}
OWN = {"name": "own", "model": "mnist-plain", "label": "w/", "signal": "own"}
BASE = {
    "name": "tiny",
    "title": "A tiny study",
    "data": "generated",
    "seeds": 2,
    "training": {"epochs": 1, "batch_size": 500},
    "summary": {"k": 3},
    "arms": [PLAIN, OWN],
    "declared": {"primary": [["own", "plain"]], "margin": 0.5},
}


def compare_networks(**changes: Any) -> Study:
    """A study of two of the notebook's networks, plain and pooled, of which nothing is declared."""
    names = ("plain", "pooled")
    arms = [{"name": name, "model": f"mnist-{name}", "label": f"with {name}"} for name in names]
    return _tiny({"arms": arms, **changes})


def compare_signals(*signals: str, **changes: Any) -> Study:
    """A study of the plain network with signals, of which the last is to be compared with the first."""
    arms = [{"name": name, "model": "mnist-plain", "label": f"with {name}", "signal": name} for name in signals]
    declared = {"primary": [[signals[-1], signals[0]]], "margin": 1.0}
    return _tiny({"summary": {"k": 4}, "arms": arms, "declared": declared, **changes})


def _tiny(fields: dict[str, Any]) -> Study:
    common = {"name": "tiny", "title": "Tiny", "data": "generated", "seeds": 2}
    return Study.model_validate({**common, "training": {"epochs": 1, "batch_size": 250}, **fields})


def study_text(study: Study) -> str:
    """The file that a study is read from."""
    return document(study.model_dump(mode="json", exclude_unset=True, exclude_none=True))


def toml(value: Any) -> str:
    """Write a value as TOML, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):  # TOML has no halves of characters
        return "".join(
            f"\\U{ord(c):08x}" if not c.isprintable() else c for c in json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value)


def document(study: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(name)} = {toml(value)}\n" for name, value in study.items())


def change(study: Study, **fields: Any) -> Study:
    """The same study with other fields or settings."""
    return Study.model_validate({**study.model_dump(mode="json"), **fields})


def change_arm(arm: Arm, **fields: Any) -> Arm:
    """The same arm with other fields or settings."""
    return Arm.model_validate({**arm.model_dump(mode="json"), **fields})
