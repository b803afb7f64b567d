"""The command line: ``weight-feedback --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from weight_feedback.lab import datasets
from weight_feedback.lab.calibration import calibrate
from weight_feedback.lab.console import present, print_available, print_table, print_verification, progress
from weight_feedback.lab.models import NETWORKS, find_network
from weight_feedback.lab.runner import cores, missing, run
from weight_feedback.lab.settings import Frozen, Training, Trial
from weight_feedback.lab.spec import builtin_studies, explain, load_study
from weight_feedback.lab.store import Store
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
Arms = Annotated[tuple[str, ...] | None, arg(metavar="ARM [ARM …]", help="Names of some arms; default: all.")]
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
        weight-feedback run controls-fashion --arms none constant yoked own
        weight-feedback run my-study.toml --jobs 1 --device cuda
    """

    study: StudyName
    arms: Arms = None
    seeds: Annotated[
        int | None,
        arg(metavar="N", help="Run this many seeds; those beyond the study's own are exploratory."),
    ] = None
    out: Out = OUT
    data_dir: DataDir = None
    jobs: Annotated[int | None, arg(metavar="INT", help="Trials side by side; default: one a core.")] = None
    device: Device = "auto"
    cuda: Cuda = True

    def __call__(self, console: Console) -> None:
        """Run, draw and report."""
        study = load_study(self.study)
        store = Store(self.out / study.name)
        total = len(list(study.trials(self.arms, self.seeds)))
        todo = len(missing(study, store, self.arms, self.seeds))
        jobs = self.jobs or cores()
        console.print(f"{study.name}: {total} trials, {total - todo} finished, {todo} to run, {jobs} side by side")
        with progress(console, study.name, todo * study.training.epochs) as on_progress:
            run(
                study,
                store,
                arms=self.arms,
                seeds=self.seeds,
                jobs=jobs,
                data_dir=self.data_dir,
                device=_device(self.device, self.cuda),
                on_progress=on_progress,
            )
        present(console, study, store, f"weight-feedback run {self.study}", None)


class Plot(Frozen):
    """Draw accuracy per epoch from the finished trials of a study, as PNG and SVG, and write its tables.

    For example:
        weight-feedback plot quick
        weight-feedback plot notebook-mnist --arms plain pooled
    """

    study: StudyName
    arms: Arms = None
    out: Out = OUT

    def __call__(self, console: Console) -> None:
        """Draw and report."""
        study = load_study(self.study)
        present(console, study, Store(self.out / study.name), f"weight-feedback run {self.study}", self.arms)


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


class Calibrate(Frozen):
    """Run the statistics on simulated studies with a known truth: how often are they wrong?

    For example:
        weight-feedback calibrate
        weight-feedback calibrate --seeds 8 30 --effect 0.5
    """

    studies: Annotated[int, arg(help="Simulated studies for each count of seeds.")] = 2000
    seeds: Annotated[tuple[int, ...], arg(metavar="N [N …]", help="Counts of seeds.")] = (10, 20, 30)
    effect: Annotated[float, arg(help="True difference, in standard deviations of the differences.")] = 0.0

    def __call__(self, console: Console) -> None:
        """Simulate, and print one row for each count of seeds."""
        found = calibrate(self.studies, self.seeds, effect=self.effect)
        headings = (
            "seeds",
            "t test rejects %",
            "sign-flip rejects %",
            "t interval covers %",
            "BCa interval covers %",
        )
        body = [
            [str(n), *(f"{100 * x.mean:.2f} [{100 * x.low:.2f}, {100 * x.high:.2f}]" for x in shares)]
            for n, row in found.items()
            for shares in [(row.t_rejections, row.flip_rejections, row.t_coverage, row.bca_coverage)]
        ]
        print_table(console, f"{self.studies:,} simulated studies, true effect {self.effect:g}", headings, body)
        console.print("At 5 % and 95 %; in brackets Wilson's 95 % interval of each share.")


class DataList(Frozen):
    """List the data sets, and where each was found."""

    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Print the table."""
        print_available(console, self.data_dir)


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
        print_verification(console, self.name, self.data_dir)


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
    | Annotated[Calibrate, subcommand("calibrate", prefix_name=False)]
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
