"""What an attached network works with in two processes, over gloo on the CPU.

Starting processes takes seconds, so all work is done in one pair of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import multiprocessing
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where both processes saved, each under its rank, what their jobs returned."""
    folder = tmp_path_factory.mktemp("processes")
    processes = multiprocessing.start_processes(work, (folder,), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + SECONDS
    try:
        while not processes.join(timeout=1):
            if time.monotonic() > deadline:
                pytest.fail(f"the processes didn't end within {SECONDS} s")
    finally:
        for process in processes.processes:
            process.kill()
    return folder


def results(folder: Path, job: Callable[[int, Path], dict]) -> list[dict]:
    return [torch.load(folder / f"{rank}.pt")[job.__name__] for rank in range(2)]


def test_ddp_equals_one_process(folder) -> None:
    alone = heard(timed=True)
    train(alone, 2)
    saved = results(folder, train_on_half_of_the_batch)
    for rank in saved:
        torch.testing.assert_close(rank["state"], dict(alone.state_dict()), rtol=0, atol=1e-6)
        torch.testing.assert_close(rank["output"], alone(X).detach(), rtol=0, atol=1e-6)
    assert torch.equal(saved[0]["output"], saved[1]["output"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
def test_distributed_checkpoint_goes_round(folder) -> None:
    model = shift(heard(seed=1))
    output = model(X)
    train(model)
    for rank in results(folder, save_and_load):
        assert rank["state"].keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, rank["state"][name]) for name, tensor in model.state_dict().items())
    # One process reads what two wrote.
    alone = heard(seed=2)
    state = {"model": alone.state_dict()}
    dcp.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    alone.load_state_dict(state["model"], strict=True)
    assert torch.equal(alone(X), output)
