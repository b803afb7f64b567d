"""The estimate of how many dimensions a task needs, against naive versions, known curves and its laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weight_feedback.lab.statistics.dimension import Measured, estimate

# In hundredths of a point, as a test set of 10,000 gives them: many ties.
accuracies = st.integers(5000, 10_000).map(lambda n: n / 100)
measured = st.dictionaries(
    st.integers(1, 2000), st.lists(accuracies, min_size=1, max_size=4), min_size=1, max_size=7
)
few = settings(max_examples=25)


def quick(accuracy, threshold: float = 90.0, confidence: float = 0.95) -> Measured:
    return estimate(accuracy, threshold, confidence, resamples=20)


def naive_fit(accuracy) -> list[float]:
    """Isotonic regression by its formula: the largest, over beginnings, of the smallest mean, over ends."""
    rows = [accuracy[d] for d in sorted(accuracy)]
    n = len(rows)

    def mean(i: int, j: int) -> float:
        return float(np.mean([value for row in rows[i : j + 1] for value in row]))

    return [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


def naive_crossing(dimensions, fitted, threshold: float) -> float:
    if fitted[0] >= threshold - 1e-9:
        return 0.0
    for (d0, y0), (d1, y1) in itertools.pairwise(zip(dimensions, fitted, strict=True)):
        if y1 >= threshold - 1e-9:
            share = min((threshold - y0) / (y1 - y0), 1.0)
            return d0 * (d1 / d0) ** share
    return math.inf


@few
@given(measured, accuracies)
def test_fit_and_estimate_are_those_of_the_formulas(accuracy, threshold) -> None:
    found = quick(accuracy, threshold)
    fitted = naive_fit(accuracy)
    assert found.fitted == pytest.approx(fitted, rel=1e-12)
    assert found.dimension.value == pytest.approx(naive_crossing(sorted(accuracy), fitted, threshold), rel=1e-6)


@few
@given(measured, accuracies, accuracies)
def test_a_higher_threshold_never_needs_fewer_dimensions(accuracy, one, other) -> None:
    lower, higher = sorted((one, other))
    for less, more in zip(quick(accuracy, lower).dimension, quick(accuracy, higher).dimension, strict=True):
        assert less <= more or math.isnan(less) or math.isclose(less, more, rel_tol=1e-9)


@few
@given(measured, st.randoms())
def test_order_changes_nothing(accuracy, random) -> None:
    shuffled = {d: random.sample(accuracy[d], len(accuracy[d])) for d in random.sample([*accuracy], len(accuracy))}
    assert repr(quick(shuffled)) == repr(quick(accuracy))


@few
@given(measured, accuracies)
def test_the_interval_holds_the_bounds_that_are_seen(accuracy, threshold) -> None:
    _, low, high = quick(accuracy, threshold).dimension
    assert math.isnan(low) == math.isnan(high) == all(len(values) == 1 for values in accuracy.values())
    if not math.isnan(low):
        assert low <= high
        assert all(end in (0, math.inf) or min(accuracy) <= end <= max(accuracy) for end in (low, high))


def test_a_straight_line_in_the_logarithm_is_met_where_it_should_be() -> None:
    line = {d: [100 + 10 * math.log10(d / 1000)] for d in (10, 100, 1000)}
    found = quick(line, 95.0)
    assert found.dimension.value == pytest.approx(1000 / math.sqrt(10))
    assert found.estimate == "316"  # a single seed has no interval
    assert quick(line, 90.0).dimension.value == pytest.approx(100)


def test_a_step_is_between_the_two_that_it_parts() -> None:
    found = quick({100: [50, 50], 200: [50, 50], 400: [99, 99], 800: [99, 99]})
    assert 200 < found.dimension.low == found.dimension.high < 400


def test_noise_that_goes_down_is_averaged() -> None:
    found = quick({100: [80], 200: [91], 300: [88], 400: [95]})
    np.testing.assert_allclose(found.fitted, [80, 89.5, 89.5, 95])
    assert found.dimension.value == pytest.approx(300 * (4 / 3) ** (0.5 / 5.5))


def test_seeds_weigh() -> None:
    np.testing.assert_allclose(quick({1: [90, 90, 90], 2: [50], 3: [95]}).fitted, [80, 80, 95])


def test_what_lies_outside_is_a_bound() -> None:
    assert quick({100: [91, 92], 400: [95, 96]}).estimate == "< 100 [< 100, < 100]"
    assert quick({100: [61, 62], 1200: [75, 76]}).estimate == "> 1,200 [> 1,200, > 1,200]"
    open_ends = quick({100: [89, 91.5], 1200: [89.7, 92]})
    assert open_ends.estimate.startswith("< 100 [< 100, ")
    assert open_ends.estimate.endswith("> 1,200]")


def test_the_threshold_itself_is_reached() -> None:
    # Means of equal numbers may be off by rounding.
    assert quick({1: [90.1] * 3, 2: [90.1] * 7}, 90.1).dimension.value == 0
    assert quick({1: [50], 2: [90.0]}, 90.0).dimension.value == pytest.approx(2)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_the_interval_is_that_of_all_resamples(confidence) -> None:
    accuracy = {100: [80.0, 84.0], 200: [92.0, 97.0]}
    resamples = [
        naive_crossing([100, 200], [np.mean(a), np.mean(b)], 88.0)
        for a in itertools.product(accuracy[100], repeat=2)
        for b in itertools.product(accuracy[200], repeat=2)
    ]
    outside = (1 - confidence) / 2
    expected = (
        np.quantile(resamples, outside, method="lower"),
        np.quantile(resamples, 1 - outside, method="higher"),
    )
    found = estimate(accuracy, 88.0, confidence, resamples=4000).dimension
    assert (found.low, found.high) == pytest.approx(expected)


def test_ends_between_two_resamples_are_the_outer_ones() -> None:
    spread = {100: [70.0, 72.0, 75.0, 79.0], 200: [92.0, 93.0, 95.0, 99.0]}
    widest = estimate(spread, 88.0, 0.999, resamples=2).dimension
    assert widest.low < widest.high
    assert estimate(spread, 88.0, 0.001, resamples=2).dimension == widest


@pytest.mark.parametrize(
    ("accuracy", "options", "message"),
    [
        ({}, {}, "at least 1 dimension and a finite threshold, got those of \\[\\]"),
        ({0: [1.0]}, {}, "got those of \\[0\\]"),
        ({5: [1.0]}, {"threshold": math.nan}, "finite threshold, .* nan"),
        ({5: []}, {}, "values of 5 dimensions must be a vector"),
        ({5: [[1.0]]}, {}, "values of 5 dimensions must be a vector"),
        ({5: [math.nan]}, {}, "values of 5 dimensions must be a vector of finite"),
        ({5: [1.0]}, {"confidence": 1.0}, "confidence must lie between 0 and 1"),
    ],
)
def test_bad_input(accuracy, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(accuracy, **options)


def test_an_interval_needs_resamples() -> None:
    with pytest.raises(ValueError, match="resamples: expected at least 1, got 0"):
        estimate({100: [80.0, 81.0]}, resamples=0)
