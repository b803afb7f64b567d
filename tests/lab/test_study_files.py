"""Study files: what is read, what is refused and how, and what a trial's key depends on."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from helpers.studies import change
from weight_feedback.lab.study.toml import StudyError, builtin_studies, load_study
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.intrinsic.settings import Measurement
from weight_feedback.lab.tasks.notebook.networks import NETWORKS
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Subspace, Training

STUDY = """
name = "tiny"
title = "A tiny study"
data = "generated"
seeds = 2
[training]
epochs = 1
[[arms]]
name = "plain"
model = "mnist-plain"
label = "w/o"
[[arms]]
name = "pooled"
model = "mnist-pooled"
label = "w/"
"""


@pytest.fixture
def study_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "study.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_study_lists_its_trials_seed_by_seed(study_file) -> None:
    study = load_study(study_file(STUDY))
    trials = [(arm.name, trial.model, trial.seed) for arm, trial in study.trials()]
    assert trials == [
        ("plain", "mnist-plain", 0),
        ("pooled", "mnist-pooled", 0),
        ("plain", "mnist-plain", 1),
        ("pooled", "mnist-pooled", 1),
    ]
    assert {trial.training for _, trial in study.trials()} == {Training(epochs=1)}


def test_defaults_are_the_original_protocol() -> None:
    assert Training().model_dump() == {
        "epochs": 6,
        "batch_size": 64,
        "lr": 0.01,
        "momentum": 0.5,
        "test_batch_size": 1000,
        "log_interval": 40,
        "cohort": 1,
        "subspace": None,
    }


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("epochs = 1", "epochs = 0", ["training.epochs", "expected at least 1", "got 0"]),
        ("epochs = 1", "epochs = 1.5", ["training.epochs", "a whole number", "1.5"]),
        ("epochs = 1", 'epochs = "1"', ["training.epochs", "a whole number", "'1'"]),
        ("epochs = 1", "lr = -0.1", ["training.lr", "expected more than 0", "-0.1"]),
        ("epochs = 1", "lr = nan", ["training.lr", "finite", "nan"]),
        ("epochs = 1", "momentum = 1.0", ["training.momentum", "less than 1", "1.0"]),
        ("epochs = 1", "batch_size = 0", ["training.batch_size", "got 0"]),
        ("epochs = 1", "epoch = 1", ["training.epoch", "there is no such field", "got 1"]),
        ("seeds = 2", "seeds = -1", ["seeds", "expected at least 1", "-1"]),
        ("seeds = 2", "", ["seeds", "needed, but missing"]),
        ('name = "tiny"', 'name = "../tiny"', ["name", "beginning with a letter or digit, got", "'../tiny'"]),
        ('"w/"', '"w/o"', ["arms", "each label must be unique", "'w/o' 2 times"]),
        (
            '"mnist-pooled"',
            '"mnist-plain"',
            ["arms", "each must have other settings, but 'plain' and 'pooled' train the same"],
        ),
        ('name = "pooled"', 'name = "plain"', ["arms", "each name must be unique", "'plain' 2 times"]),
        ("[training]", "[training", ["isn't valid TOML"]),
    ],
)
def test_a_wrong_study_is_refused_by_field(study_file, old, new, parts) -> None:
    path = study_file(STUDY.replace(old, new))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    for part in [path, *parts]:
        assert part in str(caught.value)


def test_an_unknown_study_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match=r"no study 'nope'.*quick"):
        load_study("nope")


@pytest.mark.parametrize("name", ["notebook-cifar10", "notebook-mnist", "quick"])
def test_the_notebooks_studies(name) -> None:
    study = load_study(name)
    assert study.name == name
    assert [arm.label for arm in study.arms] == [
        "w/o weight feedback",
        "w/ Weight feedback",
        "w/ Weight feedback RMP",
    ]
    family = "cifar10" if name == "notebook-cifar10" else "mnist"
    trials = [study.trial(arm, 0) for arm in study.arms]
    assert [trial.model for trial in trials] == [f"{family}-{kind}" for kind in ("plain", "pooled", "projected")]
    assert {trial.model for trial in trials} <= NETWORKS.keys()
    epochs = {"quick": 12, "notebook-mnist": 6, "notebook-cifar10": 20}[name]
    assert {trial.training for trial in trials} == {Training(epochs=epochs)}


CONTROLS = {
    "none": "none", "zeros": "zeros", "constant": "constant", "noise": "noise", "clock": "clock", "stale": "stale",
    "permuted": "permuted", "yoked": "yoked", "own": "own", "own-gradient": "own-gradient", "own-film": "own",
    "yoked-film": "yoked",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "seeds", "margin"),
    [
        ("controls-mnist-5k", 30, 0.5),
        ("controls-mnist", 20, 0.2),
        ("controls-fashion", 20, 0.2),
        ("controls-cifar10", 20, 0.2),
    ],
)
def test_the_controlled_studies(name, seeds, margin) -> None:
    study = load_study(name)
    assert (study.name, study.seeds) == (name, seeds)
    assert {arm.name: arm.settings["signal"] for arm in study.arms} == CONTROLS
    trials = {arm.name: study.trial(arm, 0) for arm in study.arms}
    assert {name for name, trial in trials.items() if trial.conditioning == "film"} == {"own-film", "yoked-film"}
    assert len({trial.model for trial in trials.values()}) == 1
    assert {trial.summary.scale for trial in trials.values() if trial.summary} == {"calibrated"}
    assert study.declared is not None
    assert study.declared.primary == (("own", "none"), ("own", "yoked"))
    assert study.declared.margin == margin


def test_a_declaration_depends_on_what_decides_alone() -> None:
    study = load_study("controls-mnist-5k")
    declared = study.declared

    def changed(**changes) -> str:
        return change(study, **changes).declaration()

    assert changed(title="another") == study.declaration()
    others = [
        changed(seeds=31),
        changed(data="mnist"),
        changed(training=Training(epochs=13)),
        changed(summary=Projected(k=27)),
        changed(declared=declared.model_copy(update={"margin": 0.6})),
        changed(declared=declared.model_copy(update={"primary": declared.primary[:1]})),
        changed(arms=study.arms[:-1]),
    ]
    assert len({study.declaration(), *others}) == 8
    # What was declared is found by its hash: it must not change by accident.
    assert [load_study(name).declaration() for name in builtin_studies() if load_study(name).declared] == [
        "2d9a18032419ef12",
        "6de09572e4035434",
        "4f454969ebac8ff5",
        "7e2a6e6cf461b078",
        "01f1532784635f77",
        "2a6dd902f460352e",
        "e5c01686e08b9680",
    ]


def test_builtin_names() -> None:
    assert builtin_studies() == [
        "controls-cifar10",
        "controls-fashion",
        "controls-mnist",
        "controls-mnist-5k",
        "notebook-cifar10",
        "notebook-mnist",
        "pooled-mnist-5k",
        "quick",
        "same-mnist-5k",
        "subspace-mnist-5k",
        "xavier-mnist-5k",
    ]


def test_settings_leave_out_what_does_not_apply() -> None:
    plain = NetworkTrial(data="mnist", training=Training(), model="mnist-plain", seed=3)
    assert plain.settings() == {
        "data": "mnist",
        "training": {"epochs": 6, "batch_size": 64, "lr": 0.01, "momentum": 0.5, "test_batch_size": 1000},
        "model": "mnist-plain",
        "seed": 3,
    }
    film = plain.model_copy(update={"signal": "own", "conditioning": "film"})
    assert film.settings() == plain.settings() | {"signal": "own", "conditioning": "film"}


TRIAL = {"data": "mnist", "training": Training(), "model": "mnist-plain", "seed": 0}
SWAP = {"trial": NetworkTrial(**TRIAL), "heard": "other"}
MEASUREMENT = {"data": "mnist", "network": "fc", "subspace": Subspace(dimensions=1), "epochs": 1, "seed": 0}


@pytest.mark.parametrize(
    ("kept", "settings", "field", "right", "wrong"),
    [
        (NetworkTrial, TRIAL, "seed", [0, 2**31 - 1], [-1, 2**31]),
        (NetworkTrial, TRIAL, "salt", [0, 1000], [-1, 1001]),
        (Swap, SWAP, "other", [0], [-1]),
        (Measurement, MEASUREMENT, "seed", [0, 2**31 - 1], [-1, 2**31]),
        (Measurement, MEASUREMENT, "epochs", [1, 100_000], [0, 100_001]),
        (Measurement, MEASUREMENT, "lr", [5e-324, 1.0], [0.0]),
    ],
)
def test_settings_have_bounds(kept, settings, field, right, wrong) -> None:
    for value in right:
        assert getattr(kept(**settings | {field: value}), field) == value
    for value in wrong:
        with pytest.raises(ValidationError, match=field):
            kept(**settings | {field: value})


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ('[["plain", "other"]]', "declared.primary: expected arms among plain, pooled, got 'other'"),
        ('[["plain", "plain"]]', "declared.primary: expected two different arms, got 'plain' twice"),
        ("[]", "declared.primary: expected at least 1 item"),
    ],
)
def test_wrong_contrasts_are_refused(study_file, primary, message) -> None:
    path = study_file(STUDY.replace("[training]", f"declared = {{primary = {primary}, margin = 0.5}}\n[training]"))
    with pytest.raises(StudyError, match=re.escape(message)):
        load_study(path)


def test_a_key_depends_on_what_is_computed_alone() -> None:
    def key(seed: int = 0, model: str = "mnist-plain", data: str = "mnist", **training) -> str:
        return NetworkTrial(data=data, training=Training(**training), model=model, seed=seed).key()

    others = [key(seed=1), key(model="mnist-pooled"), key(data="mnist-5k"), key(epochs=7), key(lr=0.02)]
    assert len({key(), *others}) == 6
    assert key(log_interval=7) == key()
    # Results on disk are found by their key: it must not change by accident.
    assert key() == "6f3bc52e973f6383"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            'outcome = "epochs-to-threshold"',
            "declared: threshold: needed by outcome 'first-past'.*got None",
        ),
        ("threshold = 90.0", "declared: threshold: .* by no other; got 90.0 with 'final'"),
        ('outcome = "luck"', "declared.outcome: .*got 'luck'"),
    ],
)
def test_outcomes(study_file, declared, message) -> None:
    text = f'{STUDY}\n[declared]\nprimary = [["pooled", "plain"]]\nmargin = 1.0\n{declared}\n'
    with pytest.raises(StudyError, match=message):
        load_study(study_file(text))


def test_another_outcome_is_another_declaration() -> None:
    study = load_study("controls-mnist-5k")
    declared = study.declared.model_copy(update={"metric": "loss"})
    assert study.model_copy(update={"declared": declared}).declaration() != study.declaration()


def test_salts_make_arms_and_trials_that_differ() -> None:
    study = load_study("same-mnist-5k")
    (_, own), (_, again), *_ = study.trials()
    assert own.key() != again.key()
    assert own.file_name != again.file_name
    assert own == load_study("same-mnist-5k").trial(study.arms[0], 0)
    assert "salt" not in own.settings()
    assert again.settings()["salt"] == 1


def test_swaps_are_those_of_networks_that_hear_themselves_in_declared_studies() -> None:
    study = load_study("controls-mnist-5k").model_copy(update={"seeds": 3})
    swaps = list(study.swaps())
    assert len({swap.key() for _, swap in swaps}) == len({swap.file_name for _, swap in swaps}) == 2 * 3 * 3
    assert {arm.name for arm, _ in swaps} == {"own", "own-film"}
    assert {(swap.trial.seed, swap.other) for _, swap in swaps if swap.heard == "other"} == {(0, 1), (1, 2), (2, 0)}
    assert {swap.heard for _, swap in study.model_copy(update={"seeds": 1}).swaps()} == {"zeros", "initial"}
    assert list(load_study("same-mnist-5k").swaps()) == []
