"""Commands before the first trial: is a training fit to be compared, and how many seeds does it need?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from weight_feedback.lab.commands.options import (
    OUT,
    Command,
    DataDir,
    Device,
    Out,
    StudyName,
    Trust,
    folder_of,
    read_study,
)
from weight_feedback.lab.commands.terminal import duration, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from weight_feedback.lab.statistics.pilot import Piloted
    from weight_feedback.lab.store.store import Store
    from weight_feedback.lab.study.study import Study

_STYLES = {"failed": "bold red", "noted": "yellow"}


@dataclass(frozen=True)
class Preflight(Command):
    """Train two epochs of two arms, and say whether the training is fit to be compared.

    Is it repeatable, bit for bit? Does it depend on the seed, and on what arms change? Does it go on from a
    checkpoint to the same numbers? Does evaluating leave it alone? Nothing of it becomes a result. What is found
    is kept with the results, and what failed stays in the report. A short form of it begins each run.

    For example:
        weight-feedback preflight mine.py
        weight-feedback preflight mine.py --device cuda
    """

    study: StudyName
    out: Out = OUT
    data_dir: DataDir = None
    device: Device = "auto"
    trust: Trust = False

    def __call__(self, console: Console) -> None:
        """Check, print and keep."""
        from weight_feedback.lab.execution.preflight import code_of, preflight
        from weight_feedback.lab.store.checks import CHECKS, write_checks
        from weight_feedback.lab.store.store import Store

        study = read_study(self.study, self.trust)
        store = Store(folder_of(self.study, study, self.out))
        study.running()
        try:
            checks = preflight(
                study, data_dir=self.data_dir, device=self.device, tell=lambda line: print_text(console, line)
            )
        except Exception as error:
            if not (notes := getattr(error, "__notes__", [])):
                raise
            # It comes from the task, with its traceback.
            raise ValueError("\n".join([f"preflight: {type(error).__name__}: {error}", *notes])) from error
        store.probe()
        print_table(
            console,
            f"{study.title}: preflight",
            ("", "verdict", "what was found"),
            [[check.name, check.verdict, check.said] for check in checks],
        )
        write_checks(store.folder, code_of(study, self.data_dir), tuple(checks))
        print_text(console, f"kept in {store.folder / CHECKS}")


def check_shortly(console: Console, study: Study, store: Store, data_dir: Path | None, device: str) -> None:
    """Make the short form of a preflight, before a study's first trial, unless this code has had one.

    What the task raises is said, and stops nothing.

    Args:
        console: where to print.
        study: arms × seeds.
        store: of the study.
        data_dir: where data files are looked for.
        device: see `choose_device`.
    """
    from weight_feedback.lab.execution.preflight import code_of, preflight
    from weight_feedback.lab.store.checks import read_checks, write_checks
    from weight_feedback.lab.tasks.loading import BUILT_IN

    if study.task in BUILT_IN or len(study.arms) < 2 or any(store.trials.glob("*.json")):
        return
    code, known = code_of(study, data_dir), read_checks(store.folder)
    if known is not None and known.code == code:  # a longer one, most likely
        return
    try:
        checks = preflight(
            study, data_dir=data_dir, device=device, short=True, tell=lambda line: print_text(console, line)
        )
    except Exception as error:  # of the task; its trials will fail one by one, each with its traceback
        print_text(console, f"preflight: {type(error).__name__}: {error}", _STYLES["failed"])
        return
    if checks:
        failed = sum(check.verdict == "failed" for check in checks)
        print_text(
            console,
            f"preflight: {failed or 'none'} of {len(checks)} checks failed; `weight-feedback preflight` makes more",
        )
        for check in checks:
            if check.verdict in _STYLES:
                print_text(console, f"{check.name}: {check.said}", _STYLES[check.verdict])
        store.probe()
        write_checks(store.folder, code, tuple(checks))


def print_pilot(
    console: Console, study: Study, piloted: Sequence[Piloted], seconds: Sequence[float], jobs: int
) -> None:
    """Print what a pilot says of the seeds that a study needs; not which arm was better.

    Args:
        console: where to print.
        study: arms × seeds, declared.
        piloted: one for each primary contrast.
        seconds: that a trial took, one an arm of the study.
        jobs: trials side by side.
    """
    from weight_feedback.lab.statistics.outcomes import study_outcome, with_unit

    assert study.declared is not None
    unit = study_outcome(study).differences
    print_table(
        console,
        f"{study.title}: pilot",
        (
            "contrast",
            "pairs",
            f"SD of differences{', ' + unit if unit else ''}",
            "correlation",
            "seeds to show equivalence",
            "seeds to detect the margin",
        ),
        [
            [
                f"{one.a} − {one.b}",
                str(one.n),
                f"{one.sd:.3g} [{one.low:.3g}, {one.high:.3g}]",
                "–" if math.isnan(one.correlation) else f"{one.correlation:+.2f}".replace("-", "−"),
                _span(one.equivalence),
                _span(one.detection),
            ]
            for one in piloted
        ],
    )
    print_text(
        console,
        f"Seeds for 80 % power within ±{with_unit(f'{study.declared.margin:g}', unit)}, at Holm's strictest level: "
        "by the standard deviation that was found, and in brackets by the ends of its 95 % interval. Equivalence: "
        "if the arms don't differ at all. Differences themselves aren't shown: who has seen them chooses seeds or "
        "margin by them. The pilot's seeds aren't the study's.",
    )
    needed, most = (max((one.equivalence[i] or 0 for one in piloted), default=0) for i in (0, 2))
    counts = {
        "the study's": study.seeds,
        "to show equivalence in each contrast": needed,
        "likewise, by the upper end of the interval": most,
    }
    for what, count in counts.items():
        if count:
            took = duration(count * sum(seconds) / jobs)
            print_text(console, f"{count} seeds ({what}): about {took} with {jobs} side by side")


def _span(seeds: tuple[int | None, int | None, int | None]) -> str:
    found, least, most = ("> 1,000,000" if one is None else f"{one:,}" for one in seeds)
    return f"{found} [{least}, {most}]"
