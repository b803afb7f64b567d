"""Does a small ViT do better if it hears its own weights? Run: weight-feedback run examples/lab/timm_vit.py.

Random weights and made-up images: ten patterns under noise, drawn anew for each seed. timm needs torchvision. A
trial that is killed goes on from its last checkpoint, which is written once a minute.
"""

import timm
import torch

import weight_feedback as wf
from weight_feedback import lab


def train(trial: lab.Context, *, hears: bool = False, epochs: int = 10) -> None:
    """Train one model on 1,000 images, and test it on as many others."""
    data = trial.stream("data")
    patterns = torch.randn(10, 1, 28, 28, generator=data)
    labels = torch.arange(2000) % 10
    images = patterns[labels] + 4 * torch.randn(2000, 1, 28, 28, generator=data)
    x, test_x = images.to(trial.device).split(1000)
    y, test_y = labels.to(trial.device).split(1000)

    size = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 64, "depth": 2, "num_heads": 4}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **size).to(trial.device)
    if hears:
        summary = wf.CountSketch(16, seed=trial.seed, scale="calibrated")
        wf.attach(model, into="blocks.*.mlp.fc1", reads=["blocks.*.attn.*", "blocks.*.mlp.*"], summary=summary)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in trial.epochs(epochs, model=model, optimiser=optimiser):
        model.train()
        for batch in torch.randperm(1000, generator=trial.stream("order")).split(50):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
            wf.advance(model)
        with torch.no_grad():
            right = model.eval()(test_x).argmax(1) == test_y
        trial.report(accuracy=100 * right.double().mean())


study = lab.Study(
    name="timm-vit",
    title="Does a small ViT do better if it hears its own weights?",
    task=train,
    seeds=10,
    arms={"plain": {}, "hears": {"hears": True}},
    metrics={"accuracy": lab.Metric("%", better="higher", diverged=10.0)},  # chance, of ten classes
    declared=lab.Declared(primary=[("hears", "plain")], margin=1.0),
)

if __name__ == "__main__":
    lab.run(study)
    lab.report(study)
