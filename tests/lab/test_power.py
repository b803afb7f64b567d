"""Power and plans: cross-checked with statsmodels, published tables, and the tests themselves on simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from weight_feedback.lab.statistics.estimates import equivalence_p, flip_p, flip_signs
from weight_feedback.lab.statistics.power import (
    MOST_SEEDS,
    detectable_effect,
    detectable_margin,
    detection_power,
    equivalence_power,
    least_pairs,
    seeds_for_equivalence,
    seeds_to_detect,
    smallest_equivalence_p,
    smallest_flip_p,
)

NAN = math.nan


@pytest.mark.parametrize(("n", "alpha"), [(12, 0.05), (17, 0.01), (30, 0.05), (200, 0.001)])
def test_detection_is_statsmodels(n, alpha) -> None:
    theirs = TTestPower()
    assert detection_power(n, 0.3, alpha) == pytest.approx(theirs.power(0.3, n, alpha), rel=1e-9)
    assert detection_power(n, -0.3, alpha) == pytest.approx(theirs.power(0.3, n, alpha), rel=1e-9)
    effect = float(np.squeeze(theirs.solve_power(nobs=n, alpha=alpha, power=0.8)))
    assert detectable_effect(n, 2.0, alpha) == pytest.approx(2 * effect, rel=1e-5)


def test_detection_by_published_tables() -> None:
    """G*Power and Cohen (1988): d_z = 0.5 needs 34 pairs, 0.2 needs 199, 0.8 needs 15, for 80 % power at 5 %."""
    assert [seeds_to_detect(effect, 1.0) for effect in (0.5, 0.2, 0.8)] == [34, 199, 15]
    assert seeds_to_detect(-0.25, 0.5) == 34


@given(st.integers(2, 500), st.sampled_from([0.2, 0.05, 0.01, 0.05 / 8, 0.001]), st.sampled_from([0.5, 0.8, 0.95]))
def test_detectable_effects_are_found_everywhere(n, alpha, power) -> None:
    effect = detectable_effect(n, 1.0, alpha, power)
    if 2.0 ** (1 - n) >= alpha:
        assert math.isnan(effect)
        assert detection_power(n, 100.0, alpha) == 0.0
        return
    assert detection_power(n, effect, alpha) == pytest.approx(power, abs=0.002)
    assert detectable_effect(n, 3.0, alpha, power) == pytest.approx(3 * effect)
    assert detectable_effect(n + 1, 1.0, alpha, power) < 1.02 * effect  # simulated, on other numbers


@pytest.mark.parametrize(
    ("n", "effect", "alpha"), [(6, 1.8, 0.05), (8, 1.2, 0.05), (10, 1.0, 0.01), (12, 1.2, 0.05)]
)
def test_power_is_that_of_the_sign_flip_test(n, effect, alpha) -> None:
    """4,000 studies of other numbers: the standard error of both together is at most 0.014; allow three."""
    samples = np.random.default_rng(99).normal(effect, 1, (4000, n))
    found = np.mean(flip_p(samples, flip_signs(n, 10_000)) < alpha)
    assert detection_power(n, effect, alpha) == pytest.approx(found, abs=0.042)


@pytest.mark.parametrize(("pairs", "contrasts"), [(5, 1), (6, 2), (6, 3), (8, 10)])
def test_too_few_pairs_have_no_power(pairs, contrasts) -> None:
    """All signs alike give the smallest p-value, 2 / 2ⁿ: 0.0625 of five pairs, 0.03125 of six."""
    assert math.isnan(detectable_effect(pairs, 1.0, 0.05 / contrasts))
    assert detectable_effect(pairs + 1, 1.0, 0.05 / contrasts) > 0
    assert least_pairs(smallest_flip_p, 0.05 / contrasts) == pairs + 1


def test_equivalence_takes_a_pair_less() -> None:
    assert [least_pairs(smallest_equivalence_p, 0.05 / contrasts) for contrasts in (1, 2, 3, 10)] == [5, 6, 6, 8]
    assert math.isnan(detectable_margin(4))
    assert equivalence_power(4, 0.1, 100.0) == 0.0
    assert equivalence_power(5, 0.1, 100.0) == 1.0


def test_some_levels_are_below_every_p_value() -> None:
    """From 17 pairs on flips are drawn, always as many."""
    assert least_pairs(smallest_flip_p, 5e-6) is None
    assert seeds_to_detect(1.0, 1.0, 5e-6) is None
    assert math.isnan(detectable_effect(1000, 1.0, 5e-6))


def test_seeds_are_the_fewest() -> None:
    for effect, alpha in ((0.37, 0.01), (20.0, 0.05)):
        n = seeds_to_detect(effect, 1.0, alpha)
        assert detection_power(n, effect, alpha) >= 0.8 > detection_power(n - 1, effect, alpha)
    n = seeds_for_equivalence(1.0, 0.5, 0.1)
    assert n is not None
    assert equivalence_power(n, 1.0, 0.5, 0.1) >= 0.8 > equivalence_power(n - 1, 1.0, 0.5, 0.1)


def test_some_plans_have_no_number() -> None:
    assert seeds_to_detect(0.0, 1.0) is None
    assert seeds_to_detect(1e-6, 1.0) is None
    assert seeds_for_equivalence(1.0, 0.2, 0.2) is None
    assert seeds_for_equivalence(1.0, 0.2, -0.3) is None
    assert seeds_for_equivalence(1.0, 1e-6) is None
    most = seeds_to_detect(0.0029, 1.0)
    assert most is not None
    assert MOST_SEEDS / 2 < most <= MOST_SEEDS


def test_plans_without_spread() -> None:
    assert seeds_to_detect(0.5, 0.0) == 6
    assert seeds_for_equivalence(0.0, 0.2, 0.1) == 5
    assert equivalence_power(5, 0.0, 0.2, 0.3) == 0.0
    assert equivalence_power(5, 0.0, 0.2, 0.2) == equivalence_power(5, 0.0, 0.2, -0.2) == 0.0


@pytest.mark.parametrize(("n", "difference"), [(6, 0.0), (9, 0.2), (12, 0.3), (40, -0.4)])
def test_equivalence_power_by_simulation(n, difference) -> None:
    """4,000 studies of other numbers, with the very test: the standard error is at most 0.014; allow three."""
    samples = np.random.default_rng(98).normal(difference, 1.0, (4000, n))
    shown = equivalence_p(samples, 0.8, flip_signs(n, 10_000)) < 0.05
    assert equivalence_power(n, 1.0, 0.8, difference) == pytest.approx(shown.mean(), abs=0.042)


def test_equivalence_power_with_many_pairs_is_normal() -> None:
    """With 10,000 pairs, Φ((margin − difference)/error − z) and its mirror."""
    error, z = 0.01, stats.norm.isf(0.05)
    theory = stats.norm.cdf(0.005 / error + 2 - z) + stats.norm.cdf(-0.005 / error + 2 - z) - 1
    assert equivalence_power(10_000, 1.0, 0.02, 0.005) == pytest.approx(theory, abs=1e-3)


@pytest.mark.parametrize(
    ("n", "sd", "alpha", "power"),
    [
        (1, 1.0, 0.05, 0.8),
        (5, -1.0, 0.05, 0.8),
        (5, NAN, 0.05, 0.8),
        (5, 1.0, 0.9, 0.8),
        (5, 1.0, 0.0, 0.8),
        (5, 1.0, 0.05, 1),
    ],
)
def test_detectable_effect_checks_its_settings(n, sd, alpha, power) -> None:
    with pytest.raises(ValueError, match=rf"got n = {n}, sd = {sd}, alpha = {alpha}, power = {power}"):
        detectable_effect(n, sd, alpha, power)


def test_a_level_that_a_p_value_meets_is_not_passed() -> None:
    """Tests reject below their level: 5 pairs have 1/16 and 1/32 at the least, and 16 of a sign 2⁻¹⁵ and 2⁻¹⁶."""
    assert [least_pairs(smallest_flip_p, 1 / 16), least_pairs(smallest_equivalence_p, 1 / 32)] == [6, 6]
    assert math.isnan(detectable_effect(5, 1.0, 1 / 16))
    assert math.isnan(detectable_margin(5, 1 / 32))
    assert detection_power(5, 100.0, 1 / 16) == equivalence_power(5, 0.1, 100.0, alpha=1 / 32) == 0.0
    assert detection_power(6, 100.0, 2 / 32) == 1.0
    # Two of the 32 pairs of flips are at the level itself.
    strict = detection_power(6, 1.0, 2 / 32)
    assert strict < detection_power(6, 1.0, 2.01 / 32)
    assert equivalence_power(6, 1.0, 1.0, alpha=2 / 64) < equivalence_power(6, 1.0, 1.0, alpha=2.01 / 64)
    assert [smallest_flip_p(16), smallest_equivalence_p(16)] == [2.0**-15, 2.0**-16]
