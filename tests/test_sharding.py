"""Weights that are spread over processes by FSDP2 and tensor parallel: against the same training in one process.

Starting processes takes seconds, so each group of them does all of its work in one go.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import weight_feedback as wf
from helpers import sharded_jobs
from helpers.process_jobs import Job, together
from helpers.sharded_jobs import SUMMARIES, K, X, hear, late, net, train

Results = Callable[[Job], list[dict]]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    jobs = [
        sharded_jobs.fully_sharded, sharded_jobs.communicated, sharded_jobs.cast, sharded_jobs.refused,
        sharded_jobs.checkpointed, sharded_jobs.tensor_parallel, sharded_jobs.in_all_directions,
        sharded_jobs.flattened,
    ]  # fmt: skip
    return together(tmp_path_factory.mktemp("sharded"), jobs)


def check(rank: dict, model: torch.nn.Module) -> None:
    """Compare with a network that was trained in one process."""
    expected = sharded_jobs.found(model)
    for what in ("state", "heard", "output"):
        torch.testing.assert_close(rank[what], expected[what], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("summary", SUMMARIES)
def test_fsdp2_equals_one_process(results: Results, summary: str) -> None:
    alone = late(hear(net(), summary))
    train(alone)
    for rank in results(sharded_jobs.fully_sharded):
        check(rank[summary], alone)


def test_one_all_reduce_for_all_signals(results: Results) -> None:
    for rank in results(sharded_jobs.communicated):
        assert list(rank.values()) == [1]
        assert "all_reduce" in next(iter(rank))


def test_mixed_precision_hears_the_full_weights(results: Results) -> None:
    for rank in results(sharded_jobs.cast):
        alone = hear(net().float())
        alone.load_state_dict(alone.state_dict() | rank["state"])
        heard = wf.signals(alone)["0"]()
        assert rank["heard"].dtype == torch.float32
        torch.testing.assert_close(rank["heard"], heard, rtol=1e-5, atol=1e-5)
        assert (heard - heard.bfloat16()).abs().max() > 1e-3  # rounded, it would show


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "forward",
            r"RuntimeError: OwnWeights of 0.weight, 0.bias, 2.weight and 3 more: .* call weight_feedback.ref",
        ),
        ("second forward", "nothing"),
        ("stale", r"RuntimeError: .*the weights have changed since the last refresh; call weight_feedback.refresh"),
        (
            "moments",
            r"TypeError: .*Moments can't be added up over them; use OwnWeights of a projection: CountSketch",
        ),
        ("moments at once", r"TypeError: .*Moments can't be added up"),
        ("permuted", r"TypeError: .*Permuted can't be added up"),
        ("gradient", r"ValueError: .*gradients can't go through z there; use detach=True"),
        ("attach", r"ValueError: attach: FSDP manages the model already; attach first"),
        ("fold", r"ValueError: fold: the model's weights are spread over processes; load its full state_dict"),
        ("remove", r"ValueError: remove: the model's weights are spread"),
        ("diagnose", r"ValueError: diagnose: the model's weights are spread"),
        ("save", r"ValueError: save_pretrained: the model's weights are spread"),
    ],
)
def test_what_cannot_be_is_refused(results: Results, what: str, message: str) -> None:
    for rank in results(sharded_jobs.refused):
        assert re.match(message, rank[what])


@pytest.mark.parametrize("original", ["False", "True"])
def test_fsdp1_shows_weights_to_their_own_unit_alone(results: Results, original: str) -> None:
    alone = hear(net())(X)
    for rank in results(sharded_jobs.flattened):
        found = rank[original]
        torch.testing.assert_close(found["output"], alone.detach(), rtol=1e-9, atol=1e-9)
        assert re.match(
            r"RuntimeError: OwnWeights of .*: .* elsewhere for now: FullyShardedDataParallel shows them while "
            "their own unit runs; use torch.distributed.fsdp.fully_shard and weight_feedback.refresh instead",
            found["nested"],
        )
        assert found["attach"].startswith("ValueError: attach: FSDP manages the model already")
        for what in ("check", "fold", "remove", "diagnose"):
            assert found[what].startswith(f"ValueError: {what}: the model's weights are spread over processes")
        assert found["save"].startswith("ValueError: save_pretrained: the model's weights are spread")


def test_a_sharded_checkpoint_goes_round(results: Results) -> None:
    for rank in results(sharded_jobs.checkpointed):
        torch.testing.assert_close(rank["loaded"], rank["saved"], rtol=0, atol=0)


def test_shards_along_any_dimension_are_added_up(results: Results) -> None:
    expected = wf.signals(sharded_jobs.convolved())["1"]()
    for rank in results(sharded_jobs.in_all_directions):
        assert len(rank["heard"]) == 5
        for heard in rank["heard"]:
            torch.testing.assert_close(heard, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conditioning", ["concat", "film"])
@pytest.mark.parametrize("summary", SUMMARIES)
def test_tensor_parallel_equals_one_process(results: Results, summary: str, conditioning: str) -> None:
    alone = hear(net(width=8), summary, conditioning=conditioning)
    train(alone)
    for rank in results(sharded_jobs.tensor_parallel):
        done = rank[f"{summary}-{conditioning}"]
        check(done, alone)
        torch.testing.assert_close(done["folded"], done["output"], rtol=1e-12, atol=1e-12)


def test_fsdp2_of_tensor_parallel_equals_one_process(tmp_path) -> None:
    alone = hear(net(width=8))
    train(alone)
    for rank in together(tmp_path, [sharded_jobs.both], size=4)(sharded_jobs.both):
        check(rank, alone)


def test_in_one_process_refresh_does_nothing() -> None:
    model = hear(net())
    wf.refresh(model)
    before = wf.signals(model)["0"]()
    with torch.no_grad():
        model[2].weight.add_(1)
    after = wf.signals(model)["0"]()
    assert after.shape == (K,)
    assert (after - before).abs().min() > 1e-3
    assert model(X).shape == (8, 4)
