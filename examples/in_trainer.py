"""Feedback in Hugging Face's Trainer: a tiny BERT hears a clock. Run: python examples/in_trainer.py --steps 100.

Prints "loss without feedback", "loss with feedback", the diagnosis ("audible?") and "steps counted by the signal".
One seed each says nothing on whether feedback helps.
"""

import argparse
import tempfile

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import weight_feedback as wf


class Advance(TrainerCallback):
    """Moves the signals' time on, after each optimiser step."""

    def on_step_end(self, *_: object, model: nn.Module, **__: object) -> None:
        """Move time on."""
        wf.advance(model)


def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
    """Decay all weights but those of the feedback."""
    feedback = dict(wf.feedback_parameters(model))
    others = [parameter for name, parameter in model.named_parameters() if name not in feedback]
    groups = [{"params": others}, {"params": [*feedback.values()], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01)


def main(steps: int) -> None:
    """Learn whether one token is among 16, without and with feedback, from one seed."""
    for feedback in (False, True):
        torch.manual_seed(0)
        tokens = torch.randint(20, (512, 16))
        there = (tokens == 0).any(1).long()
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        model = BertForSequenceClassification(BertConfig(vocab_size=20, **size))
        if feedback:
            wf.attach(model, into="bert.encoder.layer.*.intermediate.dense", signal=wf.Clock(8, max_period=100))
        z0 = {name: signal().clone() for name, signal in wf.signals(model).items()}
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=64, use_cpu=True, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
            )  # fmt: skip
            data = [{"input_ids": x, "labels": y} for x, y in zip(tokens, there, strict=True)]
            optimisers = optimiser_of(model), None
            Trainer(model, arguments, train_dataset=data, optimizers=optimisers, callbacks=[Advance()]).train()
        loss = model.eval()(input_ids=tokens, labels=there).loss
        print(f"loss {'with' if feedback else 'without'} feedback: {loss:.4f}")
    print(wf.diagnose(model, tokens, z0=z0))
    print(f"steps counted by the signal: {int(model.bert.encoder.layer[0].intermediate.dense.signal.step)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    main(parser.parse_args().steps)
