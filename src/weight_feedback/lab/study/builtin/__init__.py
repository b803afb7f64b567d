"""The studies that come with the package, by name; it imports nothing."""

from __future__ import annotations

from importlib import resources


def builtin_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    files = resources.files("weight_feedback.lab.study.builtin").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))
