"""The command that measures how many dimensions a task needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Optional

from rich.console import Console
from tyro.conf import Positional, arg

from weight_feedback.lab.commands.options import (
    NUMBER,
    OUT,
    WHOLE,
    WHOLES,
    Address,
    Bounds,
    CheckpointSeconds,
    Command,
    DataDir,
    Device,
    Engine,
    ManyJobs,
    Mixed,
    Numbers,
    Out,
    Retries,
    engine,
)
from weight_feedback.lab.commands.terminal import RunDisplay, print_table, print_text, readable

if TYPE_CHECKING:
    from weight_feedback.lab.store.store import Store
    from weight_feedback.lab.study.study import Study


class Network(NamedTuple):
    """What is known of a network beforehand.

    Attributes:
        label: for people.
        parameters: how many.
        dimensions: those that are tried.
        published: the least dimensions with 90 % accuracy on MNIST, by Li et al. (2018, arXiv:1804.08838).
    """

    label: str
    parameters: int
    dimensions: tuple[int, ...]
    published: int


NETWORKS = {
    "fc": Network("784-200-200-10", 199_210, (100, 200, 400, 600, 750, 900, 1200), 750),
    "lenet": Network("LeNet", 44_426, (50, 100, 200, 290, 400, 600), 290),
}
_HELP = " or ".join(f"{name} ({one.label}, {one.parameters:,} parameters)" for name, one in NETWORKS.items())
_DIMENSIONS = "; ".join(f"{' '.join(map(str, one.dimensions))} ({name})" for name, one in NETWORKS.items())


@dataclass(frozen=True)
class IntrinsicDimension(Command):
    """Measure how many dimensions a network needs for a task.

    Trains the network in random subspaces of several sizes, and finds the least size with which its accuracy on the
    test set reaches a threshold after the last epoch. Each training is kept the moment it finishes; running again
    runs what is missing.

    For example:
        weight-feedback intrinsic-dimension lenet --data mnist-5k --dimensions 100 200 400 --epochs 20
        weight-feedback intrinsic-dimension fc --data-dir ~/data --jobs 4
        weight-feedback intrinsic-dimension fc --data fashion-mnist --threshold 80 --seeds 5
    """

    network: Annotated[
        Positional[Literal["fc", "lenet"]],
        arg(metavar="NETWORK", help=f"{_HELP}."),
    ]
    data: Annotated[str, arg(metavar="NAME", help="mnist, mnist-5k or fashion-mnist.")] = "mnist"
    dimensions: Annotated[Optional[Numbers], WHOLES, arg(metavar="D [D …]", help=f"Default: {_DIMENSIONS}.")] = None
    seeds: Annotated[
        int,
        WHOLE,
        Bounds(least=1),
        arg(metavar="N", help="Trainings for each number of dimensions."),
    ] = 3
    epochs: Annotated[int, WHOLE, arg(metavar="INT", help="Passes over the training set.")] = 10
    lr: Annotated[float, NUMBER, arg(help="Learning rate of Adam.")] = 0.01
    threshold: Annotated[
        float,
        NUMBER,
        arg(metavar="PERCENT", help="Accuracy to reach; for d_int90, 90 % of what the whole network has."),
    ] = 90.0
    projection: Annotated[Literal["count", "kronecker", "dense"], arg(help="From parameters to coordinates.")] = (
        "count"
    )
    out: Out = OUT
    data_dir: DataDir = None
    jobs: ManyJobs = None
    backend: Engine = "loky"
    address: Address = None
    device: Device = "auto"
    retries: Retries = 2
    checkpoint_seconds: CheckpointSeconds = 60.0
    mixed: Mixed = False

    def __call__(self, console: Console) -> None:
        """Run, draw and report."""
        from weight_feedback.lab.execution.runner import run
        from weight_feedback.lab.store.store import Store

        study = self._study()
        store = Store(self.out / study.name)
        with RunDisplay(console, study.name) as shown, _named_as_typed():
            run(
                study,
                store,
                jobs=self.jobs,
                backend=engine(self.backend, self.address, self.jobs),
                data_dir=self.data_dir,
                device=self.device,
                retries=self.retries,
                mixed=self.mixed,
                checkpoint_seconds=self.checkpoint_seconds,
                watcher=shown,
            )
        self._present(console, study, readable(console, store.folder))

    def _study(self) -> Study:
        from pydantic import ValidationError

        from weight_feedback.lab.study.study import MOST_TRIALS, Study
        from weight_feedback.lab.tasks.fields import explain

        if self.seeds > MOST_TRIALS:
            raise ValueError(f"--seeds: expected at most {MOST_TRIALS}, got {self.seeds}")
        if self.dimensions == ():
            raise ValueError("--dimensions: expected at least one number")
        if not 0 < self.threshold <= 100:
            raise ValueError(f"--threshold: expected a percentage above 0, at most 100, got {self.threshold}")
        known = NETWORKS[self.network]
        fields = {
            "name": f"intrinsic-dimension-{self.network}" + ("" if self.data == "mnist" else f"-{self.data}"),
            "title": f"Dimensions that {known.label} needs on {self.data}",
            "task": "intrinsic-dimension",
            "seeds": self.seeds,
            "data": self.data,
            "network": self.network,
            "epochs": self.epochs,
            "lr": self.lr,
            "subspace": {"projection": self.projection},
            "arms": [
                {"name": str(d), "subspace": {"dimensions": d}}
                for d in sorted({*(self.dimensions or known.dimensions)})
            ],
        }
        try:
            return Study.model_validate(fields)
        except ValidationError as error:
            raise ValueError(explain(error)) from None

    def _present(self, console: Console, study: Study, store: Store) -> None:
        from weight_feedback.files import write_atomically
        from weight_feedback.lab.report.dimension import cells, markdown, sentence
        from weight_feedback.lab.report.markdown import failures, trained_on
        from weight_feedback.lab.report.plots import plot_dimension
        from weight_feedback.lab.statistics.analysis import analyse
        from weight_feedback.lab.statistics.dimension import estimate
        from weight_feedback.lab.statistics.estimates import final

        analysis = analyse(study, store, command=self.command)
        if analysis.mixed:
            raise ValueError(
                f"{store.folder}: {analysis.mixed}, and can't be compared; measure in another folder (--out)"
            )
        values = {
            int(result.arm.name): final(result.curves[study.judged]) for result in analysis.arms if result.seeds
        }
        for line in failures(analysis):
            print_text(console, line)
        if not values:
            raise ValueError(f"no finished trials in {store.folder}; the same command tries them again")
        measured, metric = estimate(values, self.threshold), study.reported[study.judged]
        print_table(console, study.title, *cells(measured, metric, study.judged))
        print_text(console, sentence(measured, metric, f"test {study.judged}"))
        pictures = [store.folder / f"{study.judged}.{kind}" for kind in ("png", "svg")]
        axis = f"{study.judged} {metric.unit}"
        plot_dimension(measured, study.title, axis, pictures, self.published, metric.unit)
        text = markdown(measured, analysis, self.command, self.published)
        write_atomically(store.folder / "report.md", text.encode())
        print_text(console, f"data: {trained_on(analysis)}")
        print_text(console, f"report: {store.folder / 'report.md'}, {', '.join(map(str, pictures))}")

    @property
    def published(self) -> tuple[str, int] | None:
        """Where the same was measured, and what was found there; None where it wasn't."""
        comparable = self.data == "mnist" and self.threshold == 90
        return ("Li et al. 2018", NETWORKS[self.network].published) if comparable else None

    @property
    def command(self) -> str:
        """What to type for these results, wherever data and results are."""
        words = ["weight-feedback", "intrinsic-dimension", self.network]
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("data", "dimensions", "seeds", "epochs", "lr", "threshold", "projection"):
            value = getattr(self, name)
            if value != defaults[name]:
                values = value if isinstance(value, tuple) else [value]
                words += [f"--{name}", *(f"{one:g}" if isinstance(one, float) else str(one) for one in values)]
        return shlex.join(words)


@contextmanager
def _named_as_typed() -> Iterator[None]:
    """Name the settings of what is refused as people typed them."""
    try:
        yield
    except ValueError as error:
        for setting, typed in {"subspace.dimensions": "--dimensions", "data": "--data"}.items():
            if str(error).startswith(f"{setting}: "):
                raise ValueError(typed + str(error).removeprefix(setting)) from None
        raise
