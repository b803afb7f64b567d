"""Commands on studies: plan, run, look at, merge and export them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

from rich.console import Console
from tyro.conf import Positional, arg

from weight_feedback.lab.commands.options import (
    NUMBER,
    OUT,
    PATHS,
    WHOLE,
    Address,
    Arms,
    Bounds,
    CheckpointSeconds,
    Command,
    DataDir,
    Device,
    Engine,
    Jobs,
    ManyJobs,
    Mixed,
    Out,
    Paths,
    Retries,
    Seeds,
    StudyName,
    To,
    Trust,
    check_arms,
    engine,
    folder_of,
    read_study,
    suffix,
)
from weight_feedback.lab.commands.terminal import RunDisplay, print_text, readable
from weight_feedback.lab.execution.names import TrackerName

if TYPE_CHECKING:
    from weight_feedback.lab.study.shards import Shard
    from weight_feedback.lab.study.study import Study


@dataclass(frozen=True)
class Plan(Command):
    """Say what a study takes and can show, before it runs.

    That is parameters, trials, time, and what differences its seeds can show.

    For example:
        weight-feedback plan quick
        weight-feedback plan controls-mnist-5k --sd 0.6
        weight-feedback plan controls-mnist-5k --arms none own yoked --seeds 10
        weight-feedback plan mine.py --pilot 5
    """

    study: StudyName
    arms: Arms = None
    seeds: Seeds = None
    sd: Annotated[
        Optional[float],
        NUMBER,
        Bounds(above=0),
        arg(metavar="SD", help="Standard deviation of the paired differences, in their unit, if you know one."),
    ] = None
    pilot: Annotated[
        Optional[int],
        WHOLE,
        Bounds(least=2),
        arg(
            metavar="N",
            help="Run N seeds outside the study of the declared arms, and say how many seeds the margin needs.",
        ),
    ] = None
    out: Out = OUT
    data_dir: DataDir = None
    jobs: Jobs = None
    device: Device = "auto"
    trust: Trust = False

    def __call__(self, console: Console) -> None:
        """Time a part of a trial of each arm, and print the plan; run the pilot."""
        from weight_feedback.lab.commands.presenting import print_plan
        from weight_feedback.lab.execution.backends import cores
        from weight_feedback.lab.execution.planning import plan
        from weight_feedback.lab.statistics.sensitivity import sensitivity

        study = read_study(self.study, self.trust)
        check_arms(study, self.arms)
        if self.pilot:
            self._run_pilot(console, study, self.pilot)
            return
        arms = plan(study, arms=self.arms, seeds=self.seeds, data_dir=self.data_dir, device=self.device)
        shown = sensitivity(self.seeds or study.seeds, study.declared) if study.declared else None
        print_plan(console, study, arms, shown, self.sd, self.jobs or cores(), self.seeds)

    def _run_pilot(self, console: Console, study: Study, seeds: int) -> None:
        from weight_feedback.lab.commands.checking import print_pilot
        from weight_feedback.lab.execution.backends import cores
        from weight_feedback.lab.execution.planning import pilot

        folder = folder_of(self.study, study, self.out) / "pilot"
        with RunDisplay(console, f"{study.name}, pilot") as shown:
            found, seconds = pilot(study, folder, seeds, self.jobs, self.data_dir, self.device, shown)
        print_pilot(console, study, found, seconds, self.jobs or cores())


@dataclass(frozen=True)
class Run(Command):
    """Run what is missing of a study, and write its report.

    Trials run one on each core; pictures come with the report. Each trial is kept the moment it finishes, and a
    long one's training after a minute's worth of epochs, so a run can be stopped at any time (Ctrl-C; a second one
    stops at once). Running again runs what is missing, goes on with what was broken off, and makes again what is
    damaged.

    For example:
        weight-feedback run quick
        weight-feedback run notebook-mnist --data-dir ~/data
        weight-feedback run controls-fashion --arms none constant yoked own
        weight-feedback run my-study.toml --jobs 1 --device cuda
        weight-feedback run my-study.toml --retries 0 --checkpoint-seconds 600
        weight-feedback run my-study.toml --backend dask --address tcp://head:8786 --out /shared/results
        weight-feedback run my-study.toml --shard 1/8
        weight-feedback run mine.py
        weight-feedback run theirs.toml --trust
    """

    study: StudyName
    arms: Arms = None
    seeds: Seeds = None
    out: Out = OUT
    data_dir: DataDir = None
    jobs: ManyJobs = None
    backend: Engine = "loky"
    address: Address = None
    shard: Annotated[
        Optional[str],
        arg(
            metavar="I/N",
            help="Run part I of N, from 1/N to N/N; `merge` brings parts in several folders together.",
        ),
    ] = None
    device: Device = "auto"
    track: Annotated[
        Optional[TrackerName],
        arg(metavar="TRACKER", help="Also log each finished trial to tensorboard, mlflow or wandb."),
    ] = None
    retries: Retries = 2
    checkpoint_seconds: CheckpointSeconds = 60.0
    per_device: Annotated[
        Optional[int],
        WHOLE,
        Bounds(least=1),
        arg(
            metavar="N",
            help="Trials of your own task side by side on each GPU of this machine; in place of --jobs.",
        ),
    ] = None
    mixed: Mixed = False
    trust: Trust = False

    def __call__(self, console: Console) -> None:
        """Check, run, draw and report."""
        from weight_feedback.lab.commands.checking import check_shortly
        from weight_feedback.lab.commands.presenting import present, running
        from weight_feedback.lab.execution.runner import missing, run
        from weight_feedback.lab.execution.trackers import make_tracker
        from weight_feedback.lab.store.store import Store
        from weight_feedback.lab.study.shards import parse_shard

        study = read_study(self.study, self.trust)
        check_arms(study, self.arms)
        shard = parse_shard(self.shard) if self.shard else None
        store = Store(folder_of(self.study, study, self.out))
        if self.backend == "loky":
            check_shortly(console, study, store, self.data_dir, self.device)
        tracker = make_tracker(self.track, Path.cwd() / store.folder / self.track) if self.track else None
        with RunDisplay(console, study.name) as shown:
            run(
                study,
                store,
                arms=self.arms,
                seeds=self.seeds,
                jobs=self.jobs,
                backend=engine(self.backend, self.address, self.jobs),
                shard=shard,
                data_dir=self.data_dir,
                device=self.device,
                tracker=tracker,
                retries=self.retries,
                mixed=self.mixed,
                checkpoint_seconds=self.checkpoint_seconds,
                per_device=self.per_device,
                watcher=shown,
            )
        again = running(self.study, study, self.trust)
        left = len(missing(study, store, self.arms, self.seeds)) if shard else 0
        if shard and left:
            print_text(console, _rest(shard, left, self.study, store.folder))
        else:
            present(console, study, readable(console, store.folder), again)


def _rest(shard: Shard, left: int, study: str, folder: Path) -> str:
    """Return what to do when a shard is through, and others aren't, or have folders of their own."""
    return (
        f"shard {shard} is through; {left} trials of the study aren't in {folder}. When all shards are through: "
        f"`weight-feedback merge` their folders, unless they share one, then `weight-feedback run {study}`, which "
        f"runs what may be missing and writes the report (`weight-feedback report {study}` writes it alone)"
    )


@dataclass(frozen=True)
class Report(Command):
    """Write the report of a study from its finished trials.

    That is a page, its pictures, and a text in Markdown. With --arms, they show these arms and the contrasts
    between them alone, judged as in the whole declared family; their files have the arms' names in theirs, and
    stand beside those of the whole report.

    For example:
        weight-feedback report quick
        weight-feedback report controls-mnist-5k --out ~/results
        weight-feedback report quick --out /read-only/results --to .
        weight-feedback report controls-mnist-5k --peek
        weight-feedback report controls-mnist-5k --arms none own yoked
    """

    study: StudyName
    arms: Arms = None
    out: Out = OUT
    to: To = None
    peek: Annotated[
        bool,
        arg(
            help="Show differences of a declared study before all its trials are finished. That is kept with the "
            "results, and every later report says so."
        ),
    ] = False

    def __call__(self, console: Console) -> None:
        """Write and print."""
        from weight_feedback.lab.commands.presenting import present, running

        study = read_study(self.study, out=self.out)
        check_arms(study, self.arms)
        store = readable(console, folder_of(self.study, study, self.out))
        present(console, study, store, running(self.study, study), self.to, self.peek, self.arms)


@dataclass(frozen=True)
class Plot(Command):
    """Draw what a study compares, per epoch, as PNG and SVG.

    For example:
        weight-feedback plot quick
        weight-feedback plot notebook-mnist --arms plain pooled
    """

    study: StudyName
    arms: Arms = None
    out: Out = OUT
    to: To = None

    def __call__(self, console: Console) -> None:
        """Print the table, and draw."""
        from weight_feedback.lab.commands.presenting import draw, running

        study = read_study(self.study, out=self.out)
        check_arms(study, self.arms)
        store = readable(console, folder_of(self.study, study, self.out))
        draw(console, study, store, running(self.study, study), self.arms, self.to)


@dataclass(frozen=True)
class Merge(Command):
    """Copy finished trials from other folders into one.

    Nothing is copied if the same settings gave different results.

    For example:
        weight-feedback merge results/quick from-laptop/quick from-server/quick
    """

    target: Annotated[Positional[Path], arg(metavar="FOLDER", help="Of a study, as in results/STUDY.")]
    sources: Annotated[Positional[Paths], PATHS, arg(metavar="FOLDER [FOLDER …]", help="Where to copy from.")]

    def __call__(self, console: Console) -> None:
        """Merge, and print what was copied."""
        from weight_feedback.files import tell
        from weight_feedback.lab.store.merge import merge

        try:
            merged = merge(self.target, self.sources)
        except OSError as error:
            raise ValueError(f"{tell(error)}\nWhat was copied stays; the same command copies the rest") from error
        print_text(
            console,
            f"{self.target}: {merged.trials} trials, {merged.swaps} swaps and {merged.weights} weights copied, "
            f"{merged.already} were there already",
        )


@dataclass(frozen=True)
class Export(Command):
    """Write the finished trials of a study as a tidy table.

    It has one row an arm, seed and epoch, and is called trials.csv or trials.parquet; with --arms, the arms' names
    are in its own.

    For example:
        weight-feedback export quick
        weight-feedback export controls-mnist-5k --format parquet --to ~/tables
        weight-feedback export controls-mnist-5k --arms none own
    """

    study: StudyName
    format: Annotated[Literal["csv", "parquet"], arg(metavar="FORMAT", help="csv or parquet.")] = "csv"
    arms: Arms = None
    out: Out = OUT
    to: To = None

    def __call__(self, console: Console) -> None:
        """Export, and print where to."""
        from weight_feedback.files import tell
        from weight_feedback.lab.report.export import export

        study = read_study(self.study, out=self.out)
        check_arms(study, self.arms)
        store = readable(console, folder_of(self.study, study, self.out))
        path = (self.to or store.folder) / f"trials{suffix(self.arms)}.{self.format}"
        try:
            rows = export(study, store, path, self.format, arms=self.arms)
        except OSError as error:
            raise ValueError(
                f"{tell(error)}\nThe results themselves are as they were; --to DIR writes elsewhere"
            ) from error
        print_text(console, f"{path}: {rows} rows")
