"""Feedback into every block of a tiny GPT-2 that learns the source of argparse. Run: python examples/tiny_gpt.py.

Prints "loss without feedback", "loss with feedback", the diagnosis of each "mlp.c_fc" ("audible?", "news?").
One seed each says nothing on whether feedback helps.
"""

import argparse
import inspect

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import weight_feedback as wf


def batch(text: torch.Tensor, seed: int) -> torch.Tensor:
    """Cut 16 pieces of 64 characters out of the text."""
    starts = torch.randint(len(text) - 64, (16, 1), generator=torch.Generator().manual_seed(seed))
    return text[starts + torch.arange(64)]


def train(feedback: bool, steps: int) -> None:
    """Train on one batch a step, and print the loss on a batch that the net was not trained on."""
    # Characters as numbers, the last tenth held out; any text will do, and this one comes with Python.
    text = torch.tensor([min(ord(character), 127) for character in inspect.getsource(argparse)])
    seen, held_out = text.split([len(text) * 9 // 10, len(text) - len(text) * 9 // 10])
    torch.manual_seed(0)
    size = {"vocab_size": 128, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    model.loss_type = "ForCausalLM"  # transformers doesn't guess it from the name of this class, and says so
    if feedback:
        summary = wf.CountSketch(16, scale="calibrated")
        wf.attach(model, into="transformer.h.*.mlp.c_fc", reads="transformer.h.*.mlp.*", summary=summary)
    z0 = {name: signal().clone() for name, signal in wf.signals(model).items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        x = batch(seen, step)
        optimiser.zero_grad()
        model(input_ids=x, labels=x).loss.backward()
        optimiser.step()
        wf.advance(model)
    x = batch(held_out, 0)
    loss = model.eval()(input_ids=x, labels=x).loss
    print(f"loss {'with' if feedback else 'without'} feedback: {loss:.4f} nats a character")
    if feedback:
        print(wf.diagnose(model, x, z0=z0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    train(False, steps)
    train(True, steps)
