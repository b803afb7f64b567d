"""Does weight decay help here? Put your own model, data and loop in their places.

weight-feedback preflight FILE.py        says whether the training is fit to be compared
weight-feedback plan FILE.py --pilot 5   says how many seeds the margin needs
weight-feedback run FILE.py              trains what is missing, and writes the report
"""

import torch
from torch import nn

from weight_feedback import lab


def train(trial: lab.Context, *, weight_decay: float = 0.0, epochs: int = 20) -> None:
    """Train one network. The arguments after the star are the settings that arms can change."""
    # A stream by name is the same in all arms of a seed: arms share these data, and differ in nothing but settings.
    data = trial.stream("data")
    inputs = torch.randn(300, 20, generator=data)
    targets = torch.sin(inputs[:, :1]) + 0.5 * torch.randn(300, 1, generator=data)
    inputs, targets = inputs.to(trial.device), targets.to(trial.device)
    (x, test_x), (y, test_y) = inputs.split([100, 200]), targets.split([100, 200])

    net = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 1)).to(trial.device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=weight_decay)
    # What is named here is kept after each epoch, so that a trial that is killed goes on where it was.
    for _ in trial.epochs(epochs, net=net, optimiser=optimiser):
        for batch in torch.randperm(100, generator=trial.stream("order")).split(20):
            optimiser.zero_grad()
            nn.functional.mse_loss(net(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            trial.report(test_error=nn.functional.mse_loss(net(test_x), test_y))


study = lab.Study(
    name="mine",  # results go to results/mine
    title="Does weight decay help?",
    task=train,
    seeds=12,
    arms={"plain": {}, "decay": {"weight_decay": 1.0}},
    metrics={"test_error": lab.Metric("", better="lower")},
    # Fixed before the first trial: what is compared, and which differences are too small to matter.
    declared=lab.Declared(primary=[("decay", "plain")], margin=0.05),
)

if __name__ == "__main__":
    lab.run(study)
    lab.report(study)
