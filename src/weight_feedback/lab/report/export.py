"""Export: finished trials as a tidy table, one row an arm, seed and epoch."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from weight_feedback.files import write_atomically
from weight_feedback.lab.report.csvs import to_csv
from weight_feedback.lab.statistics.analysis import extended_seeds
from weight_feedback.lab.statistics.gate import came_before
from weight_feedback.lab.store.store import Record, Store
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.trials import Trial
from weight_feedback.untrusted import printable

_TYPES = {"correct": "Int64", "z_norm": "float64", "z_drift": "float64", "z_share": "float64"}


def export(
    study: Study,
    store: Store,
    path: Path,
    format: Literal["csv", "parquet"],  # noqa: A002
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
) -> int:
    """Write the finished trials of a study as a table.

    A trial that diverged counts as chance from then on, as in all estimates. Of CSV, see `csvs.to_csv`.

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
        Accuracy in percent, losses in nats, ``z_norm``, ``z_drift`` and ``z_share`` as in `training.Hearing`,
        seconds of the whole trial; what doesn't apply is missing. The declaration is that which a trial came after.

    Raises:
        StoreError: a finished trial is damaged, or the study was declared otherwise.
        ValueError: there are less than one seeds, or the study has no arm of a name.
    """
    known = store.declaration(study)
    table = pd.DataFrame(
        [
            {"study": study.name, "declaration": declaration, **row}
            for arm, trial in study.trials(arms, extended_seeds(study, store) if seeds is None else seeds)
            if (record := store.read(trial))
            for declaration in [known.declaration if known and not came_before(known, record.provenance) else ""]
            for row in _rows(arm, trial, record)
        ]
    )
    # Of the same types whatever is missing, so that tables of several studies can be put together.
    return table if table.empty else table.astype(_TYPES)


def _rows(arm: Arm, trial: Trial, record: Record) -> Iterator[dict[str, Any]]:
    result = record.result
    chance = {"accuracy": 100 / result["classes"], "loss": math.log(result["classes"]), "correct": None}
    for epoch in range(trial.training.epochs):
        evaluation = result["epochs"][epoch] if epoch < len(result["epochs"]) else chance
        # The first one is from before training.
        hearing = dict(enumerate(result["hearings"])).get(epoch + 1, {})
        yield {
            "arm": arm.name,
            "label": arm.label,
            "model": trial.model,
            "signal": trial.signal or "none",
            "conditioning": trial.conditioning,
            "salt": trial.salt,
            "seed": trial.seed,
            "key": trial.key(),
            "status": "finished" if result["diverged"] is None else "diverged",
            "epoch": epoch + 1,
            **{name: evaluation[name] for name in chance},
            "parameters": result["parameters"],
            **{f"z_{name}": hearing.get(name) for name in ("norm", "drift", "share")},
            "seconds": record.provenance["seconds"],
            "torch": printable(str(record.provenance["torch"])),
            "host": printable(str(record.provenance["host"])),
        }
