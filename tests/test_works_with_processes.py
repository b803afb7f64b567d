"""What an attached network works with in two processes, over gloo on the CPU.

Starting processes takes seconds, so all work is done in one pair of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from processes import Job, save_and_load, together, train_on_half_of_the_batch
from test_works_with import X, heard, shift, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(folder) -> Callable[[Job], list[dict]]:
    return together(folder, [train_on_half_of_the_batch, save_and_load])


def test_ddp_equals_one_process(results) -> None:
    alone = heard(timed=True)
    train(alone, 2)
    saved = results(train_on_half_of_the_batch)
    for rank in saved:
        torch.testing.assert_close(rank["state"], dict(alone.state_dict()), rtol=0, atol=1e-6)
        torch.testing.assert_close(rank["output"], alone(X).detach(), rtol=0, atol=1e-6)
        # What the seed gives isn't sent; what training moves is.
        assert rank["sent"] == ["0.signal.z", "0.signal.step", "0.signal.target"]
    assert torch.equal(saved[0]["output"], saved[1]["output"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
def test_distributed_checkpoint_goes_round(folder, results) -> None:
    model = shift(heard(seed=1))
    output = model(X)
    train(model)
    for rank in results(save_and_load):
        assert rank["state"].keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, rank["state"][name]) for name, tensor in model.state_dict().items())
    # One process reads what two wrote.
    alone = heard(seed=2)
    state = {"model": alone.state_dict()}
    dcp.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    alone.load_state_dict(state["model"], strict=True)
    assert torch.equal(alone(X), output)
