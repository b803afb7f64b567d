"""Commands on one network: train it, and find kernels that pool its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from rich.console import Console
from tyro.conf import Positional, arg

from weight_feedback.lab.commands.options import (
    NUMBER,
    RANGE,
    WHOLE,
    Bounds,
    Command,
    DataDir,
    Device,
    Range,
)
from weight_feedback.lab.tasks.notebook.names import NETWORKS

if TYPE_CHECKING:
    from weight_feedback.lab.tasks.notebook.lockstep import LoggedStep

#: Of ``z`` that match-dimensions tries.
SIZES = Range((10, 39))
#: Arguments that are settings of a training, with the same defaults.
TRAINING = ("batch_size", "test_batch_size", "lr", "momentum", "log_interval")


@dataclass(frozen=True)
class Train(Command):
    """Train one network, and evaluate it after each epoch.

    For example:
        weight-feedback train mnist-pooled --seed 1 --data mnist-5k
        weight-feedback train cifar10-plain --data-dir ~/data --save-weights net.safetensors
    """

    network: Annotated[Positional[str], arg(metavar="NETWORK", help=f"One of {', '.join(NETWORKS)}.")]
    seed: Annotated[int, WHOLE, arg(help="Of every random stream.")] = 0
    data: Annotated[Optional[str], arg(metavar="NAME", help="Data set; default: the network's own.")] = None
    epochs: Annotated[Optional[int], WHOLE, arg(metavar="INT", help="Default: 6 on MNIST, 20 on CIFAR-10.")] = None
    batch_size: Annotated[int, WHOLE, arg(help="Examples a step.")] = 64
    test_batch_size: Annotated[int, WHOLE, arg(help="Examples a batch in evaluation.")] = 1000
    lr: Annotated[float, NUMBER, arg(help="Learning rate of SGD.")] = 0.01
    momentum: Annotated[float, NUMBER, arg(help="Momentum of SGD.")] = 0.5
    log_interval: Annotated[int, WHOLE, arg(help="Steps between two log lines.")] = 40
    data_dir: DataDir = None
    device: Device = "auto"
    threads: Annotated[
        Optional[int],
        WHOLE,
        Bounds(least=1),
        arg(metavar="INT", help="Of PyTorch; default: its own choice."),
    ] = None
    save_weights: Annotated[Optional[Path], arg(metavar="FILE", help="Keep the weights, as safetensors.")] = None

    def __call__(self, console: Console) -> None:
        """Train, and print as it goes."""
        from weight_feedback.lab.tasks.notebook.networks import find_network
        from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Training
        from weight_feedback.lab.training.environment import MOST_THREADS
        from weight_feedback.lab.training.run import Options, run_trial

        if self.threads is not None and self.threads > MOST_THREADS:
            raise ValueError(f"--threads: expected at most {MOST_THREADS}, got {self.threads}")
        data = self.data or find_network(self.network).data
        settings = {name: getattr(self, name) for name in TRAINING}
        epochs = self.epochs if self.epochs is not None else 20 if data == "cifar10" else 6
        training = Training(epochs=epochs, **settings)
        trial = NetworkTrial(data=data, training=training, model=self.network, seed=self.seed)

        def log(step: LoggedStep) -> None:
            share = 100 * step.seen / step.images
            console.print(f"epoch {step.epoch} [{step.seen}/{step.images} ({share:.0f}%)]  loss {step.loss:.6f}")

        def report(epoch: int, values: Mapping[str, float]) -> None:
            if values:
                loss, accuracy = values["loss"], values["accuracy"]
                console.print(
                    f"[bold]epoch {epoch}/{epochs}: test loss {loss:.4f}, accuracy {accuracy:.2f} %[/bold]"
                )

        options = Options(
            data_dir=self.data_dir,
            device=self.device,
            threads=self.threads,
            weights={trial: self.save_weights} if self.save_weights else {},
            on_log=log,
            on_epoch=report,
        )
        record = run_trial(trial, options)
        console.print(f"{record.result['parameters']:,} parameters, {record.provenance['seconds']:.1f} s")
        if self.save_weights is not None:
            console.print(f"weights: {self.save_weights}")


@dataclass(frozen=True)
class MatchDimensions(Command):
    """List kernels that pool weights to the size of an input.

    The pooled weights of two layers must fit into the input that they extend. fc1 is a [b, a + dx] matrix pooled by
    (n, m), fc2 is a [c, b] matrix pooled by (2, n); joined they give dw numbers, and dx - dw >= 1 ones pad them
    to dx.

    For example:
        weight-feedback match-dimensions --a 160 --b 50 --c 10
        weight-feedback match-dimensions --a 1250 --b 500 --c 10 --dx 400 500
    """

    a: Annotated[int, WHOLE, arg(help="Inputs of fc1 without feedback.")]
    b: Annotated[int, WHOLE, arg(help="Outputs of fc1, inputs of fc2.")]
    c: Annotated[int, WHOLE, arg(help="Outputs of fc2.")]
    dx: Annotated[Range, RANGE, arg(metavar="LOW HIGH", help="Sizes of z to try.")] = SIZES
    n: Annotated[Optional[Range], RANGE, arg(metavar="LOW HIGH", help="Default: 10 to b - 1.")] = None
    m: Annotated[Optional[Range], RANGE, arg(metavar="LOW HIGH", help="Default: 10 to a - 1.")] = None

    def __call__(self, console: Console) -> None:
        """Print one solution a line."""
        from weight_feedback.summaries import match_dimensions

        for name, ends in (("dx", self.dx), ("n", self.n), ("m", self.m)):
            if ends is not None and ends[0] > ends[1]:
                raise ValueError(f"--{name}: expected LOW HIGH, LOW at most HIGH, got {ends[0]} {ends[1]}")
        found = match_dimensions(self.a, self.b, self.c, dx=self.dx, n=self.n, m=self.m)
        line = "{:>6} {:>6} {:>6} {:>6} {:>6}".format
        console.print(line("dw", "dx", "dx-dw", "m", "n"), style="bold")
        for match in found:
            console.print(line(*match), highlight=False)
        if not found:
            console.print("no solution: widen the ranges")
