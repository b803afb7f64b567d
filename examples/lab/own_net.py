"""Does a small net do better if it hears its own weights? Run: weight-feedback run examples/lab/own_net.py.

A net and a training loop of one's own, on data that are made up anew for each seed. A trial that is killed goes on
from its last checkpoint, which is written once a minute. Whether a difference comes from the weights being its
own, or would from any input that moves, takes controls (docs/controls.md).
"""

import torch
from torch import nn

import weight_feedback as wf
from weight_feedback import lab


def train(trial: lab.Context, *, hears: bool = False, epochs: int = 150) -> None:
    """Train one net on noisy values of a function of eight numbers."""
    data = trial.stream("data")
    inputs = torch.rand(1512, 8, generator=data)
    targets = torch.sin(inputs.sum(1, keepdim=True)) + 0.1 * torch.randn(1512, 1, generator=data)
    x, test_x = inputs.to(trial.device).split([512, 1000])
    y, test_y = targets.to(trial.device).split([512, 1000])

    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)).to(trial.device)
    if hears:
        # A projection of its own for each seed, so that the verdict isn't about a single one.
        summary = wf.CountSketch(16, seed=trial.seed, scale="calibrated")
        wf.attach(net, into="0", reads=["0", "2"], summary=summary)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in trial.epochs(epochs, net=net, optimiser=optimiser):
        for batch in torch.randperm(512, generator=trial.stream("order")).split(32):
            optimiser.zero_grad()
            nn.functional.mse_loss(net(x[batch]), y[batch]).backward()
            optimiser.step()
            wf.advance(net)
        with torch.no_grad():
            trial.report(test_error=nn.functional.mse_loss(net(test_x), test_y))


study = lab.Study(
    name="own-net",
    title="Does a small net do better if it hears its own weights?",
    task=train,
    seeds=20,
    first_seed=1000,  # fresh ones: with those from 0 on, the number of epochs was chosen
    arms={"plain": {}, "hears": {"hears": True}},
    metrics={"test_error": lab.Metric("", better="lower", label="test error")},
    declared=lab.Declared(
        primary=[("hears", "plain")], margin=0.001, why="a tenth of the noise in the targets, of variance 0.01"
    ),
)

if __name__ == "__main__":
    lab.run(study)
    lab.report(study)
