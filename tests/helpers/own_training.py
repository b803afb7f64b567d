"""Somebody's own training, with everything that is random or has a state: what must come back after a kill."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from weight_feedback import lab
from weight_feedback.lab.study.study import Study


def train(trial: lab.Context, *, decay: float = 0.0, epochs: int = 2, workers: int = 0) -> dict[str, float]:
    data = TensorDataset(torch.rand(32, 4, generator=trial.stream("data")))
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    optimiser = torch.optim.AdamW(net.parameters(), 0.05, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    loader = DataLoader(data, batch_size=16, shuffle=True, generator=trial.stream("order"), num_workers=workers)
    for _ in trial.epochs(epochs, net=net, optimiser=optimiser, scheduler=scheduler):
        for (x,) in loader:
            noisy = x + 0.1 * random.random() + 0.1 * np.random.random() + 0.1 * trial.rng("noise").normal()  # noqa: NPY002
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (net(noisy.float()) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimiser.step()
        scheduler.step()
        trial.report(loss=loss)
    trial.keep("weights", nn.utils.parameters_to_vector(net.parameters()))
    return {"loss": float(loss.detach())}


def study(seeds: int = 2, workers: int = 0) -> Study:
    return Study(
        name="own",
        title="Own",
        task=train,
        seeds=seeds,
        arms={"plain": {}, "decay": {"decay": 0.1}},
        metrics={"loss": lab.Metric("", "lower")},
        declared=lab.Declared(primary=[("decay", "plain")], margin=0.5),
        workers=workers,
    )
