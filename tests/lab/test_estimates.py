"""Estimates against scipy called directly, and by their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from weight_feedback.lab.estimates import mean_interval


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(0.5, 0.999))
def test_interval_is_students(values, confidence) -> None:
    found = mean_interval(values, confidence)
    error = stats.sem(values)
    mean = math.fsum(values) / len(values)
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-6)
    half = stats.t.isf((1 - confidence) / 2, len(values) - 1) * error
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-6, abs=1e-6)


def test_coverage() -> None:
    """10,000 samples of 8: the standard error of the measured coverage is 0.2 points; allow four."""
    samples = np.random.default_rng(0).normal(3, 2, (10_000, 8))
    intervals = [mean_interval(sample, 0.95) for sample in samples]
    covered = np.mean([interval.low <= 3 <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=0.009)


def test_one_value_has_no_interval() -> None:
    found = mean_interval([97.5])
    assert found.mean == 97.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [([], 0.95, r"shape \(0,\)"), ([[1.0, 2.0]], 0.95, r"shape \(1, 2\)"), ([1.0, 2.0], 1.0, "got 1.0")],
)
def test_bad_input(values, confidence, message) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values, confidence)
