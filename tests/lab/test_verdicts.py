"""Verdicts: the table of cases, Holm's rules, and plans cross-checked with statsmodels and simulation."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from weight_feedback.lab.statistics.estimates import (
    Interval,
    effect_size,
    equivalence,
    holm,
    mean_interval,
    sign_flip,
    superiority,
)
from weight_feedback.lab.statistics.power import detectable_effect, seeds_for_equivalence, seeds_to_detect
from weight_feedback.lab.statistics.verdicts import Estimate, estimate, verdicts

SCOPE = "on this test set, with this training set"
NAN = math.nan
PLAIN = Estimate(
    n=30,
    missing=0,
    mean=0.031,
    sd=0.2,
    t=Interval(0.031, -0.052, 0.114),
    flip_p=0.5,
    d_z=0.15,
    superiority=0.5,
    tost_p=0.5,
    detectable=0.1,
    no_spread=False,
    same=False,
    margin=0.2,
    confidence=0.95,
)


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
    assert found.flip_p == sign_flip(x)
    assert found.d_z == effect_size(x)
    assert found.superiority == superiority(x)
    assert found.tost_p == equivalence(x, 0.3)
    assert found.detectable == detectable_effect(12, float(x.std(ddof=1)), 0.1)
    assert found.interval(0.8) == mean_interval(x, 0.8)
    assert estimate(a, b, 0.3, 0.9, tests=4).detectable == detectable_effect(12, float(x.std(ddof=1)), 0.025)
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
    assert (found.sd, found.flip_p) == (0.0, 0.25)
    assert np.isnan([found.detectable, found.tost_p]).all()
    assert found.t == (found.mean, found.mean, found.mean)
    assert found.mean == pytest.approx(0.1)
    assert found.d_z == math.inf


@pytest.mark.parametrize("n", [0, 1])
def test_too_few(n) -> None:
    found = estimate([1.5] * n + [NAN], [1.0] * n + [1.0], 0.2)
    assert found.too_few
    assert (found.n, found.missing, found.no_spread) == (n, 1, False)
    nothing = [found.sd, *found.t[1:], found.flip_p, found.d_z, found.tost_p, found.detectable]
    assert np.isnan(nothing).all()
    assert found.mean == 0.5 if n else math.isnan(found.mean)
    assert found.superiority == 1.0 if n else math.isnan(found.superiority)


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


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5))
def test_families_are_corrected_row_by_row(p) -> None:
    np.testing.assert_array_equal(holm(p), [holm(row) for row in p])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_holm_is_statsmodels(p) -> None:
    with mock.patch("gc.collect"):  # which multipletests does at each call
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


@pytest.mark.parametrize("p", [[1.1], [-0.1, 0.5], 0.1])
def test_holm_needs_p_values(p) -> None:
    with pytest.raises(ValueError, match="holm: p must be a vector of numbers from 0 to 1, or several, got array"):
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
        ({"sd": 0.0, "no_spread": True, "tost_p": NAN, "flip_p": 0.001}, "withheld"),
        ({"sd": 0.0, "no_spread": True, "same": True, "tost_p": NAN, "flip_p": 1.0, "mean": 0.0}, "equivalent"),
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
    assert math.isnan(found["failed"].flip_p)
    given = verdicts(
        {"failed": vary(flip_p=0.001), "other": vary(flip_p=0.03)}, 0.2, withheld={"failed": "asked for"}
    )
    assert [verdict.kind for verdict in given.values()] == ["withheld", "undecided"]
    assert given["failed"].sentence("a", "b") == "a − b: verdict withheld: asked for."


def test_both_claims_can_hold() -> None:
    found = verdicts({"own": vary(tost_p=0.01, flip_p=0.02, mean=-0.1)}, 0.2)["own"]
    assert (found.kind, found.direction) == ("equivalent", "worse")
    assert found.sentence("own", "none", "points", SCOPE) == (
        "own − none: equivalent within ±0.2 points, and worse, on this test set, with this training set: "
        "difference −0.10 points (90 % interval −0.16 to −0.04 for equivalence, 95 % interval −0.17 to −0.03 "
        "for a difference; adjusted p 0.01 of equivalence and 0.02 of a difference; 30 seeds)."
    )


def test_intervals_have_the_level_of_their_test() -> None:
    """Three contrasts by hand: Holm divides by 3, 2, 1 as long as it rejects, and by what is left from then on."""
    family = {
        "first": vary(flip_p=0.001, tost_p=0.04),
        "second": vary(flip_p=0.02, tost_p=0.001),
        "third": vary(flip_p=0.3, tost_p=0.04),
    }
    found = verdicts(family, 0.2)
    assert [verdict.flip_confidence for verdict in found.values()] == pytest.approx(
        [1 - 0.05 / 3, 1 - 0.05 / 2, 0.95]
    )
    assert [verdict.tost_confidence for verdict in found.values()] == pytest.approx([0.95, 1 - 0.1 / 3, 0.95])
    halved = verdicts(family, 0.2, error="both")
    assert [verdict.tost_confidence for verdict in halved.values()] == pytest.approx(
        [1 - 0.05 / 2, 1 - 0.05 / 3, 1 - 0.05 / 2]
    )


def test_an_interval_within_the_margin_goes_with_equivalence_and_no_other(monkeypatch) -> None:
    """The level that belongs to the verdict makes the two one statement, as far as flips agree with t tests."""
    # How many seeds what is undecided would take isn't looked at, and takes long.
    monkeypatch.setattr("weight_feedback.lab.statistics.verdicts._seeds_to_decide", lambda *_: None)
    rng = np.random.default_rng(3)
    for _ in range(50):
        one, two = (estimate(rng.normal(0.1, 0.4, 20), np.zeros(20), 0.3) for _ in "ab")
        for verdict in verdicts({"one": one, "two": two}, 0.3).values():
            interval = verdict.estimate.interval(verdict.tost_confidence)
            within = -0.3 < interval.low <= interval.high < 0.3
            assert within or verdict.kind != "equivalent"


def test_halved_levels() -> None:
    """At 5 % for both together, each claim is tested at 2.5 %."""
    e = vary(flip_p=0.03)
    assert [verdicts({"only": e}, 0.2, error=error)["only"].kind for error in ("each", "both")] == [
        "better",
        "undecided",
    ]
    e = vary(tost_p=0.03)
    assert [verdicts({"only": e}, 0.2, error=error)["only"].kind for error in ("each", "both")] == [
        "equivalent",
        "undecided",
    ]


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
            "own − none: equivalent within ±0.2 points on this test set, with this training set: "
            "difference +0.03 points (90 % interval −0.03 to +0.09; adjusted p 0.01 of equivalence and 0.5 of a "
            "difference; 30 seeds).",
        ),
        (
            {"flip_p": 0.00001, "mean": -0.5, "sd": 1.0, "n": 29, "missing": 1},
            "own − none: worse on this test set, with this training set: difference −0.50 points (95 % interval "
            "−0.88 to −0.12; adjusted p 0.5 of equivalence and below 0.0001 of a difference; 29 seeds, 1 missing).",
        ),
        (
            {"mean": 0.0, "sd": 1.0},
            "own − none: undecided on this test set, with this training set: difference +0.00 points (95 % "
            "interval −0.37 to +0.37; adjusted p 0.5 of equivalence and 0.5 of a difference; 30 seeds); about 220 "
            "fresh seeds (140 to 390, as 30 pairs tell their spread) would be needed if this were the true "
            "difference.",
        ),
        (
            {"mean": 0.2, "sd": 1000.0, "tost_p": NAN},
            "own − none: undecided on this test set, with this training set: difference +0.20 points (95 % "
            "interval −373.21 to +373.61; adjusted p 0.5 of a difference; 30 seeds); more than 1,000,000 seeds "
            "would be needed if this were the true difference.",
        ),
        (
            {"flip_p": 1.0, "tost_p": NAN, "mean": 0.0, "sd": 0.0, "no_spread": True, "same": True},
            "own − none: equivalent within ±0.2 points on this test set, with this training set: difference +0.00 "
            "points (the same numbers in every epoch of every pair; 30 seeds).",
        ),
        (
            {"flip_p": 0.01, "mean": 0.5, "sd": 0.0, "no_spread": True},
            "own − none: verdict withheld: all 30 differences are 0.5, and without any spread nothing is known of "
            "others.",
        ),
        (
            {"n": 27, "missing": 3},
            "own − none: verdict withheld: 3 of 30 pairs are missing, more than 5 %.",
        ),
        ({"n": 1}, "own − none: verdict withheld: at least 2 pairs are needed, there are 1."),
    ],
)
def test_sentences(changes, sentence) -> None:
    assert verdicts({"only": vary(**changes)}, 0.2)["only"].sentence("own", "none", "points", SCOPE) == sentence


def test_small_margins_have_more_digits() -> None:
    verdict = verdicts({"only": vary(margin=0.02, tost_p=0.01)}, 0.02)["only"]
    assert "difference +0.031 points (90 % interval −0.031 to +0.093;" in verdict.sentence("a", "b", "points")


def test_a_plain_number_has_no_unit() -> None:
    verdict = verdicts({"only": vary(tost_p=0.01)}, 0.2)["only"]
    said = verdict.sentence("a", "b", scope="on this task")
    assert said.startswith("a − b: equivalent within ±0.2 on this task: difference +0.03 (90 % interval")
    assert said == verdict.sentence("a", "b", "points", "on this task").replace(" points", "")


def test_where_nothing_is_said_of_the_scope_the_sentence_is_whole() -> None:
    for changes in ({"tost_p": 0.01}, {"flip_p": 0.01, "mean": 0.5}, {}):
        verdict = verdicts({"only": vary(**changes)}, 0.2)["only"]
        assert verdict.sentence("a", "b") == verdict.sentence("a", "b", scope=SCOPE).replace(f" {SCOPE}", "")


def test_undecided_plans_for_the_nearer_claim_at_the_strictest_level() -> None:
    e = vary(mean=0.15, sd=0.5)
    found = verdicts({"one": e, "two": e}, 0.2)["one"].seeds
    detect, equivalent = seeds_to_detect(0.15, 0.5, 0.025), seeds_for_equivalence(0.5, 0.2, 0.15, 0.025)
    assert found.about == detect < equivalent
    near = vary(mean=0.01, sd=0.5)
    assert verdicts({"one": near}, 0.2)["one"].seeds.about == seeds_for_equivalence(0.5, 0.2, 0.01)
    halved = verdicts({"one": near}, 0.2, error="both")["one"].seeds
    assert halved.about == seeds_for_equivalence(0.5, 0.2, 0.01, 0.025)


def test_seeds_needed_are_as_uncertain_as_the_spread() -> None:
    """Of 30 pairs, the 95 % interval of the standard deviation is 0.796 to 1.344 times the measured one."""
    found = verdicts({"only": vary(mean=0.15, sd=0.5)}, 0.2)["only"].seeds
    assert found.low == seeds_to_detect(0.15, 0.5 * 0.79640, 0.05)
    assert found.high == seeds_to_detect(0.15, 0.5 * 1.34432, 0.05)


def test_less_can_be_better() -> None:
    lower = estimate(np.linspace(1.0, 1.1, 10), np.linspace(2.0, 2.3, 10), 0.1)
    kinds = [verdicts({"a − b": lower}, 0.1, more_is_better=more)["a − b"].kind for more in (True, False)]
    assert kinds == ["worse", "better"]
    assert "points" not in verdicts({"x": lower}, 0.1)["x"].sentence("a", "b", "nats")


def test_what_is_rounded_contradicts_nothing() -> None:
    many = {str(i): vary(confidence=0.999, flip_p=1e-7 if i else 1e-8) for i in range(10)}
    assert "(99.99 % interval" in verdicts(many, 0.2, 0.999)["0"].sentence("a", "b")
    assert "0.0496 of a difference" in verdicts({"only": vary(flip_p=0.0496)}, 0.2)["only"].sentence("a", "b")


def test_seeds_for_equivalence_are_not_named_where_it_is_not_judged() -> None:
    e = vary(mean=0.01, sd=0.5)
    assert verdicts({"only": e}, 0.2)["only"].seeds.about < 100
    assert verdicts({"only": dataclasses.replace(e, tost_p=NAN)}, 0.2)["only"].seeds.about > 1000


def test_two_pairs_are_enough_for_an_estimate() -> None:
    found = estimate([1.5, 2.5, NAN], [1.0, 1.0, 1.0], 0.2)
    assert not found.too_few
    assert found.t == mean_interval([0.5, 1.5])
    assert verdicts({"only": found}, 0.2)["only"].kind == "withheld"  # one of three is missing
    assert verdicts({"only": estimate([1.5, 2.5], [1.0, 1.0], 0.2)}, 0.2)["only"].kind == "undecided"
