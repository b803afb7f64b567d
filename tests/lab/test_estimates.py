"""Estimates against scipy called directly, brute force, published values, and the laws that they obey."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from weight_feedback.lab.statistics import estimates
from weight_feedback.lab.statistics.estimates import (
    area_under_curve,
    at_best_of,
    best,
    effect_size,
    equivalence,
    final,
    first_past,
    flip_signs,
    hedges,
    mean_interval,
    mean_of_last,
    no_spread,
    paired_differences,
    sign_flip,
    superiority,
)

# Accuracies in hundredths of a point, as a test set of 10,000 gives them: many ties.
hundredths = st.integers(-300, 300).map(lambda n: n / 100)
differences = st.lists(hundredths, min_size=3, max_size=10)
CURVES = [[50.0, 80.0, 90.0, 85.0], [10.0, 20.0, 30.0, 40.0], [math.nan] * 4]


def brute_force(x) -> float:
    """The sign-flip p-value in whole hundredths, without rounding."""
    whole = [round(100 * value) for value in x]
    sums = [
        abs(sum(s * w for s, w in zip(signs, whole, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(x))
    ]
    return sum(total >= abs(sum(whole)) for total in sums) / len(sums)


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


def test_outcomes() -> None:
    np.testing.assert_array_equal(final(CURVES), [85, 40, math.nan])
    np.testing.assert_array_equal(best(CURVES), [90, 40, math.nan])
    np.testing.assert_allclose(area_under_curve(CURVES), [(65 + 85 + 87.5) / 3, 25, math.nan])
    np.testing.assert_array_equal(area_under_curve([[70.0], [80.0]]), [70, 80])


def test_area_is_the_trapezoid_rule() -> None:
    curves = np.random.default_rng(0).uniform(0, 100, (5, 7))
    np.testing.assert_allclose(area_under_curve(curves), np.trapezoid(curves, axis=1) / 6)


def test_epochs_to_a_threshold() -> None:
    np.testing.assert_array_equal(first_past(CURVES, 80.0), [2, 5, math.nan])
    np.testing.assert_array_equal(first_past(CURVES, 10.0), [1, 1, math.nan])
    np.testing.assert_array_equal(first_past([[math.nan, 90.0]], 80.0), [math.nan])


def test_less_can_be_better() -> None:
    np.testing.assert_array_equal(best(CURVES, higher=False), [50, 10, math.nan])
    np.testing.assert_array_equal(first_past([[3.0, 2.0, 1.0, 2.0]], 2.0, higher=False), [2])
    np.testing.assert_array_equal(first_past([[3.0, 2.0, 1.0, 2.0]], 0.5, higher=False), [5])
    np.testing.assert_array_equal(first_past([[0.5, 2.0], [math.nan, 0.1]], 1.0, higher=False), [1, math.nan])


def test_the_mean_of_the_last_epochs() -> None:
    np.testing.assert_array_equal(mean_of_last(CURVES, 1), final(CURVES))
    np.testing.assert_array_equal(mean_of_last(CURVES, 2), [87.5, 35, math.nan])
    np.testing.assert_array_equal(mean_of_last(CURVES, 4), [76.25, 25, math.nan])
    np.testing.assert_array_equal(mean_of_last(CURVES, 100), mean_of_last(CURVES, 4))
    # What is missing before them doesn't matter.
    np.testing.assert_array_equal(mean_of_last([[math.nan, 1.0, 2.0], [1.0, 2.0, math.nan]], 2), [1.5, math.nan])
    for last in (0, -1):
        with pytest.raises(ValueError, match=f"last must be at least 1, got {last}"):
            mean_of_last(CURVES, last)


def test_a_metric_where_another_is_best() -> None:
    validation = [[1.0, 3.0, 2.0, 3.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]]
    np.testing.assert_array_equal(at_best_of(CURVES, validation), [80, 10, math.nan])
    np.testing.assert_array_equal(at_best_of(CURVES, validation, higher=False), [50, 40, math.nan])
    np.testing.assert_array_equal(at_best_of(CURVES, CURVES), best(CURVES))
    # A validation that is missing anywhere may have been best there; a metric may miss at other epochs.
    np.testing.assert_array_equal(at_best_of([[1.0, 2.0]], [[math.nan, 5.0]]), [math.nan])
    np.testing.assert_array_equal(
        at_best_of([[math.nan, 2.0], [math.nan, 2.0]], [[1.0, 5.0], [5.0, 1.0]]), [2, math.nan]
    )
    with pytest.raises(ValueError, match=r"one shape, got \(3, 4\) and \(1, 4\)"):
        at_best_of(CURVES, CURVES[:1])


# Whole numbers tie often; missing values are rare enough for most curves to be whole.
points = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.just(math.nan))


@st.composite
def two_curves(draw) -> tuple[np.ndarray, np.ndarray]:
    seeds, epochs = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    rows = st.lists(st.lists(points, min_size=epochs, max_size=epochs), min_size=seeds, max_size=seeds)
    return np.array(draw(rows)), np.array(draw(rows))


def naive_best(row: list[float], higher: bool) -> float:
    found = row[0]
    for value in row:
        if math.isnan(value):
            return math.nan
        if (value > found) if higher else (value < found):
            found = value
    return found


def naive_first_past(row: list[float], threshold: float, higher: bool) -> float:
    if any(math.isnan(value) for value in row):
        return math.nan
    for epoch, value in enumerate(row, start=1):
        if value == threshold or (value > threshold) == higher:
            return float(epoch)
    return len(row) + 1.0


def naive_mean_of_last(row: list[float], last: int) -> float:
    total, count = 0.0, 0
    for value in reversed(row):
        if count < last:
            total, count = total + value, count + 1
    return total / count


def naive_at_best_of(row: list[float], other: list[float], higher: bool) -> float:
    chosen = 0
    for epoch, value in enumerate(other):
        if math.isnan(value):
            return math.nan
        if (value > other[chosen]) if higher else (value < other[chosen]):
            chosen = epoch
    return row[chosen]


@given(two_curves(), st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)), st.booleans())
def test_outcomes_are_those_of_loops_over_each_trial(curves, threshold, higher) -> None:
    curve, other = curves
    rows, others = curve.tolist(), other.tolist()
    same = np.testing.assert_array_equal
    same(best(curve, higher), [naive_best(row, higher) for row in rows])
    same(first_past(curve, threshold, higher), [naive_first_past(row, threshold, higher) for row in rows])
    same(
        at_best_of(curve, other, higher),
        [naive_at_best_of(row, its, higher) for row, its in zip(rows, others, strict=True)],
    )
    for last in range(1, curve.shape[1] + 2):
        expected = [naive_mean_of_last(row, last) for row in rows]
        np.testing.assert_allclose(mean_of_last(curve, last), expected, rtol=1e-12, atol=1e-9)


@given(two_curves(), st.floats(-1e6, 1e6))
def test_less_is_better_is_more_of_the_opposite(curves, threshold) -> None:
    curve, other = curves
    np.testing.assert_array_equal(best(curve, higher=False), -best(-curve))
    np.testing.assert_array_equal(first_past(curve, threshold, higher=False), first_past(-curve, -threshold))
    np.testing.assert_array_equal(at_best_of(curve, other, higher=False), at_best_of(curve, -other))


@pytest.mark.parametrize(
    "outcome",
    [
        final,
        best,
        area_under_curve,
        lambda curve: first_past(curve, 1.0),
        lambda curve: mean_of_last(curve, 1),
        lambda curve: at_best_of(curve, [[1.0]]),
        lambda curve: at_best_of([[1.0]], curve),
    ],
)
@pytest.mark.parametrize("curve", [[1.0, 2.0], np.empty((3, 0))])
def test_outcomes_need_epochs(outcome, curve) -> None:
    with pytest.raises(ValueError, match=r"\[seeds, epochs\] with at least one epoch, got \("):
        outcome(curve)


def test_pairs_with_a_failed_trial_are_dropped() -> None:
    a, b = [3.0, math.nan, 5.0, math.nan, 2.0], [1.0, 2.0, math.nan, math.nan, 4.0]
    np.testing.assert_array_equal(paired_differences(a, b), [-2, 2])
    assert paired_differences([math.nan], [1.0]).size == 0


def test_rounding_is_no_difference() -> None:
    assert paired_differences([0.1 + 0.2], [0.3]).tolist() == [0.0]
    assert paired_differences([97.31], [97.30]).item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], r"one length, got \(2,\), \(1,\)"),
        ([[1.0]], [[1.0]], r"\(1, 1\)"),
        ([math.inf], [1.0], "infinity"),
        ([1.0], [-math.inf], "infinity"),
    ],
)
def test_pairs_must_match(a, b, message) -> None:
    with pytest.raises(ValueError, match=message):
        paired_differences(a, b)


@given(differences)
def test_sign_flip_is_every_flip(x) -> None:
    assert sign_flip(x) == brute_force(x)


@given(differences)
@settings(max_examples=30)
def test_sign_flip_does_not_depend_on_order_or_names(x) -> None:
    assert sign_flip(x) == sign_flip(x[::-1]) == sign_flip([-value for value in x])
    assert sign_flip(x) == sign_flip([1e6 * value for value in x])


def test_up_to_16_pairs_every_flip_is_tried() -> None:
    assert sign_flip(np.arange(1.0, 17.0)) == 2 / 2**16
    # Reports state p-values: the random flips of more pairs must not change by accident.
    assert sign_flip(np.arange(-5.0, 12.0)) == 3190 / 100_001


def test_exact_and_random_flips_agree(monkeypatch) -> None:
    """100,000 flips: the standard error at p = 0.1 is 0.001; allow four."""
    x = np.linspace(-1, 1.6, 16)
    exact = sign_flip(x)
    assert 0.05 < exact < 0.5
    monkeypatch.setattr(estimates, "EXACT", 1)
    sampled = sign_flip(x)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact / 1e5))


def test_random_flips_are_repeatable_and_never_zero() -> None:
    """With 40 equal signs no random flip comes near: the observed one is counted alone."""
    x = np.linspace(1, 2, 40)
    assert sign_flip(x) == 1 / 100_001
    assert sign_flip(x) == sign_flip(x[::-1]) == sign_flip(-x)
    assert sign_flip(np.zeros(40)) == 1.0


def test_random_flips_match_scipy() -> None:
    x = np.random.default_rng(1).normal(0.3, 1, 25)
    theirs = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1, axis=-1
    ).pvalue
    assert sign_flip(x) == pytest.approx(theirs, abs=0.01)


def test_flips() -> None:
    assert sorted(map(tuple, flip_signs(3, 10))) == sorted((a, b, 1) for a in (1, -1) for b in (1, -1))
    assert len(flip_signs(16, 10)) == 2**15
    random = flip_signs(17, 50_000)
    assert random.shape == (50_000, 17)
    assert set(np.unique(random)) == {-1, 1}
    # Each mean has a standard error of 0.0045; allow five.
    assert np.abs(random.mean(axis=0)).max() < 0.0225


def test_memory_blocks_change_nothing(monkeypatch) -> None:
    x = np.random.default_rng(2).normal(0.2, 1, 12)
    whole = sign_flip(x)
    monkeypatch.setattr(estimates, "_BLOCK", 100)
    assert sign_flip(x) == whole


def test_effect_size() -> None:
    x = [1.0, 2.0, 3.0, 6.0]
    assert effect_size(x) == pytest.approx(hedges(3) * 3 / math.sqrt(14 / 3))
    assert effect_size([-value for value in x]) == pytest.approx(-effect_size(x))
    assert effect_size(np.multiply(x, 7)) == pytest.approx(effect_size(x))
    assert effect_size([1.0, 2.0, 3.0]) == pytest.approx(hedges(2) * 2)
    assert math.isnan(effect_size([1.0, 2.0]))


@pytest.mark.parametrize(
    ("df", "published"), [(2, 0.5642), (3, 0.7236), (4, 0.7979), (9, 0.9139), (10, 0.9228), (30, 0.9748)]
)
def test_hedges(df, published) -> None:
    """Against the table of Hedges (1981), and his approximation 1 − 3/(4 df − 1)."""
    assert hedges(df) == pytest.approx(published, abs=2e-3 if df == 9 else 1e-4)
    assert hedges(df) == pytest.approx(1 - 3 / (4 * df - 1), abs=0.01)


def test_effect_size_is_unbiased() -> None:
    """20,000 samples of 5 around d = 0.5: the standard error is 0.004; allow four."""
    samples = np.random.default_rng(0).normal(0.5, 1, (20_000, 5))
    assert np.mean([effect_size(sample) for sample in samples]) == pytest.approx(0.5, abs=0.016)


def test_superiority() -> None:
    assert superiority([1.0, 2.0, 0.0, -1.0]) == 0.625
    assert superiority([0.0]) == 0.5
    assert superiority([3.0]) == 1.0
    assert math.isnan(superiority([]))


def flips_below(distances) -> float:
    """The share of sign flips whose sum is at least as large: one-sided, by brute force."""
    sums = [np.dot(signs, distances) for signs in itertools.product((1, -1), repeat=len(distances))]
    return float(np.mean([total >= sum(distances) - 1e-9 for total in sums]))


@given(differences, st.floats(0.01, 5))
@settings(max_examples=40)
def test_equivalence_is_two_t_tests_and_two_flips(x, margin) -> None:
    assume(not no_spread(x))
    above = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(x, margin, alternative="less").pvalue
    flips = [flips_below([margin - value for value in x]), flips_below([margin + value for value in x])]
    assert equivalence(x, margin) == pytest.approx(max(above, below, *flips), rel=1e-6, abs=1e-12)
    assert equivalence([-value for value in x], margin) == pytest.approx(equivalence(x, margin), rel=1e-12)


def test_equivalence_of_many_pairs_draws_flips() -> None:
    """Of 30 differences of 0 or 1, eight are 1: as few or fewer are so in 0.81 % of fair draws."""
    x = [0.0] * 22 + [1.0] * 8
    exact = stats.binomtest(8, 30, alternative="less").pvalue
    assert stats.ttest_1samp(x, 0.5, alternative="less").pvalue < exact
    assert equivalence(x, 0.5) == pytest.approx(exact, abs=0.001)
    assert equivalence(x[::-1], 0.5) == equivalence([-value for value in x], 0.5) == equivalence(x, 0.5)


@pytest.mark.parametrize("n", range(2, 12))
def test_no_p_value_of_equivalence_is_below_what_its_flips_can_say(n) -> None:
    assert equivalence(np.linspace(-1e-6, 1e-6, n), 1.0) == pytest.approx(2.0**-n)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_equivalence_needs_a_margin(margin) -> None:
    with pytest.raises(ValueError, match="margin must be a number above 0, got"):
        equivalence([1.0, 2.0], margin)


@pytest.mark.parametrize("value", [0.1, -0.1, 0.0, 1.0])
def test_without_spread(value) -> None:
    """The pairs are as computed: equal but for rounding."""
    x = np.array([97.3, 96.4, 50.0, 12.7, 33.3]) + value - np.array([97.3, 96.4, 50.0, 12.7, 33.3])
    assert value in {0.0, 1.0} or np.ptp(x) > 0
    assert no_spread(x)
    assert sign_flip(x) == (1.0 if value == 0 else 2 / 32)
    assert math.isnan(equivalence(x, 0.2))
    assert effect_size(x) == (math.copysign(math.inf, value) if value else 0.0)


def test_spread() -> None:
    # Python's own truth values, which JSON has.
    assert no_spread([]) is False
    assert no_spread([1.0]) is False
    assert no_spread([0.01, 0.02]) is False
    assert no_spread([1.0, 1.0, 1.0001]) is False
    assert no_spread([0.0, 0.0]) is True


def test_two_pairs_are_enough() -> None:
    assert sign_flip([1.0, 2.0]) == 0.5


@pytest.mark.parametrize("x", [[], [0.5]])
def test_fewer_than_two_pairs(x) -> None:
    assert math.isnan(sign_flip(x))
    assert math.isnan(equivalence(x, 0.2))
    assert math.isnan(effect_size(x))


@pytest.mark.parametrize(
    "function", [sign_flip, effect_size, superiority, no_spread, lambda x: equivalence(x, 1.0)]
)
@pytest.mark.parametrize("x", [[1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_differences_must_be_numbers(function, x) -> None:
    with pytest.raises(ValueError, match=r"\w+: differences must be a vector of finite numbers, got array"):
        function(x)
