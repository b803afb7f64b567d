"""Commands on one network: train it, and find kernels that pool its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from tyro.conf import Positional, arg

from weight_feedback.lab.commands.options import NUMBER, PAIR, WHOLE, Command, Cuda, DataDir, Device, choose
from weight_feedback.lab.study.trials import Trial
from weight_feedback.lab.tasks.notebook.evaluation import Evaluation
from weight_feedback.lab.tasks.notebook.lockstep import LoggedStep
from weight_feedback.lab.tasks.notebook.networks import NETWORKS, find_network
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.training.environment import MOST_THREADS
from weight_feedback.lab.training.run import Options, run_trial
from weight_feedback.summaries import match_dimensions

Range = tuple[int, int]


class Train(Command):
    """Train one network, with a log line every few steps and an evaluation after each epoch.

    For example:
        weight-feedback train mnist-pooled --seed 1 --data mnist-5k
        weight-feedback train cifar10-plain --data-dir ~/data --save-weights net.safetensors
    """

    network: Annotated[Positional[str], arg(metavar="NETWORK", help=f"One of {', '.join(NETWORKS)}.")]
    seed: Annotated[int, WHOLE, arg(help="Of every random stream.")] = 0
    data: Annotated[str | None, arg(metavar="NAME", help="Data set; default: the network's own.")] = None
    epochs: Annotated[int | None, WHOLE, arg(metavar="INT", help="Default: 6 on MNIST, 20 on CIFAR-10.")] = None
    batch_size: Annotated[int, WHOLE, arg(help="Examples a step.")] = Training().batch_size
    test_batch_size: Annotated[int, WHOLE, arg(help="Examples a batch in evaluation.")] = Training().test_batch_size
    lr: Annotated[float, NUMBER, arg(help="Learning rate of SGD.")] = Training().lr
    momentum: Annotated[float, NUMBER, arg(help="Momentum of SGD.")] = Training().momentum
    log_interval: Annotated[int, WHOLE, arg(help="Steps between two log lines.")] = Training().log_interval
    data_dir: DataDir = None
    device: Device = "auto"
    cuda: Cuda = True
    threads: Annotated[
        int | None,
        WHOLE,
        Field(ge=1, le=MOST_THREADS),
        arg(metavar="INT", help="Of PyTorch; default: its own choice."),
    ] = None
    save_weights: Annotated[Path | None, arg(metavar="FILE", help="Keep the weights, as safetensors.")] = None

    def __call__(self, console: Console) -> None:
        """Train, and print as it goes."""
        data = self.data or find_network(self.network).data
        own = Training.model_fields.keys() & Train.model_fields.keys() - {"epochs"}
        settings = {name: getattr(self, name) for name in own}
        epochs = self.epochs if self.epochs is not None else 20 if data == "cifar10" else 6
        trial = Trial(data=data, training=Training(epochs=epochs, **settings), model=self.network, seed=self.seed)

        def log(step: LoggedStep) -> None:
            share = 100 * step.seen / step.images
            console.print(f"epoch {step.epoch} [{step.seen}/{step.images} ({share:.0f}%)]  loss {step.loss:.6f}")

        def report(epoch: int, result: Evaluation) -> None:
            console.print(
                f"[bold]epoch {epoch}/{epochs}: test loss {result.loss:.4f}, accuracy {result.accuracy:.2f} %, "
                f"{result.correct} correct[/bold]"
            )

        options = Options(
            data_dir=self.data_dir,
            device=choose(self.device, self.cuda),
            threads=self.threads,
            weights={trial: self.save_weights} if self.save_weights else {},
            on_log=log,
            on_epoch=report,
        )
        record = run_trial(trial, options)
        console.print(f"{record.result['parameters']:,} parameters, {record.provenance['seconds']:.1f} s")
        if self.save_weights is not None:
            console.print(f"weights: {self.save_weights}")


class MatchDimensions(Command):
    """List the pooling kernels for which the pooled weights of two layers fit into the input they extend.

    fc1 is a [b, a + dx] matrix pooled by (n, m), fc2 is a [c, b] matrix pooled by (2, n); joined they give
    dw numbers, and dx - dw >= 1 ones pad them to dx.

    For example:
        weight-feedback match-dimensions --a 160 --b 50 --c 10
        weight-feedback match-dimensions --a 1250 --b 500 --c 10 --dx 400 500
    """

    a: Annotated[int, WHOLE, arg(help="Inputs of fc1 without feedback.")]
    b: Annotated[int, WHOLE, arg(help="Outputs of fc1, inputs of fc2.")]
    c: Annotated[int, WHOLE, arg(help="Outputs of fc2.")]
    dx: Annotated[Range, PAIR, arg(metavar="LOW HIGH", help="Sizes of z to try.")] = (10, 39)
    n: Annotated[Range | None, PAIR, arg(metavar="LOW HIGH", help="Default: 10 to b - 1.")] = None
    m: Annotated[Range | None, PAIR, arg(metavar="LOW HIGH", help="Default: 10 to a - 1.")] = None

    def __call__(self, console: Console) -> None:
        """Print one solution a line."""
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
