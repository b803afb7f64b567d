"""The command that measures how many dimensions a task needs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Optional

from rich.console import Console
from tyro.conf import Positional, arg

from weight_feedback.lab.commands.options import (
    NUMBER,
    OUT,
    WHOLE,
    WHOLES,
    Bounds,
    Command,
    DataDir,
    Jobs,
    Numbers,
    Out,
)
from weight_feedback.lab.commands.terminal import RunDisplay, print_table, print_text, readable

if TYPE_CHECKING:
    from weight_feedback.lab.store.store import Store
    from weight_feedback.lab.tasks.intrinsic.settings import Measurement


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
    jobs: Jobs = None

    def __call__(self, console: Console) -> None:
        """Run, draw and report."""
        from weight_feedback.lab.execution.measurements import run
        from weight_feedback.lab.store.store import Store

        measurements = self._measurements()
        name = f"intrinsic-dimension-{self.network}" + ("" if self.data == "mnist" else f"-{self.data}")
        store = Store(self.out / name)
        with RunDisplay(console, name) as shown:
            run(measurements, store, jobs=self.jobs, data_dir=self.data_dir, watcher=shown)
        self._present(console, measurements, readable(console, store.folder))

    def _measurements(self) -> list[Measurement]:
        from weight_feedback.lab.study.study import MOST_TRIALS
        from weight_feedback.lab.tasks.intrinsic.settings import Measurement
        from weight_feedback.lab.tasks.notebook.settings import Subspace

        if self.seeds > MOST_TRIALS:
            raise ValueError(f"--seeds: expected at most {MOST_TRIALS}, got {self.seeds}")
        if self.dimensions == ():
            raise ValueError("--dimensions: expected at least one number")
        if not 0 < self.threshold <= 100:
            raise ValueError(f"--threshold: expected a percentage above 0, at most 100, got {self.threshold}")
        return [
            Measurement(
                data=self.data,
                network=self.network,
                subspace=Subspace(dimensions=d, projection=self.projection),
                epochs=self.epochs,
                lr=self.lr,
                seed=seed,
            )
            for seed in range(self.seeds)  # the first seed of all dimensions first: something to see early
            for d in sorted({*(self.dimensions or NETWORKS[self.network].dimensions)})
        ]

    def _present(self, console: Console, measurements: list[Measurement], store: Store) -> None:
        from weight_feedback.files import write_atomically
        from weight_feedback.lab.data.published import described, fingerprints, mixed_data
        from weight_feedback.lab.report.dimension import cells, markdown, sentence
        from weight_feedback.lab.report.plots import plot_dimension
        from weight_feedback.lab.statistics.dimension import estimate

        records = [(one, record) for one in measurements if (record := store.read(one))]
        accuracy: dict[int, list[float]] = {}
        for one, record in records:
            accuracy.setdefault(one.subspace.dimensions, []).append(record.result["accuracy"][-1])
        data = fingerprints(record.result for _, record in records)
        if mixed := mixed_data(self.data, data):
            raise ValueError(f"{store.folder}: {mixed}, and can't be compared; measure in another folder (--out)")
        measured = estimate(accuracy, self.threshold)
        title = f"Dimensions that {NETWORKS[self.network].label} needs on {self.data}"
        print_table(console, title, *cells(measured))
        print_text(console, sentence(measured))
        pictures = [store.folder / f"accuracy.{kind}" for kind in ("png", "svg")]
        plot_dimension(measured, title, pictures, self.published)
        provenances = [record.provenance for _, record in records]
        origin = described(self.data, *data)
        text = markdown(measured, measurements[0], provenances, title, self.command, origin, self.published)
        write_atomically(store.folder / "report.md", text.encode())
        print_text(console, f"data: {self.data}, {origin}")
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
