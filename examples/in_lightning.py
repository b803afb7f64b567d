"""Feedback in Lightning, whose trainer moves time on. Run: python examples/in_lightning.py --steps 300.

Prints "loss without feedback", "loss with feedback", the diagnosis ("audible?") and "steps counted by the signal".
One seed each says nothing on whether feedback helps.
"""

import argparse
import logging
import warnings

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import weight_feedback as wf


class Module(lightning.LightningModule):
    """A regression whose first layer hears the net's weights as they were ten steps ago."""

    def __init__(self, feedback: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
        if feedback:
            reads = [(self.net[0], "weight", "0.weight"), (self.net[2], "weight", "2.weight")]
            own = wf.OwnWeights(reads, wf.CountSketch(16, scale="calibrated"))
            wf.attach(self.net, into="0", signal=wf.Stale(own, lag=10))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss."""
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, *_: object) -> None:
        """Move time on: without gradient accumulation, each batch ends with an optimiser step."""
        wf.advance(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Decay all weights but those of the feedback."""
        feedback = dict(wf.feedback_parameters(self))
        others = [parameter for name, parameter in self.named_parameters() if name not in feedback]
        groups = [{"params": others}, {"params": [*feedback.values()], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.01)


def main(steps: int) -> None:
    """Train without and with feedback, from one seed."""
    # Lightning's notes about hardware, the workers of loaders and its own code.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    for feedback in (False, True):
        torch.manual_seed(0)
        x = torch.rand(512, 8)
        y = torch.sin(x.sum(1, keepdim=True))
        module = Module(feedback)
        z0 = {name: signal().clone() for name, signal in wf.signals(module.net).items()}
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_steps=steps, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))
        print(f"loss {'with' if feedback else 'without'} feedback: {module.training_step((x, y)):.4f}")
    print(wf.diagnose(module.net, x, z0=z0))
    print(f"steps counted by the signal: {int(module.net[0].signal.step)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    main(parser.parse_args().steps)
