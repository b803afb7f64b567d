"""Studies at random: each is run, or refused before anything is trained; nothing in between."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from helpers.studies import document
from weight_feedback.lab.execution import runner
from weight_feedback.lab.report.markdown import markdown
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError, load_study

SIGNALS = ["none", "zeros", "constant", "noise", "clock", "stale", "permuted", "yoked", "own", "own-gradient"]
SCALES = ["isometry", "xavier", "adjoint-isometry", "calibrated"]
#: What may be put in the place of anything.
WRONG = [
    0,
    -1,
    1,
    2,
    501,
    8501,
    10**6,
    10**30,
    True,
    0.5,
    -0.5,
    1e308,
    math.nan,
    math.inf,
    "",
    "a",
    "../x",
    "x" * 300,
]
#: Studies of 501 seeds or 8,501 epochs are as good as others, and take hours.
MOST_STEPS = 600
WRONG += ["\x1b[2J", "\u202e", [], {}, [1], {"k": 1}, [[1, 1], [1, 1]], [["a", "a"]], "own", "film"]


@st.composite
def summaries(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["stored", "sketched", "pooled"]))
    if kind == "pooled":
        return {"k": draw(st.sampled_from([26, 27, 8500])), "kernels": [[25, 22], [2, 25]]}
    values = {"k": draw(st.sampled_from([2, 3, 26])), "scale": draw(st.sampled_from(SCALES))}
    if kind == "sketched":
        return {**values, "sketch": draw(st.sampled_from(["count", "kronecker"]))}
    return {**values, "distribution": draw(st.sampled_from(["uniform", "gaussian", "rademacher"]))}


@st.composite
def arms(draw: st.DrawFn, name: str) -> dict[str, Any]:
    label = name + draw(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8))
    signal = draw(st.none() | st.sampled_from(SIGNALS))
    if signal is None:
        return {
            "name": name,
            "model": f"mnist-{draw(st.sampled_from(['pooled', 'projected', 'sketched']))}",
            "label": label,
        }
    arm = {
        "name": name,
        "model": "mnist-plain",
        "label": label,
        "signal": signal,
        "salt": draw(st.sampled_from([0, 1, 1000])),
    }
    return arm if signal == "none" else {**arm, "conditioning": draw(st.sampled_from(["concat", "film"]))}


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    chosen = [draw(arms(name)) for name in draw(st.sampled_from(["a", "ab", "abc"]))]
    cohort = 1 if any(arm.get("signal") == "own-gradient" for arm in chosen) else draw(st.sampled_from([1, 2]))
    training = {
        "epochs": draw(st.sampled_from([1, 2])),
        "batch_size": draw(st.sampled_from([200, 499, 500])),
        "lr": draw(st.sampled_from([5e-324, 0.01, 10, 1e308])),
        "momentum": draw(st.sampled_from([0.0, 0.5, 0.9999999999999999])),
        "test_batch_size": draw(st.sampled_from([7, 100, 10**6])),
    }
    study = {"name": "random", "title": "t", "data": "generated", "seeds": cohort * draw(st.sampled_from([1, 2]))}
    study["training"] = training if cohort == 1 else {**training, "cohort": cohort}
    if any("signal" in arm for arm in chosen):
        study["summary"] = draw(summaries())
    study["arms"] = chosen
    if len(chosen) > 1 and draw(st.booleans()):
        study["declared"] = {
            "primary": [["a", "b"], *([["c", "a"]] if len(chosen) > 2 else [])],
            "margin": draw(st.sampled_from([5e-324, 0.5, 1e6])),
            "confidence": draw(st.sampled_from([0.5, 0.95, 0.999])),
            "outcome": draw(st.sampled_from(["final-accuracy", "area-under-curve", "final-loss"])),
        }
    return study


def places(study: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = study.items() if isinstance(study, dict) else enumerate(study) if isinstance(study, list) else ()
    return [place for key, inner in items for place in [(*path, key), *places(inner, (*path, key))]]


@st.composite
def damaged_studies(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a study that can be run, and in two of three cases put something else in some place."""
    study = draw(studies())
    if draw(st.sampled_from([False, True, True])):
        *path, last = draw(st.sampled_from(places(study)))
        inner: Any = study
        for key in path:
            inner = inner[key]
        inner[last] = draw(st.sampled_from(WRONG))
    return study


def steps(study: Study) -> int:
    """Return how many batches of the 500 images all trials take together."""
    return sum(trial.training.epochs * trial.training.epoch_steps(500) for _, trial in study.trials())


@given(damaged_studies())
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_any_study_is_run_or_refused_before_it_is(tmp_path_factory, values) -> None:
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.toml"
    path.write_text(document(values).replace("}, {", "},\n{"), encoding="utf-8")
    store, wrong = Store(folder / "random"), ""
    try:
        study = load_study(str(path))
        if steps(study) > MOST_STEPS:
            event("would take too long")
            return
        runner.run(study, store, jobs=1)
    except StudyError as error:
        event("refused when it is read")
        wrong = str(error)
    except ValueError as error:
        event("refused when it meets network and data")
        assert type(error) is ValueError  # noqa: PT017 - most studies are refused by nothing
        wrong = str(error)
    if wrong:
        assert ": " in wrong
        assert not list(folder.rglob("trials/*"))
        return
    event("run")
    # With none that failed in the middle.
    assert {store.failure(trial) for _, trial in study.trials()} == {None}
    found = analyse(study, store)
    assert [len(result.seeds) for result in found.arms] == [study.seeds] * len(study.arms)
    assert markdown(found, "command", {}).startswith("# ")
