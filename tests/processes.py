"""What each of two processes does: a module of its own, so that a spawned process can import it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.nn.parallel import DistributedDataParallel

import weight_feedback as wf
from test_works_with import LR, X, Y, heard, shift, train

SECONDS = 100


def train_on_half_of_the_batch(rank: int, folder: Path) -> dict:
    model = heard(timed=True)
    if rank == 1:
        shift(model)  # DDP sends everyone the weights of rank 0, and the signal is to follow them
    parallel = DistributedDataParallel(model)
    optimiser = torch.optim.SGD(parallel.parameters(), lr=LR)
    for _ in range(2):
        optimiser.zero_grad()
        F.mse_loss(parallel(X[rank::2]), Y[rank::2]).backward()
        optimiser.step()
        wf.advance(model)
    return {"state": model.state_dict(), "output": parallel(X).detach()}


def save_and_load(rank: int, folder: Path) -> dict:
    model, loaded = shift(heard(seed=1)), heard(seed=2)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "checkpoint")
    state = {"model": get_model_state_dict(loaded)}
    dcp.load(state, checkpoint_id=folder / "checkpoint")
    set_model_state_dict(loaded, state["model"])
    train(loaded)
    return {"state": loaded.state_dict()}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=SECONDS / 2)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=limit
    )
    try:
        done = {job.__name__: job(rank, folder) for job in (train_on_half_of_the_batch, save_and_load)}
        torch.save(done, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
