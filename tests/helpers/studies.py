"""Studies as plain values, and as TOML."""

from __future__ import annotations

import json
from typing import Any

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
