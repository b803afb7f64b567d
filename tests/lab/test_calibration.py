"""The estimators keep their promises on simulated studies; and the simulation notices when they don't."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from weight_feedback.lab.statistics import calibration, estimates
from weight_feedback.lab.statistics.calibration import SHAPES, calibrate, families, looking
from weight_feedback.lab.statistics.estimates import sign_flip
from weight_feedback.lab.statistics.power import detection_power
from weight_feedback.lab.statistics.verdicts import estimate, verdicts


def test_the_simulation_runs_the_estimators(monkeypatch) -> None:
    """Study by study with the functions that analyses use, and scipy's bootstrap: the same counts."""
    monkeypatch.setattr(calibration, "RESAMPLES", 2000)
    found = calibrate(studies=100, seeds=(8,), effect=0.5)[8]
    samples = np.random.default_rng([0, 8]).normal(0.5, 1.0, (100, 8))
    assert found.flip_rejections.mean == np.mean([sign_flip(x) < 0.05 for x in samples])
    bca = [stats.bootstrap((x,), np.mean, n_resamples=2000, rng=1).confidence_interval for x in samples]
    covered = np.mean([interval.low <= 0.5 <= interval.high for interval in bca])
    assert found.bca_coverage.mean == pytest.approx(covered, abs=0.02)


def test_an_interval_holds_its_ends() -> None:
    """A quarter of the resamples of 0 and 1 are 0 twice, as many 1 twice: those are the ends."""
    for end in (0.0, 1.0):
        found = calibration.measure(np.array([[0.0, 1.0]]), effect=end)
        assert (found.n, found.studies, found.bca_coverage.mean) == (2, 1, 1)


def test_an_analysis_draws_ten_times_as_often() -> None:
    assert 10 * calibration.FLIPS == estimates.FLIPS


def test_shares_have_wilson_intervals() -> None:
    found = calibrate(studies=50, seeds=(5,))[5].t_coverage
    z, p, n = stats.norm.isf(0.025), found.mean, 50
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


def test_each_n_has_its_own_stream() -> None:
    both, alone = calibrate(studies=50, seeds=(5, 9)), calibrate(studies=50, seeds=(9,))
    assert both[9] == alone[9]
    assert calibrate(studies=50, seeds=(9,), seed=1) != alone


@pytest.mark.parametrize(("studies", "seeds", "sd"), [(0, (5,), 1.0), (5, (1,), 1.0), (5, (5,), 0.0)])
def test_settings_are_checked(studies, seeds, sd) -> None:
    with pytest.raises(ValueError, match=r"calibrate: expected studies ≥ 1, seeds ≥ 2 and sd > 0, got"):
        calibrate(studies=studies, seeds=seeds, sd=sd)


def test_the_least_that_can_be_simulated() -> None:
    found = calibrate(studies=1, seeds=(2,), sd=1e-3)
    assert [(n, one.n, one.studies) for n, one in found.items()] == [(2, 2, 1)]


# What takes seconds


@pytest.fixture(scope="module")
def null() -> dict[int, calibration.Calibration]:
    return calibrate(sd=0.3)


@pytest.mark.parametrize("n", [10, 20, 30])
def test_null_studies(null, n) -> None:
    """2,000 studies: the standard error of a rate of 5 % is 0.5 points; the band is three of them."""
    found = null[n]
    assert (found.n, found.studies) == (n, 2000)
    assert 0.035 < found.t_rejections.mean < 0.065
    assert 0.035 < found.flip_rejections.mean < 0.065
    assert 0.935 < found.t_coverage.mean < 0.965
    # The t test and the t interval are one statement.
    assert found.t_coverage.mean == pytest.approx(1 - found.t_rejections.mean)


def test_bca_is_too_narrow_with_few_seeds(null) -> None:
    """Known of the bootstrap (Hesterberg 2015): which is why reports have t intervals."""
    covered = [null[n].bca_coverage.mean for n in (10, 20, 30)]
    assert covered == sorted(covered)
    assert 0.87 < covered[0] < 0.92
    assert 0.92 < covered[2] < 0.96


def test_power_is_as_planned() -> None:
    found = calibrate(seeds=(20,), effect=0.2, sd=0.3)[20]
    power = detection_power(20, 0.2 / 0.3)
    assert found.t_rejections.low < power < found.t_rejections.high
    assert found.flip_rejections.mean == pytest.approx(power, abs=0.03)
    assert 0.935 < found.t_coverage.mean < 0.965


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("n", [5, 10])
def test_families_keep_their_error_rates(shape, n) -> None:
    """3,000 studies: the standard error of 5 % is 0.4 points; four of them, as each is the worst of ten sizes."""
    found = families(3000, n, shape)
    assert (found.shape, found.n, found.studies) == (shape, n, 3000)
    assert max(found.difference.mean, found.equivalence.mean, found.halved.mean) <= 0.066
    assert found.both.mean <= 0.122


def test_skewed_differences_are_beyond_the_tests(monkeypatch) -> None:
    """In 5.8 % of studies one of 20 is 1, which looks as if the mean were far below a fifth."""
    # Claims of a difference aren't looked at here, and take as long.
    monkeypatch.setattr(calibration, "flip_p", lambda samples, _: np.ones(len(samples)))
    assert families(3000, 20, "skewed").equivalence.mean > 0.05


def test_families_use_up_their_error_rates() -> None:
    """Of normal differences, about 5 % each; so two kinds of claims together have more."""
    found = families(3000, 10)
    assert found.difference.mean > 0.035
    assert found.equivalence.mean > 0.035
    assert found.halved.mean < 0.05 < found.both.mean


def test_few_values_are_too_much_for_t_tests_alone() -> None:
    """At the margin of ½, differences of 0 or 1 are all 0 in one study of 2ⁿ, which t tests alone believe."""
    for n in (2, 3, 4):
        assert families(2000, n, "lattice").equivalence.mean == 0.0


def test_families_are_judged_as_studies_are(monkeypatch) -> None:
    """Family by family, with the functions that analyses use: the same claims."""
    # How many seeds what is undecided would take isn't looked at, and takes long.
    monkeypatch.setattr("weight_feedback.lab.statistics.verdicts._seeds_to_decide", lambda *_: None)
    rng = np.random.default_rng([0, 7, 0])
    zero, edge = ([estimate(x, np.zeros(7), 1.0) for x in rng.normal(mean, 1.0, (300, 7))] for mean in (0.0, 1.0))
    found = families(30, 7)

    def worst(estimates, claimed, fewest=1, error="each") -> float:
        rates = []
        for size in range(fewest, 11):
            studies = [{str(i): e for i, e in enumerate(estimates[s : s + size])} for s in range(0, 300, 10)]
            claims = [any(map(claimed, verdicts(study, 1.0, error=error).values())) for study in studies]
            rates.append(np.mean(claims))
        return max(rates)

    assert found.difference.mean == worst(zero, lambda verdict: verdict.direction is not None)
    assert found.equivalence.mean == worst(edge, lambda verdict: verdict.kind == "equivalent")
    mixed = [zero[i] if i % 10 == 0 else edge[i] for i in range(300)]

    def false(verdict) -> bool:
        return verdict.kind == "equivalent" if verdict.estimate in edge else verdict.direction is not None

    assert found.both.mean == worst(mixed, false, 2)
    assert found.halved.mean == worst(mixed, false, 2, error="both")


def test_families_check_their_settings() -> None:
    with pytest.raises(ValueError, match=r"families: expected studies ≥ 1 and n ≥ 2, got studies = 0, n = 1"):
        families(0, 1)


def test_who_looks_again_and_again_finds_something() -> None:
    assert looking(2000, (20,)).mean == pytest.approx(0.05, abs=0.02)
    assert 0.1 < looking(2000).mean < 0.135
