"""The command on the statistics themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from tyro.conf import arg

from weight_feedback.lab.commands.options import (
    NUMBER,
    OUT,
    WHOLE,
    WHOLES,
    Bounds,
    Command,
    DataDir,
    Device,
    Jobs,
    Numbers,
    Out,
)
from weight_feedback.lab.commands.terminal import RunDisplay, print_table, print_text

if TYPE_CHECKING:
    from weight_feedback.lab.statistics.calibration import Calibration
    from weight_feedback.lab.statistics.estimates import Interval
    from weight_feedback.lab.study.study import Study

HEADINGS = (
    "seeds",
    "t test rejects %",
    "sign-flip rejects %",
    "t interval covers %",
    "BCa interval covers %",
)
FAMILIES = ("differences", "seeds", "a difference %", "equivalence %", "either %", "either, halved levels %")
#: Of simulated studies.
SEEDS = Numbers((10, 20, 30))
#: Of an A/A study: two arms that differ in nothing but the random draw of P and V.
SAME = "same-mnist-5k"


@dataclass(frozen=True)
class Calibrate(Command):
    """Count how often the statistics are wrong.

    They run on simulated studies, whose truth is known, which takes seconds. With --trained, an A/A study of real
    trainings follows, in which two arms are the same but for the random draw of P and V; its seeds are cut into
    contrasts that share none. It is kept in --out like any study, and run only where it is missing.

    For example:
        weight-feedback calibrate
        weight-feedback calibrate --seeds 8 30 --effect 0.5
        weight-feedback calibrate --studies 20000 --seeds 5 10 20 30 --families
        weight-feedback calibrate --trained
    """

    studies: Annotated[int, WHOLE, Bounds(least=1), arg(help="Simulated studies for each count of seeds.")] = 2000
    seeds: Annotated[
        Numbers,
        WHOLES,
        Bounds(least=2, some=True),
        arg(metavar="N [N …]", help="Counts of seeds."),
    ] = SEEDS
    effect: Annotated[float, NUMBER, arg(help="True difference, in standard deviations of the differences.")] = 0.0
    trained: Annotated[bool, arg(help="Follow up with real trainings.")] = False
    families: Annotated[
        bool,
        arg(help="Also count false claims in families of 1 to 10 verdicts; takes minutes."),
    ] = False
    same: Annotated[str, arg(metavar="STUDY", help="The A/A study, of two arms.")] = SAME
    contrast_seeds: Annotated[
        int, WHOLE, Bounds(least=2), arg(metavar="N", help="Seeds of each of its contrasts.")
    ] = 10
    out: Out = OUT
    data_dir: DataDir = None
    jobs: Jobs = None
    device: Device = "auto"

    def __call__(self, console: Console) -> None:
        """Simulate, and print one row for each count of seeds."""
        from weight_feedback.lab.statistics.calibration import calibrate

        same = self._same() if self.trained else None
        found = calibrate(self.studies, self.seeds, effect=self.effect)
        title = f"{self.studies:,} simulated studies, true effect {self.effect:g}"
        print_table(console, title, HEADINGS, [_row(row) for row in found.values()])
        if self.families:
            self._judge(console)
        if same is not None:
            self._train(console, same)
        console.print("At 5 % and 95 %; in brackets Wilson's 95 % interval of each share.")

    def _judge(self, console: Console) -> None:
        """Print one row for each shape and count of seeds, as it comes."""
        from weight_feedback.lab.statistics.calibration import CONTRASTS, SHAPES, families, looking

        rows = []
        for shape in SHAPES:
            for n in self.seeds:
                found = families(self.studies, n, shape)
                shares = (found.difference, found.equivalence, found.both, found.halved)
                rows.append([shape, str(n), *map(_percent, shares)])
                print_text(
                    console, ", ".join(f"{name} {cell}" for name, cell in zip(FAMILIES, rows[-1], strict=True))
                )
        title = f"{self.studies:,} simulated families, false claims: the worst of 1 to {CONTRASTS} contrasts"
        print_table(console, title, FAMILIES, rows)
        console.print(
            "Looking after 20, 40 and 92 seeds, and believing the first p-value below 5 %, finds a difference "
            f"where there is none in {_percent(looking(self.studies))} % of studies."
        )

    def _same(self) -> Study:
        from weight_feedback.lab.study.toml import load_study

        study = load_study(self.same)
        if len(study.arms) != 2 or study.seeds < self.contrast_seeds:
            raise ValueError(
                "calibrate: an A/A study needs two arms and the seeds of at least one contrast; "
                f"{study.name} has {len(study.arms)} arms and {study.seeds} seeds, for contrasts of "
                f"{self.contrast_seeds}"
            )
        return study

    def _train(self, console: Console, study: Study) -> None:
        from weight_feedback.lab.execution.runner import run
        from weight_feedback.lab.statistics.analysis import analyse
        from weight_feedback.lab.statistics.calibration import measure
        from weight_feedback.lab.statistics.estimates import final
        from weight_feedback.lab.statistics.outcomes import with_unit
        from weight_feedback.lab.store.store import Store

        store = Store(self.out / study.name)
        with RunDisplay(console, study.name) as shown:
            run(study, store, jobs=self.jobs, data_dir=self.data_dir, device=self.device, watcher=shown)
        analysis = analyse(study, store)
        if analysis.mixed:
            raise ValueError(f"calibrate: {analysis.mixed}; run {study.name} in another folder (--out)")
        metric = study.reported[study.judged]
        first, second = (final(result.curves[study.judged]) for result in analysis.arms)
        if not len(first) == len(second) == study.seeds:
            raise ValueError(f"calibrate: some trials of {study.name} failed; run it again, all are needed")
        contrasts = study.seeds // self.contrast_seeds
        differences = (first - second)[: contrasts * self.contrast_seeds].reshape(contrasts, self.contrast_seeds)
        title = f"{contrasts} contrasts of real trainings, {study.name}, true effect 0"
        print_table(console, title, HEADINGS, [_row(measure(differences))])
        mean, sd = differences.mean(), differences.std(ddof=1)
        unit = with_unit("", metric.differences)
        console.print(f"mean difference {mean:+.3f}{unit}, standard deviation {sd:.3f}", markup=False)


def _row(measured: Calibration) -> list[str]:
    shares = (measured.t_rejections, measured.flip_rejections, measured.t_coverage, measured.bca_coverage)
    return [str(measured.n), *map(_percent, shares)]


def _percent(share: Interval) -> str:
    return f"{100 * share.mean:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]"
