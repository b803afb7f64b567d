"""Checkpoints with all, a part or none of the feedback, loaded into a model that has it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import weight_feedback as wf
from helpers.cases import IMAGES as X
from helpers.cases import attached, net


def changed(model: nn.Module) -> nn.Module:
    """The model with other numbers everywhere, in a way that can be told from its first ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5).add_(0.1)
    return model


def two_layers(**options) -> nn.Module:
    """Two layers that hear: one with a calibrated gain and a seed, one with a ``z``, to be kept in a checkpoint."""
    torch.manual_seed(2)
    model = wf.attach(net(), "fc1", summary=wf.DenseProjection(3, scale="calibrated", seed=5), init="default")
    return wf.attach(model, "conv1", signal=wf.Constant(torch.tensor([1.0, -2.0])), init="default", **options)


def held(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in copy.deepcopy(model.state_dict()).items() if "signal." in name}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_a_base_checkpoint_silences_the_layers(strict: bool, assign: bool) -> None:
    base, model = changed(net()), two_layers(conditioning="film")
    before, state = held(model), base.state_dict()
    keys = list(state)
    with pytest.warns(UserWarning, match="no feedback for") as caught:
        result = model.load_state_dict(state, strict=strict, assign=assign)
    named = sorted(str(warning.message).split(":")[0] for warning in caught)
    assert named == [f"the checkpoint has no feedback for '{name}'" for name in ("conv1", "fc1")]
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(model(X), base(X))
    for layer in wf.feedback_layers(model).values():
        assert layer.feedback_weight.count_nonzero() == 0
        assert layer.feedback_weight.requires_grad
    assert len(before) == 3  # a gain, a seed and a z
    after = held(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert list(state) == keys  # the checkpoint is the caller's
    assert len(list(model.parameters())) == len(list(base.parameters())) + 2


def test_a_base_checkpoint_of_a_part_of_the_model() -> None:
    model = two_layers()
    with pytest.warns(UserWarning, match="no feedback for this layer: its feedback_weight is set to 0"):
        model.fc1.load_state_dict(changed(net()).fc1.state_dict())
    assert model.fc1.feedback_weight.count_nonzero() == 0
    assert model.conv1.feedback_weight.count_nonzero() == 6
    whole = nn.ModuleDict({"net": two_layers(), "head": nn.Linear(4, 2)})
    with pytest.warns(UserWarning, match=r"no feedback for 'net\.(conv1|fc1)'") as caught:
        whole.load_state_dict(nn.ModuleDict({"net": net(), "head": nn.Linear(4, 2)}).state_dict())
    assert len(caught) == 2


def test_a_full_checkpoint_is_taken_whole() -> None:
    saved, model = changed(two_layers()), two_layers()
    saved.conv1.signal.z.add_(1)
    model.fc1.signal.summary.gain.mul_(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(saved.state_dict())
        model.fc1.load_state_dict(saved.fc1.state_dict())
    assert torch.equal(model(X), saved(X))
    assert all(torch.equal(a, b) for a, b in zip(held(model).values(), held(saved).values(), strict=True))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "lacks",
    ["fc1.feedback_weight", "fc1.signal.summary.gain", "fc1.signal.summary._extra_state", "conv1.signal.z"],
)
def test_a_part_of_a_layers_feedback_is_an_error(lacks: str, strict: bool) -> None:
    state = two_layers().state_dict()
    del state[lacks]
    name = lacks.split(".")[0]
    with pytest.raises(RuntimeError, match=rf"part of the feedback of '{name}': it lacks {lacks}; load all of it"):
        two_layers().load_state_dict(state, strict=strict)


def test_a_signal_of_another_kind_counts_as_a_part() -> None:
    state = net().state_dict() | {"fc1.signal.step": torch.tensor(3)}
    with pytest.raises(
        RuntimeError, match=r"a part of the feedback of 'fc1': it lacks fc1\.feedback_weight, fc1\.s"
    ):
        attached().load_state_dict(state)


def test_one_layer_with_feedback_and_one_without() -> None:
    saved, model = changed(two_layers()), two_layers()
    state = {name: tensor for name, tensor in saved.state_dict().items() if not name.startswith("conv1.signal")}
    del state["conv1.feedback_weight"]
    with pytest.warns(UserWarning, match="no feedback for 'conv1'") as caught:
        model.load_state_dict(state)
    assert len(caught) == 1
    assert torch.equal(model.fc1.feedback_weight, saved.fc1.feedback_weight)
    assert model.conv1.feedback_weight.count_nonzero() == 0


def test_a_checkpoint_without_the_layer_leaves_it_alone() -> None:
    model = two_layers()
    before = model.fc1.feedback_weight.clone()
    result = model.load_state_dict({"fc2.weight": torch.ones(4, 6)}, strict=False)
    assert torch.equal(model.fc1.feedback_weight, before)
    assert {"fc1.weight", "fc1.feedback_weight", "conv1.signal.z"} <= set(result.missing_keys)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"fc2.weight": torch.ones(4, 6)})
