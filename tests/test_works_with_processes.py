"""What an attached network works with in two processes, over gloo on the CPU.

Starting processes takes seconds, so all work is done in one pair of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import multiprocessing

from processes import SECONDS, save_and_load, train_on_half_of_the_batch, work
from test_works_with import X, heard, shift, train


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
