"""A pilot says how many seeds a margin needs, from seeds outside the study, and not which arm was better."""

from __future__ import annotations

import math
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.child_processes import may_fork
from weight_feedback import lab
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution.planning import pilot
from weight_feedback.lab.statistics.estimates import pairing
from weight_feedback.lab.statistics.power import seeds_for_equivalence, seeds_to_detect
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.base import SEEDS_END

pytestmark = may_fork


def drawn(trial: lab.Context, *, shift: float = 0.0, broken: bool = False) -> dict[str, float]:
    if broken:
        raise ValueError("no")
    shared, own = trial.rng("shared").normal(), trial.rng("own", str(shift)).normal()
    return {"error": 100 + shift + 2 * shared + 0.5 * own}


def study(**changes) -> Study:
    fields = {
        "name": "piloted",
        "title": "Piloted",
        "task": drawn,
        "seeds": 4,
        "arms": {"plain": {}, "shifted": {"shift": 7.0}, "aside": {"broken": True}},
        "metrics": {"error": lab.Metric("s", "lower")},
        "declared": lab.Declared(primary=[("shifted", "plain")], margin=1.0),
    }
    return Study(**{**fields, **changes})


def test_its_numbers_are_those_of_its_differences(tmp_path) -> None:
    (found,), seconds = pilot(study(), tmp_path / "pilot", 6, jobs=1)
    few = study().model_copy(update={"first_seed": SEEDS_END - 6, "seeds": 6, "declared": None})
    store = lab.Store(tmp_path / "pilot")
    error = [
        [store.read(few.trial(arm, seed)).result["metrics"]["error"][0] for seed in few.seed_numbers()]
        for arm in few.arms[:2]
    ]
    differences = np.subtract(error[1], error[0])
    sd = differences.std(ddof=1)
    low, high = (sd * math.sqrt(5 / stats.chi2.ppf(level, 5)) for level in (0.975, 0.025))
    assert (found.a, found.b, found.n) == ("shifted", "plain", 6)
    np.testing.assert_allclose((found.sd, found.low, found.high), (sd, low, high))
    np.testing.assert_allclose(found.correlation, stats.pearsonr(error[0], error[1]).statistic)
    assert found.equivalence == tuple(seeds_for_equivalence(one, 1.0, alpha=0.05) for one in (sd, low, high))
    assert found.detection == tuple(seeds_to_detect(1.0, one, 0.05) for one in (sd, low, high))
    assert len(seconds) == 2  # the third arm is in no declared contrast, and isn't run
    assert not {*few.seed_numbers()} & {*study().seed_numbers()}


def test_what_has_no_pilot_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="pilot: expected a declaration"):
        pilot(study(declared=None), tmp_path, 3)
    with pytest.raises(ValueError, match=f"expected a study whose seeds are below {SEEDS_END - 3}"):
        pilot(study(first_seed=SEEDS_END - 4), tmp_path, 3)
    declared = lab.Declared(primary=[("aside", "plain")], margin=1.0)
    with (
        pytest.warns(UserWarning, match="failed"),
        pytest.raises(ValueError, match="pilot: 2 of its trials failed: ValueError: no"),
    ):
        pilot(study(declared=declared), tmp_path, 2, jobs=1)


def test_the_command_shows_no_difference(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = """
        from weight_feedback import lab

        def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
            return {"error": 100 + shift + trial.rng("shared").normal() + 0.1 * trial.rng(str(shift)).normal()}

        study = lab.Study(
            name="drawn", title="Drawn", task=train, seeds=4, arms={"plain": {}, "shifted": {"shift": 7.0}},
            metrics={"error": lab.Metric("s", better="lower")},
            declared=lab.Declared(primary=[("shifted", "plain")], margin=1.0),
        )
    """
    (tmp_path / "drawn.py").write_text(textwrap.dedent(text))
    cli.main(["plan", "drawn.py", "--pilot", "4", "--jobs", "1"])
    out = capsys.readouterr().out
    assert "Drawn: pilot" in out
    assert "4 seeds (the study's): about " in out
    assert not any(number in out for number in ("6.9", "7.0", "7.1", "107"))
    assert not (tmp_path / "results/drawn/trials").exists()
    assert not (tmp_path / "results/drawn/pilot/study.json").exists()  # by which a report would show means
    cli.main(["plan", "drawn.py", "--pilot", "4", "--jobs", "1"])
    assert "8 trials, 8 finished, 0 to run" in capsys.readouterr().out
    sys.modules.pop("drawn", None)


NUMBERS = st.lists(st.floats(-100, 100), min_size=3, max_size=20)


@given(NUMBERS, st.floats(-1000, 1000), st.randoms())
def test_pairing_follows_from_spreads(values, shift, chance) -> None:
    left = np.array(values)
    right = np.array([chance.uniform(-10, 10) + 0.5 * value for value in values])
    correlation, worth = pairing(left, right)
    assert pairing(right, left) == pytest.approx((correlation, worth), nan_ok=True)
    if np.ptp(left) > 1e-3:
        naive = np.var(left, ddof=1) + np.var(right, ddof=1)
        assert correlation == pytest.approx(float(np.corrcoef(left, right)[0, 1]))
        assert worth == pytest.approx(naive / np.var(left - right, ddof=1))
        assert pairing(left + shift, right)[1] == pytest.approx(worth, rel=1e-6)


def test_pairing_needs_three_pairs_and_some_spread() -> None:
    for left, right in (
        ([1, 2], [2, 4]),
        ([1, 1, 1], [1, 2, 3]),
        ([1, 2, 3], [2, 3, 4]),
        ([1, 2, math.nan], [1, 3, 2]),
    ):
        assert all(map(math.isnan, pairing(left, right)))
    assert pairing([1, 2, 3, math.nan], [1, 3, 2, 5]) == pairing([1, 2, 3], [1, 3, 2]) == (0.5, 2.0)


def test_reports_say_what_pairing_is_worth_before_the_study_is_finished(tmp_path) -> None:
    asked = study(arms={"plain": {}, "shifted": {"shift": 7.0}}, seeds=8)
    lab.run(asked, lab.Store(tmp_path), jobs=1, seeds=4)
    analysis = lab.analyse(asked, lab.Store(tmp_path))
    assert analysis.contrasts == []
    (paired,) = analysis.pairings
    assert (paired.a, paired.b, paired.n) == ("shifted", "plain", 4)
    assert paired.correlation > 0.5
    assert analysis.paired[0].startswith("Pairing of shifted and plain: correlation +0.")
