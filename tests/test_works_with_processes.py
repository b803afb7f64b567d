"""What an attached network works with in two processes, over gloo on the CPU.

Starting processes takes seconds, so all work is done in one pair of them; what DDP would send, it says in one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import weight_feedback as wf
from helpers.process_jobs import Job, save_and_load, together, train_on_half_of_the_batch
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


@pytest.fixture
def alone(tmp_path) -> Iterator[None]:
    """A group of this process alone: what DDP would send, it says without others."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    gc.collect()  # a DDP that outlives the group ends its thread with the GIL held, which that may need
    dist.destroy_process_group()


def sent(model: nn.Module) -> list[str]:
    """Names of the buffers that DDP sends from the first process to all others, at every forward."""
    buffers = DistributedDataParallel(model).modules_buffers
    return [name for name, buffer in model.named_buffers() if any(buffer is other for other in buffers)]


def permuted(layer: nn.Module, summary: wf.Summary) -> wf.Permuted:
    return wf.Permuted([(layer, "weight", "weight"), (layer, "bias", "bias")], summary)


def test_ddp_sends_of_every_signal_what_does_not_follow_from_its_seed(alone) -> None:
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(6)], nn.ReLU(), nn.BatchNorm1d(6))
    model.register_buffer("mask", torch.ones(6), persistent=False)  # not the library's
    model._ddp_params_and_buffers_to_ignore = ["7.running_mean"]
    names = [name for name, _ in model.named_buffers()]
    names.remove("7.running_mean")
    for into, summary in (("0", wf.CountSketch(4)), ("1", wf.KroneckerProjection(4)), ("2", wf.DenseProjection(4))):
        wf.attach(model, into, summary=summary)
    wf.attach(model, "3", signal=permuted(model[3], wf.Moments()))
    wf.attach(model, "4", signal=wf.Stale(permuted(model[0], wf.CountSketch(4)), lag=2))
    wf.attach(model, "5", signal=wf.Noise(torch.ones(3)))
    drawn = {name for name, _ in model.named_buffers()} - model.state_dict().keys() - {"mask"}
    assert {name.rpartition(".")[2] for name in drawn} >= {"signs", "matrix", "order_0", "order_1"}
    assert {name.partition(".")[0] for name in drawn} == {"0", "1", "2", "3", "4"}
    timed = ["4.signal.step", "4.signal.ring", "5.signal.z", "5.signal.step", "5.signal.target"]
    assert sorted(sent(model)) == sorted([*names, *timed])
    # Plain again, the model is as DDP found it.
    for plain in (wf.fold(model), wf.remove(model)):
        assert sent(plain) == names
        assert plain._ddp_params_and_buffers_to_ignore == ["7.running_mean"]


def test_ddp_sends_nothing_that_is_drawn_for_a_layer_that_is_the_whole_model(alone) -> None:
    layer = nn.Linear(6, 6)
    wf.attach(layer, "", signal=permuted(layer, wf.CountSketch(4)))
    assert len([*layer.named_buffers()]) > 2
    assert sent(layer) == []
    assert not hasattr(wf.remove(layer), "_ddp_params_and_buffers_to_ignore")
