"""What each of several processes does: a module of its own, so that a spawned process can import it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
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
from helpers.limits import SECONDS
from test_works_with import LR, X, Y, heard, shift, train


def train_on_half_of_the_batch(rank: int, folder: Path) -> dict:
    model = heard(timed=True)
    if rank == 1:
        shift(model)  # DDP sends everyone the weights of rank 0, and the signal is to follow them
    parallel = DistributedDataParallel(model)
    sent = [name for name, buffer in model.named_buffers() if any(buffer is b for b in parallel.modules_buffers)]
    optimiser = torch.optim.SGD(parallel.parameters(), lr=LR)
    for _ in range(2):
        optimiser.zero_grad()
        F.mse_loss(parallel(X[rank::2]), Y[rank::2]).backward()
        optimiser.step()
        wf.advance(model)
    return {"state": model.state_dict(), "output": parallel(X).detach(), "sent": sent}


def save_and_load(rank: int, folder: Path) -> dict:
    model, loaded = shift(heard(seed=1)), heard(seed=2)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "checkpoint")
    state = {"model": get_model_state_dict(loaded)}
    dcp.load(state, checkpoint_id=folder / "checkpoint")
    set_model_state_dict(loaded, state["model"])
    train(loaded)
    return {"state": loaded.state_dict()}


Job = Callable[[int, Path], dict]
#: What takes long to import, and can be found wherever the tests are.
PRELOADED = [
    *("pytest", "weight_feedback.attach", "weight_feedback.pretrained", "torch.distributed.checkpoint"),
    *("torch.distributed.fsdp", "torch.distributed.tensor.debug", "torch.distributed.tensor.parallel"),
]


def work(rank: int, folder: Path, jobs: Sequence[Job], size: int) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=SECONDS / 2)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size, timeout=limit
    )
    try:
        done = {job.__name__: job(rank, folder) for job in jobs}
        torch.save(done, folder / f"{rank}.pt")
    finally:
        gc.collect()  # a DDP that outlives the group ends its thread with the GIL held, which that may need
        dist.destroy_process_group()


def together(folder: Path, jobs: Sequence[Job], size: int = 2) -> Callable[[Job], list[dict]]:
    """Let so many processes do the jobs, over gloo on the CPU; return what gives a job's results, one a rank."""
    # What starts them imports PyTorch once for all, and is forked; this process has threads, and can't be.
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    processes = multiprocessing.start_processes(
        work, (folder, jobs, size), nprocs=size, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + SECONDS
    try:
        while not processes.join(timeout=1):
            if time.monotonic() > deadline:
                pytest.fail(f"the processes didn't end within {SECONDS} s")
    finally:
        for process in processes.processes:
            process.kill()
    saved = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
    return lambda job: [done[job.__name__] for done in saved]
