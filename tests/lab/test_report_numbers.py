"""Every number of a report, read from its page, against scipy and statsmodels called on the exported rows."""

from __future__ import annotations

import csv
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from helpers.made_up_study import EPOCHS, SEEDS, STUDY, fill
from weight_feedback.lab.report.export import export
from weight_feedback.lab.report.figures import figures, save
from weight_feedback.lab.report.page import page
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.store import Store

LABELS = {arm.name: arm.label for arm in STUDY.arms}


class Tables(HTMLParser):
    """Collects the tables by their captions, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.verdicts: list[str] = []
        self.where = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.where = tag
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "p" and (dict(attrs).get("class") or "").startswith("verdict"):
            self.where = "verdict"
            self.verdicts.append("")

    def handle_endtag(self, tag) -> None:
        self.where = "verdict" if (self.where, tag) == ("strong", "strong") else ""

    def handle_data(self, data) -> None:
        if self.where == "caption":
            self.tables[data] = self.rows
        elif self.where in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.where == "verdict":
            self.verdicts[-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store = fill(Store(folder / "made-up"))
    analysis = analyse(STUDY, store)
    pictures = figures(analysis)
    tables = Tables()
    tables.feed(page(analysis, pictures, "weight-feedback run made-up"))
    export(STUDY, store, folder / "trials.csv", "csv")
    swaps = next(
        path for path in save(next(f for f in pictures if f.name == "swaps"), folder) if path.suffix == ".csv"
    )
    return tables, pd.read_csv(folder / "trials.csv"), swaps


def numbers(cell: str) -> list[float]:
    return [
        float(number.replace("−", "-").replace(",", "")) for number in re.findall(r"−?[\d,]*\d(?:\.\d+)?", cell)
    ]


def t_interval(x) -> list[float]:
    return [np.mean(x), *stats.t.interval(0.95, len(x) - 1, loc=np.mean(x), scale=stats.sem(x))]


def test_arms(made) -> None:
    tables, rows, _ = made
    table = tables.tables["Means over seeds, with 95 % intervals of each arm by itself"]
    assert len(table) == 1 + len(STUDY.arms)
    for name, cells in zip(LABELS, table[1:], strict=True):
        arm = rows[rows["arm"] == name]
        last = arm[arm["epoch"] == EPOCHS]
        assert cells[0] == LABELS[name]
        assert numbers(cells[1]) == [last["parameters"].iloc[0]]
        assert numbers(cells[2]) == [len(last)]
        assert numbers(cells[3]) == pytest.approx(t_interval(last["accuracy"]), abs=0.0051)
        assert numbers(cells[4]) == pytest.approx(t_interval(arm.groupby("seed")["accuracy"].max()), abs=0.0051)
        assert numbers(cells[5]) == pytest.approx(t_interval(last["loss"]), abs=0.000051)
        assert numbers(cells[6]) == pytest.approx([last["trial_seconds"].mean()], abs=0.051)


def pair(rows: pd.DataFrame, contrast: str) -> tuple[np.ndarray, np.ndarray]:
    final = rows[rows["epoch"] == EPOCHS].pivot_table(index="seed", columns="arm", values="accuracy")
    a, b = contrast.split(" − ")
    return final[a].to_numpy(), final[b].to_numpy()


def flip_p(x: np.ndarray) -> float:
    # Both signs of every difference: exact for so few.
    return float(stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue)


def test_contrasts(made) -> None:
    tables, rows, _ = made
    for cells in tables.tables["Differences of final accuracy"][1:]:
        a, b = pair(rows, cells[0])
        x, n = a - b, len(a)
        assert numbers(cells[2]) == [n] == [SEEDS]
        low, high = stats.ttest_rel(a, b).confidence_interval()
        assert numbers(cells[3]) == pytest.approx([x.mean(), low, high], abs=0.00051)
        assert numbers(cells[4]) == pytest.approx([flip_p(x)], abs=0.000051)
        correction = special.gamma((n - 1) / 2) / (math.sqrt((n - 1) / 2) * special.gamma((n - 2) / 2))
        assert numbers(cells[7]) == pytest.approx([correction * x.mean() / x.std(ddof=1)], abs=0.0051)
        assert numbers(cells[8]) == pytest.approx([np.mean((x > 0) + 0.5 * (x == 0))], abs=0.0051)
        # Of two contrasts, at 2.5 %. A sign-flip test of so few pairs has a little less power than a t test.
        effect = TTestPower().solve_power(nobs=n, alpha=0.025, power=0.8)
        assert numbers(cells[9]) == pytest.approx([effect * x.std(ddof=1)], rel=0.15)


def test_verdicts(made) -> None:
    tables, rows, _ = made
    names = ["own − none", "own − yoked"]
    pairs = [pair(rows, name) for name in names]
    tost = multipletests([equivalence_p(a, b, 0.5) for a, b in pairs], method="holm")[1]
    flips = multipletests([flip_p(a - b) for a, b in pairs], method="holm")[1]
    # Both differ and neither is equivalent: the one with the smaller p-value is tested at 2.5 %, the other at 5 %.
    levels = [0.95, 0.975] if flip_p(np.subtract(*pairs[1])) < flip_p(np.subtract(*pairs[0])) else [0.975, 0.95]
    table = {cells[0]: cells for cells in tables.tables["Differences of final accuracy"][1:]}
    for verdict, name, (a, b), equivalent, flip, level in zip(
        tables.verdicts, names, pairs, tost, flips, levels, strict=True
    ):
        assert equivalent > 0.05 > flip
        said = re.fullmatch(
            rf"\s*{name}: better on this test set, with this training set: difference (\S+) points "
            rf"\({100 * level:g} % interval (\S+) to (\S+); adjusted p (\S+) of equivalence "
            r"and (\S+) of a difference; (\d+) seeds\)\.",
            verdict,
        )
        assert said, verdict
        found = [float(x.replace("−", "-")) for x in said.groups()]
        expected = [(a - b).mean(), *stats.ttest_rel(a, b).confidence_interval(level), equivalent, flip, SEEDS]
        assert found == pytest.approx(expected, abs=0.0051)
        assert [float(cell) for cell in table[name][5:7]] == pytest.approx([flip, equivalent], abs=0.000051)


def equivalence_p(a: np.ndarray, b: np.ndarray, margin: float) -> float:
    """Two t tests and two exact sign-flip tests against the margins."""
    flips = [
        stats.permutation_test(
            (margin + sign * (a - b),),
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="greater",
        ).pvalue
        for sign in (1, -1)
    ]
    return float(max(ttost_paired(a, b, -margin, margin)[0], *flips))


def test_swaps(made) -> None:
    tables, rows, path = made
    with path.open(newline="") as file:
        changes = pd.DataFrame(csv.DictReader(file)).astype({"seed": int, "change": float})
    final = rows[rows["epoch"] == EPOCHS].set_index(["arm", "seed"])["accuracy"]
    table = tables.tables["Trained models under something else"][1:]
    for cells, (_, group) in zip(table, changes.groupby(["arm", "under"], sort=False), strict=True):
        assert numbers(cells[2]) == [len(group)]
        reached = [final[arm, seed] + change for arm, seed, change in group[["arm", "seed", "change"]].to_numpy()]
        assert numbers(cells[3]) == pytest.approx(t_interval(reached), abs=0.0051)
        assert numbers(cells[4]) == pytest.approx(t_interval(group["change"]), abs=0.00051)


def test_accuracy_by_epoch(made) -> None:
    tables, rows, _ = made
    for cells in tables.tables["Accuracy over training"][1:]:
        means = rows[rows["label"] == cells[0]].groupby("epoch")["accuracy"].mean()
        assert [float(cell) for cell in cells[1:]] == pytest.approx(means.to_list(), abs=0.0051)


@pytest.mark.parametrize(
    ("caption", "column"),
    [("Size of the signal", "z_norm"), ("Drift of the signal", "z_drift"), ("Loudness of the signal", "z_share")],
)
def test_what_is_heard(made, caption, column) -> None:
    tables, rows, _ = made
    for cells in tables.tables[caption][1:]:
        means = rows[rows["label"] == cells[0]].groupby("epoch")[column].mean()
        # The first column is of before training, which has no row of its own.
        assert [float(cell) for cell in cells[2:]] == pytest.approx(means.to_list(), abs=0.00051)
