"""No verdict without a declaration before the results, on seeds that nobody knew, and no look without a trace."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import joblib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.child_processes import Forking, drop_privileges, fork, may_fork, stand_ins
from helpers.made_up_study import ACCURACY, SEEDS, SIGNALS, STUDY, declare, fill, record
from helpers.studies import BASE, OWN, PLAIN, change, change_arm, document
from weight_feedback.files import write_atomically
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.report.export import rows
from weight_feedback.lab.report.figures import figures, save
from weight_feedback.lab.report.markdown import markdown
from weight_feedback.lab.report.page import page
from weight_feedback.lab.statistics.analysis import Analysis, analyse
from weight_feedback.lab.statistics.gate import ranges
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.peeks import PEEKS, read_peeks, write_peeks
from weight_feedback.lab.store.store import DECLARATION, Damaged, Record, Store, StoreError
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.shards import Shard
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.study.toml import StudyError, builtin_studies, load_study
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

pytestmark = may_fork
BEFORE, AFTER = "2026-11-24T07:00:00+00:00", "2026-11-24T10:00:00+00:00"


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> Iterator[None]:
    """Workers that start at once, and pictures that are made at once; a wide terminal."""
    monkeypatch.setenv("COLUMNS", "300")
    with stand_ins(), joblib.parallel_config(backend=Forking()):
        yield


@pytest.fixture
def untrained(monkeypatch) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(type(NOTEBOOK), "run_together", trained)


class Folder:
    """A folder with study files and results, and the commands on them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys

    def write(self, **changes: Any) -> None:
        study = {name: value for name, value in {**BASE, **changes}.items() if value is not None}
        (self.path / f"{study['name']}.toml").write_text(document(study))

    def give(self, command: str, name: str = "tiny", *args: object) -> str:
        more = {"run": ["--out", self.path, "--jobs", 1], "plan": []}.get(command, ["--out", self.path])
        cli.main([command, str(self.path / f"{name}.toml"), *map(str, (*more, *args))])
        return self.capsys.readouterr().out

    def refused(self, command: str, name: str = "tiny", *args: object) -> str:
        with pytest.raises(SystemExit) as caught:
            self.give(command, name, *args)
        assert caught.value.code == 2
        return self.capsys.readouterr().err

    def trials(self, name: str = "tiny") -> int:
        return len([*(self.path / name).glob("trials/*.json")])

    def reports(self, name: str = "tiny") -> list[str]:
        texts = [(self.path / name / f"report.{kind}").read_text() for kind in ("md", "html")]
        return [re.sub(r"\s+", " ", text).replace("\\", "") for text in texts]


@pytest.fixture
def folder(tmp_path, capsys) -> Folder:
    return Folder(tmp_path, capsys)


def shown(analysis: Analysis) -> tuple[str, str]:
    """Return what the two reports say."""
    return markdown(analysis, "c", {}), re.sub(r"\s+", " ", page(analysis, figures(analysis), "c"))


def begun(store: Store, study: Study, started: str, arms: tuple[str, ...] = SIGNALS, **provenance: object) -> Store:
    """Keep made-up trials that were begun at some time."""
    for arm, trial in study.trials(arms):
        seed = (trial.seed - study.first_seed) % SEEDS
        made = record(trial.model_copy(update={"seed": seed}), arm.name)
        result = made.result | {"trial": trial.settings()}
        store.write(trial, Record(result, {**made.provenance, "started": started, **provenance}))
    return store


# A study file that was changed


def test_a_changed_study_file_shows_nothing(folder) -> None:
    folder.write(declared={**BASE["declared"], "margin": 2.0})
    folder.give("run")
    before = {
        path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.suffix != ".toml"
    }
    changes: list[tuple[dict[str, Any], str]] = [
        ({"declared": {**BASE["declared"], "margin": 30.0}}, "Changed since: declared.margin was 2.0, is 30.0\n"),
        ({"declared": None}, "declared.margin was 2.0, is left out"),
        ({"seeds": 4, "first_seed": 2}, "seeds was 2, is 4; first_seed was left out, is 2"),
        ({"arms": [PLAIN, {**OWN, "salt": 3}]}, ": arms.own.salt was left out, is 3\n"),
        (
            {"arms": [PLAIN, OWN, {**OWN, "name": "again", "label": "again", "salt": 1}]},
            'arms was ["plain", "own"], is ["plain", "own", "again"]',
        ),
    ]
    for changed, said in changes:
        folder.write(**{"declared": {**BASE["declared"], "margin": 2.0}, **changed})
        for command in ("run", "report", "plot", "export"):
            message = folder.refused(command)
            assert f"tiny/{DECLARATION}: this study was declared otherwise before it was first run" in message
            assert "put the study file back as it was, or give the changed study a new name" in message
            assert said in message
    assert {path: path.read_bytes() for path in before} == before
    folder.write(declared={**BASE["declared"], "margin": 2.0})
    assert "own − plain: " in folder.give("report")


def test_a_stored_study_of_another_version_is_refused_without_its_fields(tmp_path) -> None:
    store = declare(Store(tmp_path / "made-up"))
    path = store.folder / DECLARATION
    content = json.loads(path.read_bytes())
    content["study"]["moon"] = "full"
    path.write_text(json.dumps(content))
    store.declare(STUDY)
    with pytest.raises(StoreError, match=r"declared otherwise.*new name$"):
        analyse(STUDY.model_copy(update={"seeds": 4}), store)


@pytest.mark.parametrize("time", [5, None, "yesterday", "2026-11-24T09:00:00"])
def test_a_declaration_without_a_proper_time_is_damaged(tmp_path, time) -> None:
    store = fill(Store(tmp_path / "made-up"))
    path = store.folder / DECLARATION
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"declared": time}))
    with pytest.raises(Damaged, match=r"declared: expected a time with its zone, found .*put back a copy"):
        analyse(STUDY, store)


def test_a_declaration_of_an_earlier_version_has_no_time_and_stays_valid(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    path = store.folder / DECLARATION
    content = json.loads(path.read_bytes())
    del content["declared"], content["study"]["first_seed"], content["study"]["declared"]["why"]
    path.write_text(json.dumps(content))
    assert [row.kind for row in analyse(STUDY, store).contrasts[:2]] == ["better", "better"]
    with pytest.raises(StoreError, match=r"Changed since: seeds was 8, is 4$"):
        analyse(STUDY.model_copy(update={"seeds": 4}), store)


# What a study file may be changed to: each change, and whether it decides


DECLARED = Declared(primary=(("own", "none"),), margin=0.5)


def declaring(**changes: object) -> Callable[[Study], Study]:
    return lambda study: study.model_copy(
        update={"declared": (study.declared or DECLARED).model_copy(update=changes)}
    )


def with_arm(**changes: object) -> Callable[[Study], Study]:
    return lambda study: change(study, arms=(study.arms[0], change_arm(study.arms[1], **changes), *study.arms[2:]))


def with_(**changes: object) -> Callable[[Study], Study]:
    return lambda study: change(study, **changes)


DECIDING = [
    st.floats(1e-3, 1e3).filter(lambda margin: margin != 0.5).map(lambda margin: declaring(margin=margin)),
    st.sampled_from(["area", "best"]).map(lambda outcome: declaring(outcome=outcome)),
    st.just(declaring(metric="loss")),
    st.just(declaring(outcome="at-best-of", of="loss")),
    st.integers(1, 3).map(lambda last: declaring(outcome="mean-of-last", last=last)),
    st.floats(1, 100).map(lambda bound: declaring(outcome="first-past", threshold=bound)),
    st.sampled_from(list(combinations(SIGNALS, 2))).map(lambda pair: declaring(primary=(pair,))),
    st.floats(0.5, 0.94).map(lambda confidence: declaring(confidence=confidence)),
    st.integers(1, SEEDS - 1).map(lambda seeds: with_(seeds=seeds)),
    st.integers(1, 2**31 - SEEDS).map(lambda seed: with_(first_seed=seed)),
    st.integers(1, 1000).map(lambda salt: with_arm(salt=salt)),
    st.sampled_from(["clock", "stale"]).map(lambda signal: with_arm(signal=signal)),
    st.just(with_arm(conditioning="film")),
    st.just(with_arm(name="other")),
    st.floats(0.02, 1).map(lambda lr: with_(training={"epochs": 3, "lr": lr})),
    st.integers(4, 99).map(lambda epochs: with_(training={"epochs": epochs})),
    st.integers(3, 99).map(lambda k: with_(summary={"k": k})),
    st.sampled_from([with_(name="other"), with_(data="mnist"), with_(declared=None), with_(arms=STUDY.arms[::-1])]),
]
TEXT = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)
PLAIN_CHANGES = [
    TEXT.map(lambda title: with_(title=title)),
    TEXT.map(lambda label: with_arm(label=label)),
    TEXT.map(lambda why: declaring(why=why)),
    st.integers(1, 99).map(lambda steps: with_(training={"epochs": 3, "log_interval": steps})),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Store:
    return fill(Store(tmp_path_factory.mktemp("results") / "made-up"))


@given(st.lists(st.one_of(PLAIN_CHANGES), max_size=2), st.none() | st.one_of(DECIDING))
def test_what_changes_the_declaration_changes_what_is_shown(filled, plain, deciding) -> None:
    """And what doesn't, doesn't."""
    study = STUDY
    for changed in [*plain, *([deciding] if deciding else [])]:
        study = changed(study)
    study = Study.model_validate(study.model_dump())
    assert (study.declaration() != STUDY.declaration()) == (deciding is not None)
    if deciding is None:
        assert analyse(study, filled).sentences == analyse(STUDY, filled).sentences
        return
    for peek in (False, True):
        with pytest.raises(StoreError, match="declared otherwise before it was first run"):
            analyse(study, filled, peek=peek)


# A declaration that is newer than the results


def test_a_study_that_is_declared_after_its_trials_is_refused_before_anything_is_trained(folder) -> None:
    folder.write(declared=None)
    folder.give("run", "tiny", "--arms", "own")
    folder.write()
    message = folder.refused("run")
    assert re.search(
        r"tiny: declared after 2 of its trials were run \(first started 20.*\): a verdict needs", message
    )
    assert "give the study a new name, and fresh seeds by first_seed = 0" in message
    assert folder.trials() == 2
    assert not (folder.path / "tiny" / DECLARATION).exists()

    folder.write(declared=None)
    folder.give("run")
    folder.write()
    assert "declared after 4 of its trials were run" in folder.refused("run")  # with nothing left to train
    assert "fresh seeds by first_seed = 2" in folder.refused("run")
    out = folder.give("report")
    reason = "No verdicts, and estimates alone: "
    for text in (out, *folder.reports()):
        assert f"{reason}{folder.path}/tiny/{DECLARATION} is missing" in text
        assert "fresh seeds by first_seed = 2" in text
        assert not re.search("own − plain: (equivalent|better|worse|undecided)", text)
        assert "Fixed before the first trial" not in text
    assert "own − plain" in folder.reports()[0]  # the estimate is there
    folder.give("plot")
    folder.give("export")

    folder.write(name="fresh", first_seed=2)
    assert "own − plain: " in folder.give("run", "fresh")
    text = folder.reports("fresh")[1]
    assert "Fixed before the first trial" in text
    assert f"fresh: seeds 2 to 3; {folder.path}/tiny used 0 to 1" in text


@pytest.mark.parametrize("kind", ["failure", "checkpoint", "damaged"])
def test_what_was_only_begun_counts_as_well(tmp_path, untrained, kind) -> None:
    study = Study.model_validate(BASE)
    store, (_, trial) = Store(tmp_path / "tiny"), next(study.trials(["own"]))
    if kind == "failure":
        store.fail(trial, "no room")
    else:
        write_atomically(store.checkpoint(trial) if kind == "checkpoint" else store.path(trial), b"{")
    with pytest.raises(StoreError, match=r"declared after 1 of its trials were run: a verdict needs"):
        run(study, store, jobs=1)


def test_trials_of_arms_that_are_not_declared_are_no_matter(tmp_path) -> None:
    third = {"name": "third", "model": "mnist-pooled", "label": "third"}
    plain = Study.model_validate({**BASE, "arms": [PLAIN, OWN, third], "declared": None})
    store = Store(tmp_path / "tiny")
    assert run(plain, store, jobs=1, arms=["third"]) == 2
    study = plain.model_copy(update={"declared": Declared(primary=(("own", "plain"),), margin=0.5)})
    assert run(study, store, jobs=1) == 4
    analysis = analyse(study, store)
    assert (analysis.reasons, analysis.passed.late) == ([], "")
    assert analysis.contrasts[0].verdict


def test_trials_say_themselves_what_was_declared_whatever_clocks_say(tmp_path) -> None:
    study = Study.model_validate(BASE)
    store = Store(tmp_path / "tiny")
    run(study, store, jobs=1)
    declarations = [store.read(trial).provenance["declaration"] for _, trial in study.trials()]
    assert declarations == [study.declaration()] * 4
    path = store.folder / DECLARATION
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"declared": "2099-01-01T00:00:00+00:00"}))
    assert analyse(study, store).passed.late == ""

    plain = study.model_copy(update={"declared": None, "name": "plain"})
    other = Store(tmp_path / "elsewhere" / "plain")
    run(plain, other, jobs=1)
    assert {other.read(trial).provenance["declaration"] for _, trial in plain.trials()} == {""}


@pytest.mark.parametrize(
    ("provenance", "count"),
    [
        ({"started": BEFORE}, 8),
        ({"started": AFTER, "declaration": ""}, 8),
        ({"started": AFTER, "declaration": "0" * 16}, 8),
        ({"started": AFTER}, 0),
        ({"started": BEFORE, "declaration": STUDY.declaration()}, 0),
    ],
)
def test_one_arm_that_came_before_takes_all_verdicts_and_p_values(tmp_path, provenance, count) -> None:
    store = declare(Store(tmp_path / "made-up"))
    begun(store, STUDY, arms=("own",), **provenance)
    begun(store, STUDY, AFTER, ("none", "constant", "yoked"))
    analysis = analyse(STUDY, store)
    assert bool(analysis.passed.late) == bool(count)
    assert analysis.contrasts[0].estimate.mean == pytest.approx((ACCURACY[3] - ACCURACY[0])[:SEEDS, -1].mean())
    if not count:
        assert all(row.verdict for row in analysis.contrasts[:2])
        assert "Fixed before the first trial" in shown(analysis)[1]
        return
    assert not any(row.verdict or row.kind or row.primary for row in analysis.contrasts)
    (sentence,) = analysis.sentences
    assert f"declared after {count} of its trials were run (first started {provenance['started']})" in sentence
    for text in shown(analysis):
        assert "declared after 8 of its trials were run" in text
        assert "Fixed before the first trial" not in text
        assert "Not known to be fixed before the first trial" in text or "<html" not in text
    rows = [line for line in markdown(analysis, "c", {}).splitlines() if line.startswith("| own − none")]
    assert [cell.strip() for cell in rows[0].split("|")][2] == "no"
    assert [cell.strip() for cell in rows[0].split("|")][6] == "–"


def test_more_seeds_and_other_arms_may_have_come_before(tmp_path) -> None:
    store = begun(declare(Store(tmp_path / "made-up")), STUDY, AFTER, ("none", "yoked", "own"))
    begun(store, STUDY, BEFORE, ("constant",))
    begun(store, STUDY.model_copy(update={"first_seed": SEEDS, "seeds": 2}), BEFORE)
    analysis = analyse(STUDY, store)
    assert analysis.extended == SEEDS + 2
    assert all(row.verdict for row in analysis.contrasts[:2])


def test_a_folder_whose_declaration_is_gone_is_not_known_to_be_declared(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    (store.folder / DECLARATION).unlink()
    (sentence,) = analyse(STUDY, store).sentences
    assert f"made-up/{DECLARATION} is missing, so that nothing says that this was declared before" in sentence
    assert (
        f"put it back if there was one, or give the study a new name, and fresh seeds by first_seed = {SEEDS}"
        in (sentence)
    )


def test_merged_trials_stay_what_they_were(tmp_path) -> None:
    """A target that is declared and a source that isn't, and the reverse."""
    for name, declared in (("target", True), ("source", False)):
        (first, second) = (Store(tmp_path / name / kind / "made-up") for kind in ("a", "b"))
        for store, known, arms in ((first, declared, SIGNALS[:2]), (second, not declared, SIGNALS[2:])):
            begun(declare(store) if known else store, STUDY, AFTER if known else BEFORE, arms)
        merge(first.folder, [second.folder])
        assert "of its trials were run" in analyse(STUDY, first).passed.late

    # Parts that were declared on machines of their own; the later declaration is newer than the other's trials.
    parts = [Store(tmp_path / kind / "made-up") for kind in ("c", "d")]
    for store, time, arms in zip(parts, (AFTER, BEFORE), (SIGNALS[:2], SIGNALS[2:]), strict=True):
        path = begun(declare(store), STUDY, time, arms).folder / DECLARATION
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"declared": time}))
    merge(parts[0].folder, [parts[1].folder])
    assert json.loads((parts[0].folder / DECLARATION).read_bytes())["declared"] == BEFORE
    assert analyse(STUDY, parts[0]).passed.late == ""


def test_an_export_says_which_trials_came_after_the_declaration(tmp_path) -> None:
    store = begun(declare(Store(tmp_path / "made-up")), STUDY, AFTER, ("own",))
    begun(store, STUDY, BEFORE, ("none",))
    found = {(row.arm, row.declaration) for row in rows(STUDY, store).itertuples()}
    assert found == {("own", STUDY.declaration()), ("none", "")}


# First seeds


def test_seeds_may_begin_elsewhere_and_everything_follows(folder) -> None:
    folder.write(first_seed=20, seeds=3)
    study = load_study(str(folder.path / "tiny.toml"))
    assert [*study.seed_numbers()] == [20, 21, 22]
    assert [trial.seed for _, trial in study.trials(["own"], seeds=2)] == [20, 21]
    assert [swap.other for _, swap in study.swaps() if swap.heard == "other"] == [21, 22, 20]
    assert {trial.seed for _, trial in Shard(1, 2).of(study.trials())} == {20, 21, 22}
    out = folder.give("run", "tiny", "--seeds", 4)
    assert "8 trials" in out
    store = Store(folder.path / "tiny")
    analysis = analyse(study, store)
    assert [result.seeds for result in analysis.arms] == [(20, 21, 22)] * 2
    assert [*analysis.contrasts[0].differences] == [20, 21, 22]
    assert [*analysis.exploratory[0].differences] == [20, 21, 22, 23]
    a, b = (result.curves["accuracy"][:, -1] for result in analysis.arms)
    assert [*analysis.contrasts[0].differences.values()] == pytest.approx(b - a)
    assert [*analysis.swaps[0].changes] == [20, 21, 22]
    assert analysis.extended == 4
    text, html = folder.reports()
    assert "seeds 20 to 22" in text
    assert "<td>20 to 22</td>" in html
    folder.give("export")
    with (folder.path / "tiny" / "trials.csv").open(newline="") as file:
        assert sorted({int(row["seed"]) for row in csv.DictReader(file)}) == [20, 21, 22, 23]
    assert "seeds 20 to 22. Declaration: " in folder.give("plan")


def test_first_seeds_have_bounds(folder) -> None:
    def said(**changes: Any) -> str:
        folder.write(**changes)
        with pytest.raises(StudyError) as caught:
            load_study(str(folder.path / "tiny.toml"))
        return str(caught.value)

    assert "first_seed: expected at least 0, got -1" in said(first_seed=-1)
    assert "first_seed: expected less than 2147483648" in said(first_seed=2**31)
    assert "first_seed: expected at most 2147483646 for 2 seeds, got 2147483647" in said(first_seed=2**31 - 1)
    cohorts = {"seeds": 4, "training": {"epochs": 1, "cohort": 2}}
    assert "first_seed: expected a multiple of training.cohort, 2, got 3" in said(first_seed=3, **cohorts)
    folder.write(first_seed=2**31 - 2)
    study = load_study(str(folder.path / "tiny.toml"))
    with pytest.raises(ValueError, match="first_seed: expected at most 2147483645 for 3 seeds"):
        next(study.trials(seeds=3))
    assert analyse(study, Store(folder.path / "tiny")).extended == 2


def test_a_first_seed_of_zero_is_none() -> None:
    study = Study.model_validate(BASE)
    assert Study.model_validate({**BASE, "first_seed": 0}).declaration() == study.declaration()
    assert "first_seed" not in study.deciding()


@pytest.mark.parametrize(
    ("seeds", "text"), [([], ""), ([3], "3"), ([2, 0, 1], "0 to 2"), ([0, 1, 5, 7, 8], "0 to 1, 5, 7 to 8")]
)
def test_ranges(seeds, text) -> None:
    assert ranges(seeds) == text


# Seeds that were used before


def test_a_confirmation_on_the_same_seeds_is_refused_before_anything_is_trained(folder) -> None:
    folder.write()
    folder.give("run")
    folder.write(name="again")
    message = folder.refused("run", "again")
    assert f"again: own − plain: results of seeds 0 to 1 in {folder.path}/tiny were known before this" in message
    assert "a confirmation needs fresh seeds: set first_seed = 2\n" in message
    assert not (folder.path / "again").exists()

    folder.write(name="half", first_seed=1)
    assert f"half: own − plain: results of seed 1 in {folder.path}/tiny were known" in folder.refused("run", "half")
    folder.write(name="again", first_seed=2)
    folder.give("run", "again")
    for text in folder.reports("again"):
        assert f"fresh: seeds 2 to 3; {folder.path}/tiny used 0 to 1" in text
    # Neither takes anything from the other.
    for name in ("tiny", "again"):
        assert "withheld" not in folder.give("report", name)
        folder.give("run", name)


def test_the_advice_keeps_cohorts_and_all_that_was_used(tmp_path) -> None:
    cohorts = Study.model_validate({**BASE, "seeds": 4, "training": {"epochs": 1, "batch_size": 500, "cohort": 4}})
    for name, first in (("early", 0), ("late", 8)):
        study = cohorts.model_copy(update={"name": name, "first_seed": first})
        store = Store(tmp_path / name)
        for arm, trial in study.trials():
            store.write(trial, Record({"trial": trial.settings()}, {"started": BEFORE, "arm": arm.name}))
    eight = cohorts.model_copy(update={"name": "eight", "seeds": 8})
    with pytest.raises(StoreError, match=r"seeds 0 to 3 in \S*early were known.* set first_seed = 12$"):
        run(eight, Store(tmp_path / "eight"), jobs=1)
    with pytest.raises(StoreError, match=r"seeds 0 to 3 in \S*early were known.* set first_seed = 4$"):
        run(cohorts.model_copy(update={"name": "four"}), Store(tmp_path / "four"), jobs=1)


@pytest.mark.parametrize(
    ("arms", "started", "used"),
    [
        (("own", "none"), BEFORE, True),
        (("own",), BEFORE, False),
        (("constant", "yoked"), BEFORE, False),
        (SIGNALS, AFTER, False),
    ],
)
def test_a_report_withholds_what_others_knew_before_the_declaration(tmp_path, arms, started, used) -> None:
    store, other = fill(Store(tmp_path / "made-up")), STUDY.model_copy(update={"name": "other", "declared": None})
    before = analyse(STUDY, store)
    begun(Store(tmp_path / "other"), other, started, arms)
    analysis = analyse(STUDY, store)
    first, second = analysis.contrasts[:2]
    assert first.differences == before.contrasts[0].differences
    # It counts in the family all the same.
    assert (second.kind, second.judged.flip_p) == (before.contrasts[1].kind, pytest.approx(2 / 128))
    if not used:
        assert first == before.contrasts[0]
        return
    assert first.kind == "withheld"
    assert str(first.estimate.flip_p) == "nan"
    assert first.verdict == (
        f"own − none: verdict withheld: results of seeds 0 to 7 in {tmp_path}/other were known before this study "
        "was declared, and a confirmation needs fresh seeds: give the study a new name, and fresh seeds by "
        "first_seed = 8."
    )
    for text in shown(analysis):
        assert "were known before this study was declared" in text


def test_what_is_withheld_counts_in_the_family(tmp_path) -> None:
    """Eight differences of one sign have a p-value of 2/256: enough at 1 % for one contrast, not for one of two."""
    declared = Declared(primary=(("own", "none"), ("own", "yoked")), margin=0.01, confidence=0.99)
    study = STUDY.model_copy(update={"declared": declared})
    alone = study.model_copy(update={"declared": declared.model_copy(update={"primary": (("own", "yoked"),)})})
    (first, *_) = analyse(alone, fill(Store(tmp_path / "alone" / "made-up"), alone)).contrasts
    store = fill(Store(tmp_path / "made-up"), study)
    begun(Store(tmp_path / "other"), STUDY.model_copy(update={"name": "other"}), BEFORE, ("own", "none"))
    assert [row.kind for row in analyse(study, store).contrasts[:2]] == ["withheld", "undecided"]
    assert (first.b, first.kind) == ("yoked", "better")


def test_without_a_time_the_first_own_trial_tells(tmp_path) -> None:
    store, other = fill(Store(tmp_path / "made-up")), STUDY.model_copy(update={"name": "other"})
    path = store.folder / DECLARATION
    content = json.loads(path.read_bytes())
    del content["declared"]
    path.write_text(json.dumps(content))
    begun(Store(tmp_path / "other"), other, AFTER)
    assert analyse(STUDY, store).passed.used == {}
    shutil.rmtree(tmp_path / "other")
    begun(Store(tmp_path / "other"), other, BEFORE)
    assert list(analyse(STUDY, store).passed.used) == [("own", "none"), ("own", "yoked")]


def test_parts_and_copies_of_the_same_study_are_no_other_study(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    begun(declare(Store(tmp_path / "laptop")), STUDY, BEFORE)
    assert analyse(STUDY, store).passed.used == {}


def test_a_trial_of_others_that_cannot_be_read_may_have_been_seen(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    other = begun(Store(tmp_path / "other"), STUDY.model_copy(update={"name": "other"}), AFTER)
    for arm in (STUDY.arms[0], STUDY.arms[3]):
        other.path(STUDY.trial(arm, 5)).write_bytes(b"{")
    assert "seed 5 in " in analyse(STUDY, store).passed.used["own", "none"]


def test_a_run_goes_on_with_nothing_that_was_used_meanwhile(tmp_path, untrained) -> None:
    """A declared study, of which trials are missing, beside results that were copied there."""
    store = begun(declare(Store(tmp_path / "made-up")), STUDY, AFTER, ("none",))
    begun(Store(tmp_path / "other"), STUDY.model_copy(update={"name": "other"}), BEFORE)
    with pytest.raises(
        StoreError, match=r"own − none: results of seeds 0 to 7 in .*; own − yoked: results of seeds 0 to 7 in "
    ):
        run(STUDY, store, jobs=1, mixed=True)


def test_before_a_declaration_all_results_of_others_count_whatever_is_here_already(tmp_path, untrained) -> None:
    store = begun(Store(tmp_path / "made-up"), STUDY, BEFORE, ("constant",))
    begun(Store(tmp_path / "other"), STUDY.model_copy(update={"name": "other"}), AFTER)
    with pytest.raises(StoreError, match=r"own − none: results of seeds 0 to 7 in .* set first_seed = 8$"):
        run(STUDY, store, jobs=1, mixed=True)


def test_no_two_built_in_studies_decide_the_same_contrast_on_the_same_seeds() -> None:
    studies = [study for name in builtin_studies() if (study := load_study(name)).declared]
    assert len(studies) > 5
    seen: dict[frozenset[str], str] = {}
    for study in studies:
        arms = {arm.name: arm for arm in study.arms}
        for pair in study.declared.primary:
            for seed in study.seed_numbers():
                trials = frozenset(study.trial(arms[name], seed).file_name for name in pair)
                assert seen.setdefault(trials, study.name) == study.name


# Looks before a study is finished


def test_an_unfinished_study_shows_no_difference_but_to_those_who_peek_and_that_is_kept(folder) -> None:
    folder.write(seeds=4)
    out = folder.give("run", "tiny", "--seeds", 2)
    pictures = folder.path / "tiny" / "figures"

    def nothing_is_shown(*texts: str) -> None:
        for text in texts:
            assert "No verdicts yet: 4 trials of the declared contrasts are still to be run, as by" in text
            assert f"weight-feedback run {folder.path}/tiny.toml" in text
            assert "| own − plain" not in text
            assert 'id="forest"' not in text
            assert "Paired differences" not in text
        assert not [*pictures.glob("forest*"), *pictures.glob("differences*")]

    nothing_is_shown(out, *folder.reports())
    nothing_is_shown(folder.give("report"), *folder.reports())
    assert [*pictures.glob("values*")]
    assert not (folder.path / "tiny" / PEEKS).exists()

    out = folder.give("report", "tiny", "--peek")
    (peek,) = read_peeks(folder.path / "tiny")
    assert (peek.finished, peek.of) == (4, 8)
    said = f"Looked at before it was finished: {peek.time.isoformat()}, with 4 of 8 trials."
    text, html = folder.reports()
    for each in (out, text, html):
        assert "No verdicts yet" in each
        assert said in each
        assert not re.search("own − plain: (equivalent|better|worse|undecided|verdict)", each)
    assert "| own − plain" in text
    assert 'id="forest"' in html

    for each in (folder.give("run"), *folder.reports(), folder.give("report", "tiny", "--peek")):
        assert "own − plain: " in each
        assert said in each
    assert read_peeks(folder.path / "tiny") == (peek,)  # that of a finished study is none


def test_a_later_look_leaves_earlier_ones_and_no_look_is_kept_twice(folder) -> None:
    folder.write(seeds=4)
    store = folder.path / "tiny"
    for seeds in (2, 3):
        folder.give("run", "tiny", "--seeds", seeds)
        folder.give("report", "tiny", "--peek")
    assert [look.finished for look in read_peeks(store)] == [4, 6]
    write_peeks(store / PEEKS, [*read_peeks(store), *read_peeks(store)])
    assert [look.finished for look in read_peeks(store)] == [4, 6]


def test_a_study_that_declares_nothing_has_nothing_to_peek_at(folder) -> None:
    folder.write(declared=None)
    folder.give("run", "tiny", "--seeds", 1)
    assert "Looked at" not in folder.give("report", "tiny", "--peek")
    assert not (folder.path / "tiny" / PEEKS).exists()


def test_a_peek_that_cannot_be_kept_is_refused(folder) -> None:
    folder.write()
    folder.give("run", "tiny", "--seeds", 1)
    results = folder.path / "tiny"
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    for each in (*results.rglob("*"), results):
        each.chmod(0o555)

    def look() -> None:
        drop_privileges()
        cli.main(["report", f"{results}.toml", "--out", str(folder.path), "--to", f"{folder.path}", "--peek"])

    code, out = fork(look).end()
    assert code == 2
    assert "Nothing is shown: a look before a study is finished must be kept with its results" in out
    assert "own − plain" not in out
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_a_damaged_list_of_looks_is_named(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    for content in (b"", b"{}", b'{"peeks": [{"time": "2026-11-24T07:00:00", "finished": 1, "of": 2}]}'):
        (store.folder / PEEKS).write_bytes(content)
        with pytest.raises(Damaged, match=f"{PEEKS}: expected a list of looks.*put back a copy"):
            analyse(STUDY, store)


def test_merging_joins_looks(tmp_path) -> None:
    stores = [Store(tmp_path / name / "made-up") for name in ("here", "laptop", "server")]
    looks = []
    for store, arms in zip(stores, (SIGNALS[:1], SIGNALS[1:3], SIGNALS[3:]), strict=True):
        begun(declare(store), STUDY, AFTER, arms)
        analyse(STUDY, store, peek=True)
        (one,) = read_peeks(store.folder)
        assert one.of == 3 * SEEDS
        looks.append(one)
    others = [store.folder for store in stores[1:]]
    merge(stores[0].folder, others)
    assert read_peeks(stores[0].folder) == tuple(sorted(set(looks), key=lambda one: (one.time, one.finished)))
    written = (stores[0].folder / PEEKS).stat().st_ino
    merge(stores[0].folder, others)
    assert (stores[0].folder / PEEKS).stat().st_ino == written
    new = tmp_path / "new" / "made-up"
    merge(new, others)
    assert set(read_peeks(new)) == set(looks[1:])
    assert analyse(STUDY, stores[0]).sentences[-1].startswith("Looked at before it was finished: ")


# The margin's reason


def test_the_reason_of_a_margin_is_shown_and_decides_nothing(folder) -> None:
    folder.write()
    folder.give("run")
    why = "half a *point* is <two> of 400"
    folder.write(declared={**BASE["declared"], "why": why})
    folder.give("report")
    text, html = folder.reports()
    assert "±0.5 points (half a *point* is &lt;two> of 400); seeds 0 to 1" in text
    assert html.count("half a *point* is &lt;two&gt; of 400") == 2
    assert f"That margin because: {why}" in folder.give("plan")
    folder.give("run")
    folder.write(declared={**BASE["declared"], "why": "otherwise", "margin": 0.6})
    assert "Changed since: declared.margin was 0.5, is 0.6\n" in folder.refused("report")
    for wrong in ("", "x" * 201, "a\nb"):
        folder.write(declared={**BASE["declared"], "why": wrong})
        assert "declared.why: " in folder.refused("report")


def test_arms_that_were_known_from_two_studies_are_known(tmp_path) -> None:
    store = fill(Store(tmp_path / "made-up"))
    for name, arm in (("one", "own"), ("two", "none")):
        other = STUDY.model_copy(update={"name": name, "declared": None})
        begun(Store(tmp_path / name), other, BEFORE, (arm,))
    first, second = analyse(STUDY, store).contrasts[:2]
    assert first.kind == "withheld"
    assert "seeds 0 to 7 in " in first.verdict
    assert second.kind != "withheld"


def test_differences_beside_a_failed_trial_are_a_look_too(tmp_path) -> None:
    """The next run tries it again: what was shown without it was shown before the study was finished."""
    store = fill(Store(tmp_path / "made-up"))
    trials = {(arm.name, trial.seed): trial for arm, trial in STUDY.trials()}
    made = store.read(trials["own", 2])
    store.path(trials["own", 2]).unlink()
    store.fail(trials["own", 2], "MemoryError")
    assert "Looked at" not in " ".join(analyse(STUDY, store).sentences)
    assert analyse(STUDY, store).sentences == analyse(STUDY, store).sentences
    store.write(trials["own", 2], made)
    assert "with 23 of 24 trials" in analyse(STUDY, store).sentences[-1]


def test_arms_that_no_contrast_compares_can_be_shown_alone(tmp_path) -> None:
    store = begun(declare(Store(tmp_path / "made-up")), STUDY, AFTER, ("constant",))
    curves = next(figure for figure in figures(analyse(STUDY, store)) if figure.name == "curves")
    assert curves.shown == ["constant | <b>"]
    assert save(curves, tmp_path / "figures")
