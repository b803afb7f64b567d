"""Does a module of Lightning do better with feedback? Run: weight-feedback run examples/lab/lightning_module.py.

Each trial is one fit of `lightning.Trainer`, whose validation loss is reported after every epoch. Finished trials
are kept, and the next run trains what is missing. A trial that is killed starts over: the loop over epochs is
Lightning's, so the lab doesn't keep how far it was.
"""

import logging
import warnings

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import weight_feedback as wf
from weight_feedback import lab


class Module(lightning.LightningModule):
    """A regression whose first layer may hear the net's own weights."""

    def __init__(self, hears: bool, seed: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
        if hears:
            # A projection of its own for each seed, so that the verdict isn't about a single one.
            summary = wf.CountSketch(16, seed=seed, scale="calibrated")
            wf.attach(self.net, into="0", reads=["0", "2"], summary=summary)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss."""
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the loss, from which Lightning makes the mean over the epoch."""
        self.log("validation_loss", self.training_step(batch), batch_size=len(batch[0]))

    def on_train_batch_end(self, *_: object) -> None:
        """Move the signals' time on: without gradient accumulation, each batch ends with an optimiser step."""
        wf.advance(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Report(lightning.Callback):
    """Reports a trial's metrics after each epoch.

    Args:
        trial: the trial.
    """

    def __init__(self, trial: lab.Context) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Report what the module has logged."""
        self.trial.report(**trainer.callback_metrics)


def train(trial: lab.Context, *, hears: bool = False, epochs: int = 60) -> None:
    """Fit one module to noisy values of a function of eight numbers."""
    # Lightning's notes about hardware, the workers of loaders and its own code.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    data = trial.stream("data")
    x = torch.rand(1536, 8, generator=data)
    y = torch.sin(x.sum(1, keepdim=True)) + 0.1 * torch.randn(1536, 1, generator=data)
    devices = 1 if trial.device.index is None else [trial.device.index]
    trainer = lightning.Trainer(
        accelerator=trial.device.type, devices=devices, max_epochs=epochs, default_root_dir=trial.folder,
        callbacks=[Report(trial)], num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(
        Module(hears, trial.seed),
        DataLoader(TensorDataset(x[:512], y[:512]), batch_size=32, shuffle=True, generator=trial.stream("order")),
        DataLoader(TensorDataset(x[512:], y[512:]), batch_size=1024),
    )


study = lab.Study(
    name="lightning-module",
    title="Does a module of Lightning do better with feedback?",
    task=train,
    seeds=12,
    first_seed=1000,  # fresh ones: with those from 0 on, the number of epochs was chosen
    arms={"plain": {}, "hears": {"hears": True}},
    metrics={"validation_loss": lab.Metric("", better="lower", label="validation loss")},
    declared=lab.Declared(
        primary=[("hears", "plain")], margin=0.001, why="a tenth of the noise in the targets, of variance 0.01"
    ),
)

if __name__ == "__main__":
    lab.run(study)
    lab.report(study)
