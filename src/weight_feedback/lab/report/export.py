"""Export: finished trials as a tidy table, one row an arm, seed and epoch."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from weight_feedback.files import write_atomically
from weight_feedback.lab.report.csvs import to_csv
from weight_feedback.lab.statistics.analysis import extended_seeds
from weight_feedback.lab.statistics.gate import came_before
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.study.study import COLUMNS, Arm, Study
from weight_feedback.lab.tasks.base import Measured, Trial
from weight_feedback.untrusted import printable


def export(
    study: Study,
    store: Store,
    path: Path,
    format: Literal["csv", "parquet"],  # noqa: A002
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
) -> int:
    """Write the finished trials of a study as a table.

    A trial that diverged counts as its metrics say from then on, as in all estimates. Of CSV, see `csvs.to_csv`.

    Args:
        study: arms × seeds.
        store: what is finished.
        path: the file.
        format: of the file.
        seeds: how many of each arm; default: the study's own, and those that follow without a gap.
        arms: names of some arms; default: all.

    Returns:
        The number of rows.

    Raises:
        ValueError: nothing is finished, there are less than one seeds, the study has no arm of a name, or pyarrow
            isn't installed.
        StoreError: a finished trial is damaged, or the study was declared otherwise.
    """
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            "export: parquet needs pyarrow, which isn't installed: pip install 'weight-feedback[parquet]'"
        )
    table = rows(study, store, seeds, arms)
    if table.empty:
        raise ValueError(f"no finished trials in {store.folder}; weight-feedback run {study.name} makes them")
    if format == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    else:
        plain = table.astype(object).where(table.notna(), None)
        content = to_csv([*map(str, table)], plain.itertuples(index=False, name=None))
    write_atomically(path, content)
    return len(table)


def rows(study: Study, store: Store, seeds: int | None = None, arms: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the finished trials of a study as a table, one row an arm, seed and epoch.

    Args:
        study: arms × seeds.
        store: what is finished.
        seeds: how many of each arm; default: the study's own, and those that follow without a gap.
        arms: names of some arms; default: all.

    Returns:
        The settings in which arms differ, metrics in their units, facts, diagnostics, seconds of the whole trial;
        what doesn't apply is missing. The declaration is that which a trial came after.

    Raises:
        StoreError: a finished trial is damaged, or the study was declared otherwise.
        ValueError: there are less than one seeds, or the study has no arm of a name.
    """
    known, values = store.declaration(study), study.arm_values()
    found = [
        {"study": study.name, "declaration": declaration, **row}
        for arm, trial in study.trials(arms, extended_seeds(study, store) if seeds is None else seeds)
        if (record := store.read(trial))
        for declaration in [known.declaration if known and not came_before(known, record.provenance) else ""]
        for row in _rows(study, arm, values[arm.name], trial, record)
    ]
    columns = {
        name: [row.get(name) for row in found] for name in dict.fromkeys(name for row in found for name in row)
    }
    return pd.DataFrame({name: pd.Series(values, dtype=_type(values)) for name, values in columns.items()})


def _type(values: Sequence[Any]) -> Literal["Int64", "float64"] | None:
    """Return the type of a column of numbers, the same whatever is missing; None for anything but numbers.

    That way, tables of several studies can be put together.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        return "Int64"
    return "float64" if kinds <= {int, float} else None


def _rows(
    study: Study, arm: Arm, values: Mapping[str, Any], trial: Trial, record: Record
) -> Iterator[dict[str, Any]]:
    measured = study.kind.measured(record.result)
    curves = dict.fromkeys([*study.reported, *measured.curves])
    taken = COLUMNS | curves.keys()
    settings = {f"setting_{name}" if name in taken else name: _cell(value) for name, value in values.items()}
    diagnostics = dict.fromkeys([*study.kind.diagnostics, *measured.diagnostics])
    for epoch in range(measured.epochs):
        yield {
            "arm": arm.name,
            "label": arm.label,
            **settings,
            "seed": trial.seed,
            "key": trial.key(),
            "status": "diverged" if measured.diverged else "finished",
            "epoch": epoch + 1,
            **{name: _value(study, measured, name, epoch) for name in curves},
            **{name: value for name, value in measured.facts.items() if name not in taken},
            # The first one is from before training.
            **{
                name: _at(measured.diagnostics.get(name, ()), epoch + 1)
                for name in diagnostics
                if name not in taken
            },
            "trial_seconds": record.provenance["seconds"],
            "torch": printable(str(record.provenance["torch"])),
            "host": printable(str(record.provenance["host"])),
        }


def _value(study: Study, measured: Measured, name: str, epoch: int) -> float | None:
    """Return a metric after an epoch, if it was reported; of a trial that has diverged, what it counts as."""
    values, metric = measured.curves.get(name, ()), study.reported.get(name)
    if epoch < len(values):
        return values[epoch]
    if not measured.diverged:
        return None
    return measured.counts_as(name, metric)


def _at(values: Sequence[float], i: int) -> float | None:
    return values[i] if i < len(values) else None


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
