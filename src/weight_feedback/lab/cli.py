"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from weight_feedback.lab import datasets
from weight_feedback.lab.models import NETWORKS, find_network
from weight_feedback.lab.plots import plot_accuracy
from weight_feedback.lab.report import accuracies, cells, markdown, summarise
from weight_feedback.lab.runner import OnProgress, collect, cores, missing, run
from weight_feedback.lab.spec import Frozen, Study, Training, Trial, builtin_studies, explain, load_study
from weight_feedback.lab.store import Store, write_atomically
from weight_feedback.lab.training import Evaluation
from weight_feedback.lab.training import Progress as Step
from weight_feedback.lab.trial import run_trial
from weight_feedback.summaries import match_dimensions

OUT = Path("results")
STUDIES = ", ".join(builtin_studies())

StudyName = Annotated[
    Positional[str],
    arg(metavar="STUDY", help=f"A TOML file, or a built-in study: {STUDIES}."),
]
DataDir = Annotated[
    Path | None,
    arg(
        metavar="DIR",
        help="Folder with data files; default: $WEIGHT_FEEDBACK_DATA, then the user cache.",
    ),
]
Out = Annotated[Path, arg(metavar="DIR", help="Folder that holds the results, one folder a study.")]
Device = Annotated[str, arg(metavar="NAME", help="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
Cuda = Annotated[bool, arg(help="--no-cuda trains on the CPU even where there is a GPU.")]
DataName = Annotated[Positional[str], arg(metavar="NAME", help=f"One of {', '.join(datasets.names())}.")]
Range = tuple[int, int]


class Train(Frozen):
    """Train one network, with a log line every few steps and an evaluation after each epoch.

    For example:
        weight-feedback train mnist-pooled --seed 1 --data mnist-5k
        weight-feedback train cifar10-plain --data-dir ~/data --save-weights net.safetensors
    """

    network: Annotated[Positional[str], arg(metavar="NETWORK", help=f"One of {', '.join(NETWORKS)}.")]
    seed: Annotated[int, arg(help="Of every random stream.")] = 0
    data: Annotated[str | None, arg(metavar="NAME", help="Data set; default: the network's own.")] = None
    epochs: Annotated[int | None, arg(metavar="INT", help="Default: 6 on MNIST, 20 on CIFAR-10.")] = None
    batch_size: Annotated[int, arg(help="Examples a step.")] = Training().batch_size
    test_batch_size: Annotated[int, arg(help="Examples a batch in evaluation.")] = Training().test_batch_size
    lr: Annotated[float, arg(help="Learning rate of SGD.")] = Training().lr
    momentum: Annotated[float, arg(help="Momentum of SGD.")] = Training().momentum
    log_interval: Annotated[int, arg(help="Steps between two log lines.")] = Training().log_interval
    data_dir: DataDir = None
    device: Device = "auto"
    cuda: Cuda = True
    threads: Annotated[int | None, arg(metavar="INT", help="Of PyTorch; default: its own choice.")] = None
    save_weights: Annotated[Path | None, arg(metavar="FILE", help="Keep the weights, as safetensors.")] = None

    def __call__(self, console: Console) -> None:
        """Train, and print as it goes."""
        data = self.data or find_network(self.network).data
        settings = {name: getattr(self, name) for name in Training.model_fields if name != "epochs"}
        epochs = self.epochs if self.epochs is not None else 20 if data == "cifar10" else 6
        trial = Trial(data=data, training=Training(epochs=epochs, **settings), model=self.network, seed=self.seed)

        def log(step: Step) -> None:
            share = 100 * step.seen / step.images
            console.print(f"epoch {step.epoch} [{step.seen}/{step.images} ({share:.0f}%)]  loss {step.loss:.6f}")

        def report(epoch: int, result: Evaluation) -> None:
            console.print(
                f"[bold]epoch {epoch}/{epochs}: test loss {result.loss:.4f}, accuracy {result.accuracy:.2f} %, "
                f"{result.correct} correct[/bold]"
            )

        record = run_trial(
            trial,
            data_dir=self.data_dir,
            device=_device(self.device, self.cuda),
            threads=self.threads,
            weights=self.save_weights,
            on_log=log,
            on_epoch=report,
        )
        console.print(f"{record.result['parameters']:,} parameters, {record.provenance['seconds']:.1f} s")
        if self.save_weights is not None:
            console.print(f"weights: {self.save_weights}")


class Run(Frozen):
    """Run a study: its missing trials, one on each core; then draw its picture and write its tables.

    Each trial is kept the moment it finishes. Running again runs what is missing.

    For example:
        weight-feedback run quick
        weight-feedback run notebook-mnist --data-dir ~/data
        weight-feedback run my-study.toml --jobs 1 --device cuda
    """

    study: StudyName
    out: Out = OUT
    data_dir: DataDir = None
    jobs: Annotated[int | None, arg(metavar="INT", help="Trials side by side; default: one a core.")] = None
    device: Device = "auto"
    cuda: Cuda = True

    def __call__(self, console: Console) -> None:
        """Run, draw and report."""
        study = load_study(self.study)
        store = Store(self.out / study.name)
        todo, total = len(missing(study, store)), study.seeds * len(study.arms)
        jobs = self.jobs or cores()
        console.print(f"{study.name}: {total} trials, {total - todo} finished, {todo} to run, {jobs} side by side")
        with _progress(console, study.name, todo * study.training.epochs) as on_progress:
            run(
                study,
                store,
                jobs=jobs,
                data_dir=self.data_dir,
                device=_device(self.device, self.cuda),
                on_progress=on_progress,
            )
        _present(console, study, store, f"weight-feedback run {self.study}", None)


class Plot(Frozen):
    """Draw accuracy per epoch from the finished trials of a study, as PNG and SVG, and write its tables.

    For example:
        weight-feedback plot quick
        weight-feedback plot notebook-mnist --arms plain pooled
    """

    study: StudyName
    arms: Annotated[
        tuple[str, ...] | None,
        arg(metavar="ARM [ARM …]", help="Names of the arms to draw, in this order; default: all."),
    ] = None
    out: Out = OUT

    def __call__(self, console: Console) -> None:
        """Draw and report."""
        study = load_study(self.study)
        _present(console, study, Store(self.out / study.name), f"weight-feedback run {self.study}", self.arms)


class MatchDimensions(Frozen):
    """List the pooling kernels for which the pooled weights of two layers fit into the input they extend.

    fc1 is a [b, a + dx] matrix pooled by (n, m), fc2 is a [c, b] matrix pooled by (2, n); joined they give
    dw numbers, and dx - dw >= 1 ones pad them to dx.

    For example:
        weight-feedback match-dimensions --a 160 --b 50 --c 10
        weight-feedback match-dimensions --a 1250 --b 500 --c 10 --dx 400 500
    """

    a: Annotated[int, arg(help="Inputs of fc1 without feedback.")]
    b: Annotated[int, arg(help="Outputs of fc1, inputs of fc2.")]
    c: Annotated[int, arg(help="Outputs of fc2.")]
    dx: Annotated[Range, arg(metavar="LOW HIGH", help="Sizes of z to try.")] = (10, 39)
    n: Annotated[Range | None, arg(metavar="LOW HIGH", help="Default: 10 to b - 1.")] = None
    m: Annotated[Range | None, arg(metavar="LOW HIGH", help="Default: 10 to a - 1.")] = None

    def __call__(self, console: Console) -> None:
        """Print one solution a line."""
        found = match_dimensions(self.a, self.b, self.c, dx=self.dx, n=self.n, m=self.m)
        line = "{:>6} {:>6} {:>6} {:>6} {:>6}".format
        console.print(line("dw", "dx", "dx-dw", "m", "n"), style="bold")
        for match in found:
            console.print(line(*match), highlight=False)
        if not found:
            console.print("no solution: widen the ranges")


class DataList(Frozen):
    """List the data sets, and where each was found."""

    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Print the table."""
        _print_available(console, self.data_dir)


class DataFetch(Frozen):
    """Download a data set and check its hashes.

    For example:
        weight-feedback data fetch mnist
    """

    name: DataName
    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Download, and print where to."""
        console.print(f"{self.name}: {datasets.fetch(self.name, self.data_dir)}")


class DataVerify(Frozen):
    """Read a data set whole, and check every byte that can be checked.

    For example:
        weight-feedback data verify mnist --data-dir ~/data
    """

    name: DataName
    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Verify, and print what was seen."""
        _print_verification(console, self.name, self.data_dir)


class Data(Frozen):
    """List, fetch and verify data sets; nothing is ever downloaded unless you ask for it here."""

    action: (
        Annotated[DataList, subcommand("list", prefix_name=False)]
        | Annotated[DataFetch, subcommand("fetch", prefix_name=False)]
        | Annotated[DataVerify, subcommand("verify", prefix_name=False)]
    )

    def __call__(self, console: Console) -> None:
        """Do what was chosen."""
        self.action(console)


Command = (
    Annotated[Train, subcommand("train", prefix_name=False)]
    | Annotated[Run, subcommand("run", prefix_name=False)]
    | Annotated[Plot, subcommand("plot", prefix_name=False)]
    | Annotated[MatchDimensions, subcommand("match-dimensions", prefix_name=False)]
    | Annotated[Data, subcommand("data", prefix_name=False)]
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; default: those of the process.

    Raises:
        SystemExit: with 2 for bad input, 130 after Ctrl-C.
    """
    command: Any = tyro.cli(
        Command,
        prog="weight-feedback",
        description="Networks that hear their own weights: train them, compare them, look at the outcome.",
        args=args,
        config=(OmitArgPrefixes,),
    )
    try:
        command(Console(soft_wrap=True))
    except (ValueError, OSError) as error:
        message = explain(error) if isinstance(error, ValidationError) else str(error)
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/bold red] {escape(message)}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; what is finished is kept: run the same command again to go on")
        sys.exit(130)


def _device(device: str, cuda: bool) -> str:
    if not cuda and device.startswith("cuda"):
        raise ValueError(f"--no-cuda and --device {device} contradict each other")
    return device if cuda or device != "auto" else "cpu"


@contextmanager
def _progress(console: Console, name: str, epochs: int) -> Iterator[OnProgress]:
    """Show progress: a bar in a terminal, a line for each tenth in a log file."""
    if not console.is_terminal:
        shown = 0

        def print_tenths(done: int) -> None:
            nonlocal shown
            if (tenths := done * 10 // max(epochs, 1)) > shown:
                shown = tenths
                console.print(f"{name}: {done}/{epochs} epochs", markup=False)

        yield print_tenths
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=epochs)
        yield lambda done: bar.update(task, completed=done)


def _present(console: Console, study: Study, store: Store, command: str, arms: tuple[str, ...] | None) -> None:
    records = collect(study, store)
    known = [arm.name for arm in study.arms]
    for name in arms or ():
        if name not in known:
            raise ValueError(f"--arms: expected names among {', '.join(known)}, got {name!r}")
    records = {name: records[name] for name in arms or known if name in records}
    if not records:
        raise ValueError(f"no finished trials in {store.folder}; expected some: {command} makes them")
    labels = {arm.name: arm.label for arm in study.arms}
    stem = "accuracy" if arms is None else "accuracy-" + "-".join(records)
    pictures = [store.folder / f"{stem}.{suffix}" for suffix in ("png", "svg")]
    plot_accuracy({labels[name]: accuracies(trials) for name, trials in records.items()}, study.title, pictures)
    rows = summarise(study, records)
    report = store.folder / ("report.md" if arms is None else f"report-{'-'.join(records)}.md")
    provenance = next(iter(records.values()))[0].provenance
    write_atomically(report, markdown(study, rows, command, provenance, pictures[0].name).encode())
    headings, body = cells(rows)
    table = Table(*headings, title=escape(study.title))
    for row in body:
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(f"picture: {pictures[0]} and {pictures[1].name}\nreport:  {report}\ntrials:  {store.trials}")


def _print_available(console: Console, data_dir: Path | None) -> None:
    table = Table("data set", "images", "found")
    for row in datasets.available(data_dir):
        where = row.where if row.found and row.where else "no: weight-feedback data fetch " + row.name
        table.add_row(row.name, f"{row.images:,}", escape(where))
    console.print(table)


def _print_verification(console: Console, name: str, data_dir: Path | None) -> None:
    seen = datasets.verify(name, data_dir)
    train, test = (list(images.shape) for images in (seen.dataset.train_images, seen.dataset.test_images))
    console.print(f"{name}: complete, in {seen.where}; training images {train}, test images {test}", markup=False)
    for check in seen.files:
        verdict = {True: "as published", False: "not as published", None: "none is published"}[check.matches]
        console.print(f"  {check.file.name}: MD5 {check.md5}, {verdict}", markup=False)
    for note in seen.notes:
        console.print(f"  note: {note}", markup=False)
