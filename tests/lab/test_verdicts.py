"""Verdicts: the table of cases, Holm's rules, and plans cross-checked with statsmodels and simulation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from weight_feedback.lab.estimates import (
    Interval,
    bca_interval,
    effect_size,
    equivalence,
    mean_interval,
    sign_flip,
    superiority,
)
from weight_feedback.lab.verdicts import (
    MOST_SEEDS,
    Estimate,
    detectable_effect,
    detection_power,
    equivalence_power,
    estimate,
    holm,
    seeds_for_equivalence,
    seeds_to_detect,
    verdicts,
)

NAN = math.nan
PLAIN = Estimate(
    n=30,
    missing=0,
    mean=0.031,
    sd=0.2,
    t=Interval(0.031, -0.052, 0.114),
    bca=Interval(0.031, -0.05, 0.11),
    flip_p=0.5,
    d_z=0.15,
    superiority=0.5,
    tost_p=0.5,
    detectable=0.1,
    no_spread=False,
    margin=0.2,
    confidence=0.95,
)


@pytest.fixture(autouse=True, scope="module")
def no_collections() -> Iterator[None]:
    """Statsmodels' multipletests collects all garbage at each call: a tenth of a second, hundreds of times here."""
    with mock.patch("gc.collect"):
        yield


def vary(**changes) -> Estimate:
    return dataclasses.replace(PLAIN, **changes)


def test_an_estimate_is_its_parts() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(90, 1, 12), rng.normal(89.5, 1, 12)
    found = estimate(a, b, margin=0.3, confidence=0.9)
    x = np.sort(a - b)
    assert (found.n, found.missing, found.no_spread, found.too_few) == (12, 0, False, False)
    assert (found.mean, found.sd) == (x.mean(), x.std(ddof=1))
    assert found.t == mean_interval(x, 0.9)
    assert found.bca == bca_interval(x, 0.9)
    assert found.flip_p == sign_flip(x)
    assert found.d_z == effect_size(x)
    assert found.superiority == superiority(x)
    assert found.tost_p == equivalence(x, 0.3)
    assert found.detectable == detectable_effect(12, float(x.std(ddof=1)), 0.1)
    assert (found.margin, found.confidence) == (0.3, 0.9)


def test_order_of_seeds_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    a, b, order = rng.normal(90, 1, 20), rng.normal(90, 1, 20), rng.permutation(20)
    a[3] = NAN
    assert estimate(a, b, 0.3) == estimate(a[order], b[order], 0.3)


def test_swapped_arms_mirror() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(90, 1, 20), rng.normal(90, 1, 20)
    one, other = estimate(a, b, 0.3), estimate(b, a, 0.3)
    assert other.mean == pytest.approx(-one.mean)
    assert (other.t.low, other.t.high) == pytest.approx((-one.t.high, -one.t.low))
    assert (other.bca.low, other.bca.high) == (-one.bca.high, -one.bca.low)
    assert other.d_z == pytest.approx(-one.d_z)
    assert other.superiority == pytest.approx(1 - one.superiority)
    assert other.flip_p == one.flip_p
    assert other.tost_p == pytest.approx(one.tost_p)


def test_missing_pairs_are_counted() -> None:
    found = estimate([1.0, NAN, 3.0, 5.0], [1.0, 2.0, NAN, 1.0], 0.2)
    assert (found.n, found.missing, found.mean) == (2, 2, 2.0)


def test_without_spread() -> None:
    found = estimate([97.3, 96.4, 50.0], [97.2, 96.3, 49.9], 0.2)
    assert found.no_spread
    assert (found.sd, found.detectable, found.tost_p, found.flip_p) == (0.0, 0.0, 0.0, 0.25)
    assert found.t == found.bca == (found.mean, found.mean, found.mean)
    assert found.mean == pytest.approx(0.1)
    assert found.d_z == math.inf


@pytest.mark.parametrize("n", [0, 1])
def test_too_few(n) -> None:
    found = estimate([1.5] * n + [NAN], [1.0] * n + [1.0], 0.2)
    assert found.too_few
    assert (found.n, found.missing, found.no_spread) == (n, 1, False)
    nothing = [found.sd, *found.t[1:], *found.bca[1:], found.flip_p, found.d_z, found.tost_p, found.detectable]
    assert np.isnan(nothing).all()
    assert found.mean == 0.5 if n else math.isnan(found.mean)
    assert found.superiority == 1.0 if n else math.isnan(found.superiority)


def test_two_pairs_are_enough() -> None:
    found = estimate([1.5, 2.5, NAN], [1.0, 1.0, 1.0], 0.2)
    assert not found.too_few
    assert found.detectable == detectable_effect(2, math.sqrt(0.5))


def test_estimate_checks_its_settings() -> None:
    with pytest.raises(ValueError, match="estimate: confidence must lie between 0 and 1, got 1"):
        estimate([1.0, 2.0], [1.0, 1.0], 0.2, 1)
    with pytest.raises(ValueError, match="margin must be a number above 0, got 0"):
        estimate([1.0, 2.0], [1.0, 1.0], 0)


def test_holm_by_hand() -> None:
    """The example of Holm's rule: times 4, 3, 2, 1 from the smallest, never below an earlier one, never above 1."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([]).size == 0


def test_holm_counts_what_could_not_be_tested() -> None:
    np.testing.assert_allclose(holm([0.01, NAN, 0.02]), [0.03, NAN, 0.04])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_laws(p) -> None:
    """It keeps the order, lowers no p, does no more than Bonferroni, and no less for company."""
    adjusted = holm(p)
    raw = np.array(p)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(p)) * (1 + 1e-12)).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    np.testing.assert_allclose(holm(p[::-1]), adjusted[::-1])
    assert (holm([*p, 1.0])[:-1] >= adjusted * (1 - 1e-12)).all()


@pytest.mark.parametrize("p", [[1.1], [-0.1, 0.5], [[0.1]]])
def test_holm_needs_p_values(p) -> None:
    with pytest.raises(ValueError, match="holm: p must be a vector of numbers from 0 to 1, got array"):
        holm(p)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"tost_p": 0.01, "flip_p": 0.5}, "equivalent"),
        ({"tost_p": 0.01, "flip_p": 0.001}, "equivalent"),
        ({"flip_p": 0.01, "mean": 0.5}, "better"),
        ({"flip_p": 0.01, "mean": -0.5}, "worse"),
        ({"flip_p": 0.05, "tost_p": 0.05}, "undecided"),
        ({"flip_p": 1.0}, "undecided"),
        ({"n": 57, "missing": 3, "tost_p": 0.01}, "equivalent"),
        ({"n": 56, "missing": 3, "tost_p": 0.01}, "withheld"),
        ({"n": 1, "sd": NAN, "flip_p": NAN, "tost_p": NAN}, "withheld"),
        ({"n": 0, "mean": NAN, "sd": NAN, "flip_p": NAN, "tost_p": NAN}, "withheld"),
    ],
)
def test_table_of_verdicts(changes, kind) -> None:
    assert verdicts({"only": vary(**changes)}, 0.2)["only"].kind == kind


def test_the_family_is_corrected() -> None:
    """At 0.02 each of the two claims would hold by itself; among three contrasts only the smallest p-values do."""
    family = {
        "same": vary(tost_p=0.016, flip_p=0.9),
        "better": vary(tost_p=0.9, flip_p=0.016),
        "neither": vary(tost_p=0.03, flip_p=0.03),
    }
    found = verdicts(family, 0.2)
    assert list(found) == list(family)
    assert [verdict.kind for verdict in found.values()] == ["equivalent", "better", "undecided"]
    assert found["neither"].flip_p == pytest.approx(0.06)
    assert found["neither"].tost_p == pytest.approx(0.06)
    assert found["same"].tost_p == pytest.approx(0.048)
    assert found["same"].estimate is family["same"]
    assert [verdict.kind for verdict in verdicts({"alone": family["neither"]}, 0.2).values()] == ["equivalent"]


def test_withheld_contrasts_stay_in_the_family() -> None:
    found = verdicts({"failed": vary(n=20, missing=10, flip_p=0.9), "other": vary(flip_p=0.03)}, 0.2)
    assert [verdict.kind for verdict in found.values()] == ["withheld", "undecided"]
    assert found["failed"].flip_p == 0.9


def test_level_is_that_of_the_confidence() -> None:
    loose = vary(flip_p=0.08, confidence=0.9)
    assert verdicts({"only": loose}, 0.2, 0.9)["only"].kind == "better"


@pytest.mark.parametrize(("margin", "confidence"), [(0.3, 0.95), (0.2, 0.9)])
def test_estimates_must_match(margin, confidence) -> None:
    with pytest.raises(
        ValueError, match=rf"'only' must have margin {margin} and confidence {confidence}, got 0.2 and"
    ):
        verdicts({"only": PLAIN}, margin, confidence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"tost_p": 0.01},
            "own − none: equivalent within ±0.2 points: difference +0.03 points "
            "(95 % interval −0.05 to +0.11, 30 seeds).",
        ),
        (
            {"flip_p": 0.01, "mean": -0.5, "t": Interval(-0.5, -0.9, -0.1), "n": 29, "missing": 1},
            "own − none: worse: difference −0.50 points (95 % interval −0.90 to −0.10, 29 seeds, 1 missing).",
        ),
        (
            {"mean": 0.0, "sd": 1.0, "t": Interval(0.0, -0.001, 0.4)},
            "own − none: undecided: difference +0.00 points (95 % interval +0.00 to +0.40, 30 seeds); "
            "about 220 seeds would be needed if this were the true difference.",
        ),
        (
            {"mean": 0.2, "sd": 1000.0, "t": Interval(0.2, -350.0, 350.0)},
            "own − none: undecided: difference +0.20 points (95 % interval −350.00 to +350.00, 30 seeds); "
            "more than 1,000,000 seeds would be needed if this were the true difference.",
        ),
        (
            {"flip_p": 0.01, "mean": 0.5, "no_spread": True},
            "own − none: better: difference +0.50 points (no spread, 30 seeds).",
        ),
        (
            {"n": 27, "missing": 3},
            "own − none: verdict withheld: 3 of 30 pairs are missing, more than 5 %.",
        ),
        ({"n": 1}, "own − none: verdict withheld: at least 2 pairs are needed, there are 1."),
    ],
)
def test_sentences(changes, sentence) -> None:
    assert verdicts({"only": vary(**changes)}, 0.2)["only"].sentence("own", "none") == sentence


def test_small_margins_have_more_digits() -> None:
    verdict = verdicts({"only": vary(margin=0.02, tost_p=0.01)}, 0.02)["only"]
    assert "±0.02 points: difference +0.031 points (95 % interval −0.052 to +0.114" in verdict.sentence("a", "b")


@pytest.mark.parametrize(("n", "alpha"), [(5, 0.05), (10, 0.01), (30, 0.05), (200, 0.001)])
def test_detection_is_statsmodels(n, alpha) -> None:
    theirs = TTestPower()
    assert detection_power(n, 0.3, alpha) == pytest.approx(theirs.power(0.3, n, alpha), rel=1e-9)
    assert detection_power(n, -0.3, alpha) == pytest.approx(theirs.power(0.3, n, alpha), rel=1e-9)
    effect = float(np.squeeze(theirs.solve_power(nobs=n, alpha=alpha, power=0.8)))
    assert detectable_effect(n, 2.0, alpha) == pytest.approx(2 * effect, rel=1e-6)


def test_detection_by_published_tables() -> None:
    """G*Power and Cohen (1988): d_z = 0.5 needs 34 pairs, 0.2 needs 199, 0.8 needs 15, for 80 % power at 5 %."""
    assert [seeds_to_detect(effect, 1.0) for effect in (0.5, 0.2, 0.8)] == [34, 199, 15]
    assert seeds_to_detect(-0.25, 0.5) == 34


@given(st.integers(2, 500), st.sampled_from([0.2, 0.05, 0.01, 0.05 / 8, 0.001]), st.sampled_from([0.5, 0.8, 0.95]))
def test_detectable_effects_are_found_everywhere(n, alpha, power) -> None:
    """With few pairs and strict levels the noncentral t is far out, where its lower tail is NaN in scipy."""
    effect = detectable_effect(n, 1.0, alpha, power)
    assert detection_power(n, effect, alpha) == pytest.approx(power, abs=1e-9)
    assert detectable_effect(n, 3.0, alpha, power) == pytest.approx(3 * effect)
    assert detectable_effect(n + 1, 1.0, alpha, power) < effect


def test_seeds_are_the_fewest() -> None:
    for n in (seeds_to_detect(0.37, 1.0, 0.01), seeds_to_detect(20.0, 1.0)):
        assert n is not None
        effect, alpha = (0.37, 0.01) if n > 10 else (20.0, 0.05)
        assert detection_power(n, effect, alpha) >= 0.8
        assert n == 2 or detection_power(n - 1, effect, alpha) < 0.8
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
    assert seeds_to_detect(0.5, 0.0) == 2
    assert seeds_for_equivalence(0.0, 0.2, 0.1) == 2
    assert equivalence_power(5, 0.0, 0.2, 0.3) == 0.0
    assert equivalence_power(5, 0.0, 0.2, 0.2) == equivalence_power(5, 0.0, 0.2, -0.2) == 0.0
    # Two pairs can't make a sign-flip test pass: 5 % takes six.
    assert verdicts({"only": vary(n=3, mean=0.5, sd=0.0)}, 0.2)["only"].seeds == 6


def test_equivalence_power_by_simulation() -> None:
    """20,000 studies: the standard error is at most 0.0036; allow four."""
    rng = np.random.default_rng(0)
    for n, difference in ((6, 0.0), (12, 0.3), (40, -0.4)):
        x = rng.normal(difference, 1.0, (20_000, n))
        error = stats.sem(x, axis=1)
        shown = stats.t.sf((0.8 - np.abs(x.mean(axis=1))) / error, n - 1) < 0.05
        assert equivalence_power(n, 1.0, 0.8, difference) == pytest.approx(shown.mean(), abs=0.0145)


def test_equivalence_power_with_many_pairs_is_normal() -> None:
    """With 10,000 pairs, Φ((margin − difference)/error − z) and its mirror."""
    error, z = 0.01, stats.norm.isf(0.05)
    theory = stats.norm.cdf(0.005 / error + 2 - z) + stats.norm.cdf(-0.005 / error + 2 - z) - 1
    assert equivalence_power(10_000, 1.0, 0.02, 0.005) == pytest.approx(theory, abs=1e-3)


def test_undecided_plans_for_the_nearer_claim_at_the_strictest_level() -> None:
    e = vary(mean=0.15, sd=0.5)
    found = verdicts({"one": e, "two": e}, 0.2)["one"].seeds
    detect, equivalent = seeds_to_detect(0.15, 0.5, 0.025), seeds_for_equivalence(0.5, 0.2, 0.15, 0.025)
    assert detect is not None
    assert equivalent is not None
    assert found == detect < equivalent
    near = vary(mean=0.01, sd=0.5)
    assert verdicts({"one": near}, 0.2)["one"].seeds == seeds_for_equivalence(0.5, 0.2, 0.01)


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


def test_less_can_be_better() -> None:
    lower = estimate(np.linspace(1.0, 1.1, 10), np.linspace(2.0, 2.3, 10), 0.1)
    kinds = [verdicts({"a − b": lower}, 0.1, more_is_better=more)["a − b"].kind for more in (True, False)]
    assert kinds == ["worse", "better"]
    assert "points" not in verdicts({"x": lower}, 0.1)["x"].sentence("a", "b", "nats")
