"""The report's pictures: their numbers against scipy called directly, and files that show them."""

from __future__ import annotations

import csv
import html
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from helpers.made_up_study import (
    ACCURACY,
    EPOCHS,
    HEARINGS,
    LOSS,
    PROVENANCE,
    SEEDS,
    SIGNALS,
    STUDY,
    declare,
    fill,
    record,
)
from helpers.studies import change
from weight_feedback.lab.report.figures import Figure, figures, save
from weight_feedback.lab.statistics.analysis import Analysis, analyse
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.study.declared import Declared
from weight_feedback.lab.study.study import Arm

DOTS, HEARD = [["name", "seed", "value"]], [["arm", "epoch", "value"]]
TOOLTIPS = {
    "forest": [["contrast", "mean", "low", "high", "n"]],
    "curves": [["arm", "seed", "epoch", "value"], ["arm", "epoch", "mean", "low", "high", "n"]],
    "differences": DOTS, "swaps": DOTS, "z_norm": HEARD, "z_drift": HEARD, "z_share": HEARD,
}  # fmt: skip
FINAL = ACCURACY[:, :SEEDS, -1]


@pytest.fixture
def made(tmp_path) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(analyse(STUDY, fill(Store(tmp_path))))}


def difference(a: str, b: str) -> np.ndarray:
    return FINAL[SIGNALS.index(a)] - FINAL[SIGNALS.index(b)]


def test_the_order_is_that_of_the_report_and_what_has_no_data_is_left_out(made, tmp_path) -> None:
    assert list(made) == ["forest", "curves", "differences", "swaps", "z_norm", "z_drift", "z_share"]
    plain = STUDY.model_copy(update={"declared": None, "arms": STUDY.arms[:1], "seeds": 1})
    assert [figure.name for figure in figures(analyse(plain, fill(Store(tmp_path / "plain"), plain, 1)))] == [
        "curves"
    ]


def test_the_forest_has_a_line_a_contrast_and_the_margin(made) -> None:
    spec = made["forest"].spec
    assert len(spec["data"]["values"]) == 5
    for row in spec["data"]["values"]:
        x = difference(*row["contrast"].split(" − "))
        expected = stats.t.interval(0.95, SEEDS - 1, loc=x.mean(), scale=stats.sem(x))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((x.mean(), *expected))
    assert [row["declared"] for row in spec["data"]["values"]] == [True, True, False, False, False]
    assert spec["layer"][0]["data"]["values"] == [{"low": -0.5, "high": 0.5}]
    assert "own − none" in made["forest"].alt


def test_differences_have_a_dot_a_seed_and_their_quartiles(made) -> None:
    values = made["differences"].spec["data"]["values"]
    assert len(values) == 5 * SEEDS
    for row in values:
        assert row["value"] == pytest.approx(difference(*row["name"].split(" − "))[row["seed"]])
        assert 0 < row["jitter"] < 1
    name, pairs, *quartiles = made["differences"].rows[0]
    assert (name, pairs) == ("own − none", str(SEEDS))
    expected = np.percentile(difference("own", "none"), [0, 25, 50, 75, 100])
    assert [float(cell) for cell in quartiles] == pytest.approx(expected, abs=6e-4)


def test_curves_have_a_line_a_seed_and_means_with_intervals(made) -> None:
    seeds, _, _, means = (layer["data"]["values"] for layer in made["curves"].spec["layer"])
    labels = [arm.label for arm in STUDY.arms]
    assert len(seeds) == len(SIGNALS) * SEEDS * EPOCHS
    for row in seeds:
        assert row["value"] == pytest.approx(
            ACCURACY[labels.index(row["arm"]), row["seed"], row["epoch"] - 1], abs=1e-4
        )
    for row in means:
        x = ACCURACY[labels.index(row["arm"]), :SEEDS, row["epoch"] - 1]
        expected = stats.t.interval(0.95, SEEDS - 1, loc=x.mean(), scale=stats.sem(x))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((x.mean(), *expected))
    assert made["curves"].shown == [labels[0], *labels[2:]]  # those of the declared contrasts


@pytest.mark.parametrize(("epochs", "first"), [(2, 1), (3, 2), (12, 5)])
def test_curves_begin_after_the_first_third(tmp_path, epochs, first) -> None:
    study = change(STUDY, training={"epochs": epochs})
    store = Store(tmp_path)
    for arm, trial in study.trials():
        store.write(trial, record(trial, arm.name, epochs=1))
    (curves,) = (figure for figure in figures(analyse(study, store)) if figure.name == "curves")
    assert curves.first == first
    assert curves.last == epochs
    assert {"name": "first", "value": first} in curves.spec["params"]


def test_a_single_epoch_has_a_dot_a_seed_in_place_of_curves(tmp_path) -> None:
    study = change(STUDY, training={"epochs": 1})
    made = {figure.name: figure for figure in figures(analyse(study, fill(Store(tmp_path / "s"), study)))}
    assert list(made) == ["forest", "values", "differences", "swaps", "z_norm", "z_drift", "z_share"]
    values = made["values"]
    first = ACCURACY[:, :SEEDS, 0]
    labels = [arm.label for arm in STUDY.arms]
    assert {(row["name"], row["seed"]): row["value"] for row in values.spec["data"]["values"]} == {
        (label, seed): first[i, seed] for i, label in enumerate(labels) for seed in range(SEEDS)
    }
    assert values.headings == ["arm", "trials", "mean accuracy, %"]
    for i, (label, trials, mean) in enumerate(values.rows):
        assert (label, trials) == (labels[i], str(SEEDS))
        assert mean.startswith(f"{first[i].mean():.2f} [")
        assert f"{label} {mean}" in values.alt
    assert values.columns == ["arm", "seed", "accuracy"]
    assert values.values == [
        [name, seed, first[i, seed]] for i, name in enumerate(SIGNALS) for seed in range(SEEDS)
    ]
    json.dumps(values.spec, allow_nan=False)
    assert all(path.stat().st_size > 0 for path in save(values, tmp_path))


def test_curves_are_of_the_metric_that_is_judged(tmp_path) -> None:
    study = STUDY.model_copy(update={"declared": STUDY.declared.model_copy(update={"metric": "loss"})})
    made = {figure.name: figure for figure in figures(analyse(study, fill(Store(tmp_path), study)))}
    curves = made["curves"]
    assert curves.title == "Test loss over training"
    assert curves.alt.startswith("Test loss in nats by epoch. After the last: ")
    seeds = curves.spec["layer"][0]["data"]["values"]
    labels = [arm.label for arm in STUDY.arms]
    for row in seeds:
        assert row["value"] == pytest.approx(
            LOSS[labels.index(row["arm"]), row["seed"], row["epoch"] - 1], abs=1e-6
        )
    assert curves.columns == ["arm", "seed", "epoch", "loss", "accuracy"]
    titles = [tip.get("title") for tip in curves.spec["layer"][3]["encoding"]["tooltip"]]
    assert titles == [None, None, "mean, nats", "low, nats", "high, nats", "seeds"]
    assert made["swaps"].alt.startswith("Changes of test loss in nats: own under z = 0: ")


def test_swaps_and_what_is_heard(made) -> None:
    swaps = made["swaps"].spec["data"]["values"]
    assert {(row["name"], row["seed"]): row["value"] for row in swaps if row["seed"] == 3} == pytest.approx(
        {("own: z = 0", 3): -2.3, ("own: its initial z", 3): -0.8, ("own: another seed's final z", 3): -1.3}
    )
    for j, name in enumerate(("z_norm", "z_drift", "z_share")):
        for row in made[name].spec["data"]["values"]:
            i = [arm.label for arm in STUDY.arms].index(row["arm"])
            assert row["value"] == pytest.approx(HEARINGS[i, :SEEDS, row["epoch"], j].mean())


def test_what_is_heard_ends_where_all_seeds_have_diverged(tmp_path) -> None:
    store = fill(Store(tmp_path))
    for arm, trial in STUDY.trials():
        if arm.name == "own" or (arm.name == "yoked" and trial.seed < 2):
            store.path(trial).unlink()
            store.write(trial, record(trial, arm.name, epochs=1))
    made = {figure.name: figure for figure in figures(analyse(STUDY, store))}
    values = {(row["arm"][:5], row["epoch"]): row["value"] for row in made["z_norm"].spec["data"]["values"]}
    assert [epoch for arm, epoch in values if arm == "own |"] == [0, 1]
    assert values["yoked", EPOCHS] == pytest.approx(HEARINGS[SIGNALS.index("yoked"), 2:SEEDS, EPOCHS, 0].mean())
    assert made["z_norm"].rows[-1][-1] == "–"


def test_declared_arms_have_colours_of_their_own(made) -> None:
    scale = made["curves"].spec["encoding"]["color"]["scale"]
    assert scale["domain"] == [arm.label for arm in STUDY.arms]
    assert len(set(scale["range"])) == 4
    assert made["z_norm"].spec["encoding"]["color"]["scale"] == scale


def test_specifications_are_json_even_of_a_single_seed(made, tmp_path) -> None:
    one = STUDY.model_copy(update={"seeds": 1})
    for figure in (*made.values(), *figures(analyse(one, fill(Store(tmp_path / "one"), one, seeds=1)))):
        json.dumps(figure.spec, allow_nan=False)
        assert len({len(row) for row in figure.rows} | {len(figure.headings)}) == 1


def encoded(part: object) -> Iterator[object]:
    """The fields that a part of a specification shows."""
    if isinstance(part, dict):
        yield from [part["field"]] if "field" in part else []
        part = [value for key, value in part.items() if key not in ("data", "layer")]
    if isinstance(part, list):
        yield from itertools.chain.from_iterable(map(encoded, part))


def test_whatever_is_shown_is_in_the_data(made) -> None:
    for figure in made.values():
        for layer in figure.spec.get("layer", [figure.spec]):
            rows = (layer if "data" in layer else figure.spec)["data"]["values"]
            shown = {*encoded(layer), *encoded(figure.spec)}
            assert shown
            assert all(shown <= row.keys() for row in rows), figure.name
        tips = [
            [channel["field"] for channel in layer["encoding"]["tooltip"]]
            for layer in figure.spec.get("layer", [figure.spec])
            if "tooltip" in layer["encoding"]
        ]
        assert tips == TOOLTIPS[figure.name]


def test_the_numbers_of_a_file_are_those_of_all_seeds(made) -> None:
    assert made["curves"].columns == ["arm", "seed", "epoch", "accuracy", "loss"]
    assert {(arm, seed, epoch): x for arm, seed, epoch, *x in made["curves"].values} == {
        (arm, seed, epoch + 1): [pytest.approx(ACCURACY[i, seed, epoch]), pytest.approx(LOSS[i, seed, epoch])]
        for i, arm in enumerate(SIGNALS)
        for seed in range(SEEDS)
        for epoch in range(EPOCHS)
    }
    for j, name in enumerate(("z_norm", "z_drift", "z_share")):
        assert made[name].columns == ["arm", "seed", "epoch", name]
        assert {(arm, seed, epoch): x for arm, seed, epoch, x in made[name].values} == {
            (arm, seed, epoch): pytest.approx(HEARINGS[i, seed, epoch, j])
            for i, arm in enumerate(SIGNALS)
            for seed in range(SEEDS)
            for epoch in range(EPOCHS + 1)
            if arm != "none"
        }
    assert made["differences"].columns == ["a", "b", "seed", "difference"]
    assert len(made["differences"].values) == 5 * SEEDS
    for a, b, seed, x in made["differences"].values:
        assert x == pytest.approx(difference(a, b)[seed])
    assert made["swaps"].columns == ["arm", "under", "seed", "change"]
    assert [row for row in made["swaps"].values if row[2] == 3] == [
        ["own", "z = 0", 3, pytest.approx(-2.3)],
        ["own", "its initial z", 3, pytest.approx(-0.8)],
        ["own", "another seed's final z", 3, pytest.approx(-1.3)],
    ]
    assert len(made["swaps"].values) == 3 * SEEDS


def test_who_cannot_see_a_picture_is_told_its_numbers(made) -> None:
    for name, said in (
        ("forest", [f"{row[0]} {row[3]}" for row in made["forest"].rows[:2]]),  # those that are declared
        ("curves", [f"{arm.label} {x:.2f} [" for arm, x in zip(STUDY.arms, FINAL.mean(axis=1), strict=True)]),
        ("differences", ["5 contrasts, in points"]),
        ("swaps", [f"own under {row[1]}: {row[4]}" for row in made["swaps"].rows]),
        *(
            (heard, [f"{row[0]} {row[-1]}" for row in made[heard].rows])
            for heard in ("z_norm", "z_drift", "z_share")
        ),
    ):
        alt = made[name].alt
        assert said
        assert [part for part in said if part not in alt] == []
        assert alt.count("; ") == len(said) - 1 + (name == "differences")
    assert len(made["swaps"].rows) == 3


def test_files_hold_the_picture_and_its_numbers(made, tmp_path) -> None:
    paths = {path.name: path for figure in made.values() for path in save(figure, tmp_path / "figures")}
    assert len(paths) == 3 * len(made)
    assert paths["forest.png"].read_bytes().startswith(b"\x89PNG")
    svg = paths["forest.svg"].read_text()
    assert "own − none" in svg
    with paths["forest.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    x = difference("own", "none")
    assert float(rows[0]["mean"]) == pytest.approx(x.mean())
    assert float(rows[0]["d_z"]) == pytest.approx(x.mean() / x.std(ddof=1), rel=0.2)
    # What can't be shown later isn't in the legend of the file.
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", paths["curves.svg"].read_text())
    assert [text for text in drawn if "|" in text] == [f"{name} | &lt;b&gt;" for name in ("none", "yoked", "own")]
    again = save(made["curves"], tmp_path / "again")
    assert [path.read_bytes() for path in again] == [paths[path.name].read_bytes() for path in again]


def test_missing_numbers_of_a_file_are_empty_fields(tmp_path) -> None:
    store = declare(Store(tmp_path))
    for name, seeds in (("none", 3), ("own", 1), ("yoked", 1)):  # a single pair has no interval
        for arm, trial in STUDY.trials(arms=[name], seeds=seeds):
            store.write(trial, record(trial, arm.name, epochs=1 if name == "own" else EPOCHS))
    made = {figure.name: figure for figure in figures(analyse(STUDY, store, peek=True))}
    text = {name: save(made[name], tmp_path / "figures")[-1].read_text() for name in ("forest", "z_norm")}
    assert "nan" not in text["forest"] + text["z_norm"]
    assert text["forest"].splitlines()[1].startswith('"own","none",True,1,')
    assert text["forest"].splitlines()[1].endswith(",,")
    assert text["z_norm"].splitlines()[0] == '"arm","seed","epoch","z_norm"'
    assert f'"own",0,{EPOCHS},' in text["z_norm"].splitlines()


# Many arms, and long names


def many(store: Store, arms: int, *, long: bool = False, primary: int = 0, seeds: int = 2) -> Analysis:
    """A study of many arms, all but the first one of which hear."""
    more = "-goes-on-and-on-and-on-for-as-long-as-names-may-go-on" * long
    words = " goes on and on, as long as labels may, and is to be read to its end all the same" * long
    made = tuple(
        Arm(
            name=f"a{i}{more}",
            model="mnist-plain",
            label=f"arm {i}{words}"[:80],
            signal="own" if i else "none",
            salt=i,
        )
        for i in range(arms)
    )
    pairs = tuple((made[i + 1].name, made[0].name) for i in range(primary))
    declared = Declared(primary=pairs, margin=0.5) if pairs else None
    study = STUDY.model_copy(update={"arms": made, "declared": declared, "seeds": seeds})
    for arm, trial in study.trials():
        store.write(trial, record(trial, arm.settings["signal"]))
    for _, swap in study.swaps():
        store.write(
            swap,
            Record({"swap": swap.settings(), "data": "0" * 64, "accuracy": 90.0 + swap.trial.seed}, PROVENANCE),
        )
    return analyse(study, store)


def drawn_texts(svg: Path) -> str:
    return "\n".join(html.unescape(text) for text in re.findall(r"<t(?:ext|span)[^>]*>([^<]+)<", svg.read_text()))


def test_long_names_go_over_lines_and_nothing_is_cut_off(tmp_path) -> None:
    analysis = many(Store(tmp_path / "s"), 8, long=True, primary=7)
    for figure in figures(analysis):
        png, svg, _ = save(figure, tmp_path)
        pixels = imread(png)[..., :3]
        for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
            assert (edge == 1).all(), figure.name
        shown = drawn_texts(svg)
        assert "…" not in shown
        parts = figure.shown or [
            row["contrast" if figure.name == "forest" else "name"] for row in figure.spec["data"]["values"]
        ]
        for name in parts:
            for word in name.replace("-", " ").split():
                assert word in shown
        assert max(map(len, shown.splitlines())) < 60


def test_short_names_are_as_they_are(made) -> None:
    assert "labelExpr" not in json.dumps([figure.spec for figure in made.values()])
    assert made["forest"].spec["height"] == 24 * 5


@pytest.mark.parametrize("primary", [0, 2])
def test_as_many_arms_as_can_be_told_apart_are_shown_at_first(tmp_path, primary) -> None:
    made = {figure.name: figure for figure in figures(many(Store(tmp_path), 30, primary=primary))}
    labels = [f"arm {i}" for i in range(30)]
    assert made["curves"].arms == labels
    assert made["curves"].shown == (labels[:3] if primary else labels[:21])
    assert made["z_norm"].arms == labels[1:]
    assert made["z_norm"].shown == (labels[1:3] if primary else labels[1:22])
    assert len(made["z_norm"].rows) == 29
    scale = made["curves"].spec["encoding"]["color"]["scale"]
    dashes = made["curves"].spec["layer"][3]["encoding"]["strokeDash"]["scale"]
    assert (
        len({(colour, str(dash)) for colour, dash in zip(scale["range"][:21], dashes["range"][:21], strict=True)})
        == 21
    )
    for name in ("curves", "z_norm"):
        assert "21 arms are shown at most" in made[name].caption
        assert made[name].alt.endswith(f"; {len(made[name].arms) - 21} more are in the table.")


def test_what_has_no_room_in_a_picture_is_in_its_table_and_that_is_said(tmp_path) -> None:
    made = {figure.name: figure for figure in figures(many(Store(tmp_path / "s"), 120, primary=3))}
    for name, more in (("forest", 19), ("differences", 19), ("swaps", 257)):
        figure = made[name]
        assert len({row.get("contrast", row.get("name")) for row in figure.spec["data"]["values"]}) == 100
        assert len(figure.rows) == 100 + more
        assert f" {more} more " in figure.caption
        _, svg, csv_file = save(figure, tmp_path)
        assert f"{more} more rows are in the report's table" in drawn_texts(svg)
        assert len(csv_file.read_text().splitlines()) > 100 + more
    for name, more in (("curves", 20), ("z_norm", 19)):
        figure = made[name]
        assert len(figure.arms) == 100
        assert f" {more} more arms are in the table alone." in figure.caption
        assert len(figure.rows) == 100 + more
        assert len(json.dumps(figure.spec)) < 200_000
