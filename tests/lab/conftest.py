"""Fixtures of the lab's tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pooch
import pytest

from helpers.data_files import TEST, TRAIN
from weight_feedback.lab.data import catalogue


@pytest.fixture
def tmp_path(tmp_path) -> Path:
    """Return a folder beside which there is no other: studies look at the seeds of those beside theirs."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> Path:
    """Make data sets of a few images the expected ones, and keep the user's own data out of the tests."""
    monkeypatch.delenv("WEIGHT_FEEDBACK_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    for name in ("mnist", "fashion-mnist"):
        small = replace(catalogue.SOURCES[name], train=TRAIN, test=TEST)
        monkeypatch.setitem(catalogue.SOURCES, name, small)
    monkeypatch.setitem(catalogue.SOURCES, "cifar10", replace(catalogue.SOURCES["cifar10"], train=10, test=2))
    return tmp_path
