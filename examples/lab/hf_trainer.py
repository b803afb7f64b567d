"""Does a tiny GPT do better if it hears its own weights? Run: weight-feedback run examples/lab/hf_trainer.py.

Each trial is one training by `transformers.Trainer`, on the source of argparse, whose validation loss is reported
after every epoch. Four seeds are a first look: nothing is declared, so nothing is decided. Finished trials are
kept, and the next run trains what is missing. A trial that is killed starts over. The text is that of the Python
that runs this, so other versions of it train on other data. Of GPUs, the trainer takes all that it sees.
"""

import argparse
import inspect

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import weight_feedback as wf
from weight_feedback import lab


class Report(TrainerCallback):
    """Reports a trial's validation loss after each evaluation, and moves the signals' time on.

    Args:
        trial: the trial.
    """

    def __init__(self, trial: lab.Context) -> None:
        self.trial = trial

    def on_step_end(self, *_: object, model: nn.Module, **__: object) -> None:
        """Move time on, after each optimiser step."""
        wf.advance(model)

    def on_evaluate(self, *_: object, metrics: dict[str, float], **__: object) -> None:
        """Report the loss."""
        self.trial.report(validation_loss=metrics["eval_loss"])


def pieces(text: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Cut a text into pieces of 64 characters, each of which the model is to continue."""
    return [{"input_ids": piece, "labels": piece} for piece in text.split(64) if len(piece) == 64]


def train(trial: lab.Context, *, hears: bool = False, epochs: int = 5) -> None:
    """Train one model."""
    # Characters as numbers, the last tenth held out; any text will do, and this one comes with Python.
    text = torch.tensor([min(ord(character), 127) for character in inspect.getsource(argparse)])
    seen, held_out = text.split([len(text) * 9 // 10, len(text) - len(text) * 9 // 10])
    size = {"vocab_size": 128, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    model.loss_type = "ForCausalLM"  # transformers doesn't guess it from the name of this class, and says so
    if hears:
        summary = wf.CountSketch(16, seed=trial.seed, scale="calibrated")
        wf.attach(model, into="transformer.h.*.mlp.c_fc", reads="transformer.h.*.mlp.*", summary=summary)
    arguments = TrainingArguments(
        str(trial.folder), num_train_epochs=epochs, per_device_train_batch_size=16, learning_rate=3e-3,
        per_device_eval_batch_size=64, eval_strategy="epoch", seed=trial.seed, use_cpu=trial.device.type == "cpu",
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    data = {"train_dataset": pieces(seen), "eval_dataset": pieces(held_out)}
    trainer = Trainer(model, arguments, **data, callbacks=[Report(trial)])
    trainer.remove_callback(PrinterCallback)  # lines of all trials at once
    trainer.train()


study = lab.Study(
    name="hf-trainer",
    title="Does a tiny GPT do better if it hears its own weights?",
    task=train,
    seeds=4,
    arms={"plain": {}, "hears": {"hears": True}},
    metrics={"validation_loss": lab.Metric("nats", better="lower", label="validation loss")},
)

if __name__ == "__main__":
    lab.run(study)
    lab.report(study)
