"""Study files at every limit: each is run, or refused with one message that names field, bound and value."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import limits
from helpers.studies import BASE, OWN, PLAIN, document
from weight_feedback.lab.execution import runner
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.study import MOST_TRIALS, Study
from weight_feedback.lab.study.toml import LONGEST_FILE, LONGEST_LINE, StudyError, load_study
from weight_feedback.lab.tasks.fields import MOST_WRONG
from weight_feedback.lab.tasks.notebook.settings import Pooled, Projected, Sketched, Subspace
from weight_feedback.untrusted import LONGEST


def changed(place: str, value: Any) -> dict[str, Any]:
    """Return the base study with another value at a place such as ``arms.1.label``."""
    study = json.loads(json.dumps(BASE))
    *path, last = place.split(".")
    inner: Any = study
    for name in path:
        inner = inner[int(name) if name.isdigit() else name]
    inner[int(last) if last.isdigit() else last] = value
    return study


@pytest.fixture
def load(tmp_path) -> Callable[[str | bytes], Study]:
    def load_text(content: str | bytes) -> Study:
        path = tmp_path / "study.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with limits.seconds(60):
            return load_study(str(path))

    return load_text


@pytest.fixture
def refused(load, tmp_path) -> Callable[[str | bytes], str]:
    """Return what is said of a file that is refused, without its name."""

    def message(content: str | bytes) -> str:
        with pytest.raises(StudyError) as caught:
            load(content)
        text = str(caught.value)
        assert text.startswith(str(tmp_path / "study.toml"))
        return text.removeprefix(str(tmp_path / "study.toml"))

    return message


@pytest.mark.parametrize(
    ("place", "least", "most"),
    [
        ("training.epochs", 1, 100_000),
        ("training.batch_size", 1, 10**6),
        ("training.test_batch_size", 1, 10**6),
        ("training.log_interval", 1, 10**6),
        ("training.cohort", 1, 1024),
        ("seeds", 1, 50_000),
        ("summary.k", 1, 10**6),
        ("arms.1.salt", 0, 1000),
    ],
)
def test_whole_numbers_have_bounds(load, refused, place, least, most) -> None:
    load(document(changed(place, least)))
    if place != "training.cohort":
        load(document(changed(place, most)))
    for value in (least - 1, -1, -(10**30), most + 1, 10**9, 10**30):
        message = refused(document(changed(place, value)))
        assert message.startswith(f": {place}: ")
        assert f": expected at {'least' if value < least else 'most'} " in message
        assert message.endswith(f", got {value}")
    for value in (True, 1.0, float(10**6), "1", [1], {"one": 1}, math.inf, math.nan):
        message = refused(document(changed(place, value)))
        assert message.startswith(f": {place}: expected a whole number, got ")


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        ("training.lr", [5e-324, 0.01, 1, 1e308], [0.0, -0.1, -5e-324]),
        ("training.momentum", [0.0, 0, 0.9999999999999999], [-1e-9, 1.0, 2]),
        ("declared.margin", [5e-324, 1e6], [0.0, -1.0, 1e308]),
        ("declared.confidence", [0.5, 0.999], [0.0, 0.4999, 0.9999, 0.9999999999999, 1.0, 95]),
    ],
)
def test_numbers_have_bounds(load, refused, place, right, wrong) -> None:
    for value in right:
        load(document(changed(place, value)))
    for value in [*wrong, math.nan, math.inf, -math.inf, True, "0.5", [0.5]]:
        message = refused(document(changed(place, value)))
        assert message.startswith(f": {place}: expected ")
        assert message.endswith(f", got {value!r}" if value != 95 else ", got 95")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("name", "", "name: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a"),
        ("name", "x" * 65, "name: expected at most 64 characters"),
        ("name", "a/b", "name: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a"),
        ("name", "a\n", "name: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a"),
        ("name", "..", "name: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a"),
        ("name", "ä", "name: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a"),
        (
            "arms.0.name",
            "../x",
            "arms.0.name: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a",
        ),
        (
            "arms.0.model",
            "../x",
            "arms.0.model: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a",
        ),
        ("data", "../x", "data: expected at most 64 lower-case letters, digits, dots and dashes, beginning with a"),
        ("title", "", "title: expected at least 1 character"),
        ("title", "x" * 201, "title: expected at most 200 characters"),
        ("arms.1.label", "", "arms.1.label: expected at least 1 character"),
        ("arms.1.label", "x" * 81, "arms.1.label: expected at most 80 characters"),
        ("arms", [], "arms: expected at least 1 item"),
        ("arms", {}, "arms: expected at least 1 item"),
        ("arms", 3, "arms: expected a list"),
        ("arms", {"plain": 3}, "arms.0.settings: expected a table"),
        ("metrics", {"a b": {"unit": "", "better": "lower"}}, "metrics.a b.[key]: "),
        ("metrics", {"x": {"unit": "", "better": "less"}}, "metrics.x.better: expected 'higher' or 'lower'"),
        ("metrics", {"x": {"better": "lower"}}, "metrics.x.unit: needed, but missing"),
        ("metrics", {"epoch": {"unit": "", "better": "lower"}}, "metrics: expected other names than arm"),
        ("task", "other", "task: expected one of notebook, intrinsic-dimension, got 'other'"),
        ("arms.0.training", {"epochs": 2}, "arms.0.training: all arms share this setting"),
        ("arms", [PLAIN, PLAIN], "arms: each name must be unique, got 'plain' 2 times"),
        ("arms", [PLAIN, {**PLAIN, "name": "b"}], "arms: each label must be unique, got 'w/o' 2 times"),
        (
            "arms",
            [PLAIN, {**PLAIN, "name": "b", "label": "b"}],
            "arms: each must have other settings, but 'plain' and 'b' train",
        ),
        ("arms", [PLAIN, {**OWN, "signal": "owm"}], "arms.1.signal: expected 'none', 'zeros'"),
        ("arms.1.conditioning", "cat", "arms.1.conditioning: expected 'concat' or 'film'"),
        ("arms.0.conditioning", "film", "arms: 'plain' has conditioning 'film', but hears nothing"),
        ("arms.1.extra", 1, "arms.1.extra: there is no such field, got 1"),
        ("summary.kernel", 1, "summary.kernel: there is no such field, got 1"),
        ("summary.kernels", [[1, 1]], "summary.kernels.1: needed, but missing"),
        (
            "summary.k",
            2**3000,
            "summary.k: expected at most 1000000, got a whole number of 3001 bits",
        ),
        ("seeds", 10**9, "seeds: expected at most 100000, got 1000000000"),
        ("training.epochs", 10**30, f"training.epochs: expected at most 100000, got {10**30}"),
        ("summary.kernels", [[0, 1], [1, 1]], "summary.kernels.0.0: expected at least 1"),
        (
            "summary.kernels",
            [[10**7, 1], [1, 1]],
            "summary.kernels.0.0: expected at most 1000",
        ),
        ("summary.sketch", "dense", "summary.sketch: expected 'count' or 'kronecker', got 'dense'"),
        ("summary", 3, "summary: expected a table, got 3"),
        ("training", [], "training: expected a table, got []"),
        ("title", 3, "title: expected a text, got 3"),
        ("summary.scale", "large", "summary.scale: expected 'isometry'"),
        ("training.cohort", 3, "seeds: expected a multiple of training.cohort, 3, got 2"),
        (
            "declared.primary",
            [["own", "plain"]] * 2,
            "declared.primary: each must be unique, got ['own', 'plain'] 2",
        ),
        ("declared.primary", [["own"]], ": declared.primary.0.1: needed, but missing"),
        ("arms", [{"name": "x"}], ": arms.0.model: needed, but missing"),
        ("declared.primary", [["own", "plain"]] * 101, "declared.primary: expected at most 100 items"),
        (
            "declared.threshold",
            1.0,
            "declared: threshold: needed by outcome 'first-past', and by no other; got 1.0",
        ),
        ("declared.metric", "size", "declared.metric: expected one of accuracy, loss, got 'size'"),
    ],
)
def test_what_else_is_refused(refused, place, value, message) -> None:
    said = refused(document(changed(place, value)).replace("], [", "],\n["))
    assert said.endswith(message) if message.startswith(": ") else message in said


def test_a_clock_needs_two_numbers(load, refused) -> None:
    study = changed("arms.1.signal", "clock")
    load(document(study))
    assert "summary.k: must be at least 2 for the signal clock" in refused(document(study | {"summary": {"k": 1}}))


# What no list of trials could hold


def many_arms(count: int, seeds: int) -> str:
    arms = [{"name": f"a{i}", "label": f"{i}", "model": f"m{i}"} for i in range(count)]
    study = {"name": "many", "title": "t", "data": "generated", "seeds": seeds, "arms": arms}
    return document(study).replace("}, {", "},\n{")


def test_arms_can_be_counted(load, refused) -> None:
    assert len(load(many_arms(1000, seeds=1)).arms) == 1000
    assert refused(many_arms(1001, seeds=1)).startswith(": arms: expected at most 1000 items")


def test_trials_can_be_counted(load, refused) -> None:
    loaded = load(many_arms(400, seeds=250))
    assert sum(1 for _ in loaded.trials()) == MOST_TRIALS
    message = refused(many_arms(400, seeds=251))
    assert "seeds: expected at most 250 for 400 arms, 100000 trials, got 251" in message
    for seeds in (251, 10**30):
        with pytest.raises(ValueError, match=rf"seeds: expected at most 250 for 400 arms.*got {seeds}"):
            next(loaded.trials(seeds=seeds))


def test_trials_are_those_of_some_seeds_and_arms_of_the_study(load) -> None:
    study = load(document(BASE))
    assert [(arm.name, trial.seed) for arm, trial in study.trials(["own"], seeds=1)] == [("own", 0)]
    with pytest.raises(ValueError, match=r"^seeds: expected at least 1, got 0$"):
        next(study.trials(seeds=0))
    with pytest.raises(ValueError, match=r"^arms: expected names among plain, own, got 'other'$"):
        next(study.trials(["other"]))


# The file itself


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'title = "\xff"', " isn't valid TOML: it must be UTF-8, but isn't at byte 9"),
        (document(BASE).encode("utf-16"), " isn't valid TOML: it must be UTF-8, but isn't at byte 0"),
        ("#" * (LONGEST_FILE + 1), f": expected a study file of at most {LONGEST_FILE} bytes, found more"),
        (
            "#" * (LONGEST_LINE + 1),
            f", line 1: expected at most {LONGEST_LINE} characters, found {LONGEST_LINE + 1};",
        ),
        # Python's parser takes minutes over one of these.
        ("\na" + ".a" * 20_000 + " = 1", ", line 2: expected at most "),
        ("\n[" + "a." * 20_000 + "a]", ", line 2: expected at most "),
        ("x = " + "[" * 900 + "\n" + "[" * 900, ": expected tables within tables, found brackets nested too deep"),
        ("seeds = " + "9" * 900 + "_9" * 20 + "9", ": name: needed, but missing"),
        ("x = 1\nx = 2", " isn't valid TOML: Cannot overwrite a value"),
        ("\0", " isn't valid TOML: "),
        ("x = 2026-13-01", " isn't valid TOML: "),
        ('title = "\\ud800"', " isn't valid TOML: "),
        ("", ": name: needed, but missing"),
    ],
    ids=[
        "latin",
        "utf-16",
        "file",
        "line",
        "key",
        "table",
        "deep",
        "digits",
        "twice",
        "zero",
        "date",
        "half",
        "empty",
    ],
)
def test_a_file_that_is_no_study_is_refused(refused, content, message) -> None:
    # As in a process of its own: some libraries allow deeper recursion.
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        assert refused(content).startswith(message)
    finally:
        sys.setrecursionlimit(before)


def test_a_file_and_its_lines_can_be_as_long_as_is_said(load) -> None:
    study = document(BASE)
    comment = "#" * LONGEST_LINE + "\n"
    text = study + comment * ((LONGEST_FILE - len(study)) // len(comment))
    assert load(text + "\n" * (LONGEST_FILE - len(text))) == load(study)


def test_marks_and_line_ends_of_other_systems_are_allowed(load) -> None:
    study = load(document(BASE))
    assert load(b"\xef\xbb\xbf" + document(BASE).encode()) == study
    assert load(document(BASE).replace("\n", "\r\n")) == study


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused(tmp_path, make) -> None:
    path = tmp_path / "study.toml"
    make(path)
    with (
        limits.seconds(30),
        pytest.raises(StudyError, match=r"can't be read: expected a plain file, found a folder, a"),
    ):
        load_study(str(path))


def test_a_folder_does_not_hide_a_built_in_study(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick").mkdir()
    assert load_study("quick").name == "quick"


@pytest.mark.parametrize("name", ["", "\0", "x" * 10_000, "a/" * 5000, "\x1b[2J", "\udcff", "~nobody"])
def test_a_name_that_is_no_path_is_refused(name) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(name)
    assert str(caught.value).replace("\n", "").isprintable()


def test_messages_stay_short(refused) -> None:
    arms = [{"name": "x" * 300, "model": "\x1b[2J", "label": 10**300} for _ in range(100)]
    message = refused(document({**BASE, "arms": arms}).replace("}, {", "},\n{"))
    lines = message.split("\n")
    assert len(lines) == MOST_WRONG + 1
    assert lines[-1] == "and 280 more"
    assert max(map(len, lines)) < LONGEST + 200
    assert all(map(str.isprintable, lines))
    lines = refused(document({**BASE, **{f"x{i}": 0 for i in range(MOST_WRONG)}})).split("\n")
    assert lines[-1].startswith(f"x{MOST_WRONG - 1}: there is no such field, got 0; the task's settings are data, ")


# Summaries and subspaces that don't fit their network


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Projected(k=101), "summary.k: must be at most the 100 weights that are read, got 101"),
        (Sketched(k=101, sketch="count"), "summary.k: must be at most the 100 weights that are read, got 101"),
        (
            Pooled(k=101, kernels=((1, 1), (1, 1))),
            "summary.k: must be at most the 100 weights that are read, got 101",
        ),
        (
            Subspace(dimensions=101),
            "training.subspace.dimensions: must be at most the network's 100 parameters, got 101",
        ),
    ],
)
def test_nothing_has_more_dimensions_than_the_network(settings, message) -> None:
    settings.check_fit(101)
    with pytest.raises(ValueError, match=f"^{message}$"):
        settings.check_fit(100)


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"k": 8501}, "summary.k: must be at most the 8500 weights that are read, got 8501"),
        ({"k": 10**6, "sketch": "count"}, "summary.k: must be at most the 8500 weights that are read, got 1000000"),
        (
            {"k": 26, "kernels": [[51, 1], [1, 1]]},
            r"summary.kernels: .*\(51, 1\) is larger than fc1.weight, a 50x160",
        ),
        ({"k": 26, "kernels": [[1, 1], [1, 1]]}, "summary.kernels: .*pooling gives 8500 numbers, more than .*=26"),
        ({"k": 26, "kernels": [[10, 22], [2, 25]]}, "summary.kernels: .*must have equal row counts"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused_before_anything_is_trained(
    load, tmp_path, summary, message
) -> None:
    study = load(document({**BASE, "summary": summary}))
    with pytest.raises(ValueError, match=message):
        runner.run(study, Store(tmp_path / "store"), jobs=1)
    assert not (tmp_path / "store").exists()


def test_a_stored_projection_is_bounded() -> None:
    Projected(k=2**15).check_fit(2**15)
    with pytest.raises(ValueError, match=r"summary.k: must be at most 1024, .* got 2000; give summary.sketch"):
        Projected(k=2000).check_fit(2**20)
    Sketched(k=2000, sketch="kronecker").check_fit(2**20)
    Subspace(dimensions=2**15, projection="dense").check_fit(2**15)
    with pytest.raises(
        ValueError, match=r"subspace.dimensions: must be at most 1024, .* got 2000; the projections"
    ):
        Subspace(dimensions=2000, projection="dense").check_fit(2**20)
    Subspace(dimensions=2000, projection="kronecker").check_fit(2**20)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 100.1, 101])
def test_a_threshold_of_a_percentage_is_one(refused, threshold) -> None:
    declared = {**BASE["declared"], "outcome": "first-past", "threshold": threshold}
    said = refused(document({**BASE, "declared": declared}))
    assert f"declared.threshold: expected more than 0 %, at most 100 %, got {threshold:g}" in said


@pytest.mark.parametrize(("outcome", "field"), [("mean-of-last", "last"), ("at-best-of", "of")])
def test_an_outcome_has_what_it_needs(load, refused, outcome, field) -> None:
    declared = {**BASE["declared"], "outcome": outcome}
    said = refused(document({**BASE, "declared": declared}))
    assert f"declared: {field}: needed by outcome '{outcome}', and by no other; got None" in said
    value = {"last": 2, "of": "loss"}[field]
    assert getattr(load(document({**BASE, "declared": {**declared, field: value}})).declared, field) == value


def test_arms_can_be_tables_by_name(load) -> None:
    tables = {arm["name"]: {name: arm[name] for name in ("model", "signal") if name in arm} for arm in (PLAIN, OWN)}
    study = load(document({**BASE, "arms": tables}))
    assert [arm.label for arm in study.arms] == ["plain", "own"]
    assert study.declaration() == load(document(BASE)).declaration()


def test_a_setting_of_every_arm_can_be_given_once(load) -> None:
    arms = [{name: value for name, value in arm.items() if name != "model"} for arm in (PLAIN, OWN)]
    study = load(document({**BASE, "model": "mnist-plain", "arms": arms}))
    assert study.declaration() == load(document(BASE)).declaration()
    assert [trial.key() for _, trial in study.trials()] == [
        trial.key() for _, trial in load(document(BASE)).trials()
    ]


def test_a_study_that_is_filled_in_is_the_same_study(load) -> None:
    for text in (document(BASE), document(changed("arms.1.conditioning", "film"))):
        study = load(text)
        filled = study.fill_in()
        assert filled.fill_in() is filled
        again = Study.model_validate(json.loads(json.dumps(filled.model_dump(mode="json"))))
        assert again == filled
        assert again.declaration() == study.declaration()
        assert list(again.trials())[3][1] == list(study.trials())[3][1]
        assert again.settings["training"]["momentum"] == 0.5
        assert again.metrics == study.reported


def test_a_task_of_ones_own_is_not_imported_by_a_file(refused) -> None:
    said = refused(document({**BASE, "task": "antigravity:TASK"}))
    assert "task: expected one of notebook, intrinsic-dimension, got 'antigravity:TASK', which names code" in said
    assert "with --trust" in said
    assert "antigravity" not in sys.modules
