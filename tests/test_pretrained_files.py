"""Missing, mixed and damaged files are refused, and leave the model as it was; the hub; lazy imports."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import weight_feedback as wf
from helpers import limits
from helpers.cases import attached, net
from helpers.saved_models import CONFIG, WEIGHTS, check_refused, contents, model_of_errors, rewrite
from weight_feedback import pretrained
from weight_feedback.pretrained import PretrainedError, load_pretrained, save_pretrained


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_missing_files(file: str, tmp_path: Path) -> None:
    check_refused(tmp_path / "nowhere", f"{CONFIG} must be a readable file, but: No such file")
    save_pretrained(attached(), tmp_path)
    (tmp_path / file).unlink()
    check_refused(tmp_path, f"{file} must be a readable file, but: No such file or directory; give the folder")
    (tmp_path / file).mkdir()
    check_refused(tmp_path, f"{file} must be a readable file, but")


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_pipe_is_no_file(file: str, tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    with limits.seconds(30):
        check_refused(tmp_path, f"{file} must be a readable file, but: it is a folder, a pipe or a device")


def test_weights_that_are_far_too_large_are_not_read(tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    with (tmp_path / WEIGHTS).open("r+b") as file:
        file.truncate(2**40)
    with limits.memory(2**26):
        check_refused(tmp_path, rf"{WEIGHTS}: bytes must be \d+, as {CONFIG} says, got {2**40}")


def test_weights_that_are_said_to_be_huge(tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    rewrite(tmp_path, lambda config: config["weights"].update(bytes=2**62))
    with limits.memory(2**26):
        check_refused(tmp_path, rf"{WEIGHTS}: bytes must be {2**62}, as {CONFIG} says, got \d+")


def test_messages_cannot_command_a_terminal(tmp_path: Path) -> None:
    save_pretrained(model_of_errors(), tmp_path)
    rewrite(tmp_path, lambda config: config["signals"][2]["reads"][0].update(module="\x1b[2J\ud800"))
    with pytest.raises(PretrainedError) as caught:
        load_pretrained(net(), tmp_path)
    assert r"\x1b[2J\ud800" in str(caught.value)
    assert str(caught.value).isprintable()


def test_mixed_pair(tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    config = (tmp_path / CONFIG).read_bytes()
    model = attached()
    with torch.no_grad():
        model.fc1.bias.add_(1)
    save_pretrained(model, tmp_path)
    (tmp_path / CONFIG).write_bytes(config)
    check_refused(
        tmp_path, f"{WEIGHTS}: sha256 must be .* the two files aren't of one save, or this one is damaged"
    )


def test_damaged_safetensors(tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no safetensors file")
    rewrite(tmp_path, lambda _: None)
    check_refused(tmp_path, f"{WEIGHTS} must be a safetensors file: ")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("fc2.bias", None, r"missing: \['fc2.bias'\]; unexpected: none"),
        ("fc3.bias", torch.ones(1), r"missing: none; unexpected: \['fc3.bias'\]"),
        (
            "fc2.bias",
            torch.ones(5),
            r"fc2.bias must be float32 of shape \[4\], as in base_model, got float32 of .*\[5\]",
        ),
        ("fc2.bias", torch.ones(4, dtype=torch.float64), r"fc2.bias must be float32 .* got float64 of shape \[4\]"),
        ("fc2.feedback_weight", torch.ones(3, 10), r"fc2.feedback_weight must be float32 of shape \[4, 10\]"),
        ("fc2.feedback_weight", None, r"layers\[2\]: fc2.feedback_weight must be among the saved tensors"),
        ("fc2.feedback_weight", torch.ones(()), r"layers\[2\]: fc2.feedback_weight must be among .* one dimension"),
        ("conv1.signal.ring", None, r"signals\[1\]: conv1.signal.ring must be among the saved tensors"),
        ("conv1.signal.signal.z", None, r"signals\[0\]: conv1.signal.signal.z must be among the saved tensors"),
        (
            "conv1.signal.signal._extra_state",
            torch.ones(2, dtype=torch.int64),
            r"_extra_state must be int64 of shape",
        ),
    ],
)
def test_tensors_that_do_not_fit(name: str, tensor: Tensor | None, message: str, tmp_path: Path) -> None:
    save_pretrained(model_of_errors(), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors.pop(name, None)
    save_file(tensors if tensor is None else tensors | {name: tensor}, tmp_path / WEIGHTS)
    rewrite(tmp_path, lambda _: None)
    check_refused(tmp_path, message)


class OtherNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc_1 = nn.Conv2d(1, 3, 3), nn.Linear(48, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (OtherNames, r"layers\[0\]: the model has no module 'fc1'; did you mean 'fc_1'"),
        (lambda: nn.Sequential(nn.ReLU()), r"layers\[0\]: the model has no module 'fc1'$"),
        (lambda: net().double(), r"must be float64 of shape .*, as in base_model, got float32"),
        (lambda: net().to("meta"), r"must be float32 of shape .* without data \(meta\), as in base_model"),
        (lambda: nn.ModuleDict({"fc1": nn.Linear(48, 6), "fc2": nn.Linear(6, 4)}), r"unexpected: \['conv1.bias'"),
        (
            lambda: nn.ModuleDict({"fc1": nn.Identity()}),
            r"layers\[0\]: attach: 'fc1' must be one of torch.nn's Linear, .*got",
        ),
        (lambda: nn.ModuleDict({"fc1": nn.LazyLinear(6)}), r"layers\[0\]: .*LazyLinear"),
    ],
    ids=["near", "far", "dtype", "meta", "more", "kind", "lazy"],
)
def test_base_does_not_fit(make: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    check_refused(tmp_path, message, make)


def test_orphaned_reads(tmp_path: Path) -> None:
    model = wf.attach(net(), "fc1", signal=wf.Zeros(10))
    wf.attach(model, "conv1", reads=["fc1.signal.z"], summary=wf.Moments())
    save_pretrained(model, tmp_path)  # when conv1's signal is made, fc1's isn't there yet
    check_refused(
        tmp_path, r"json: the signal of 'conv1' reads fc1.signal.z, whose module is no longer in the model"
    )


def test_base_has_feedback(tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    base = attached("conv1")
    before = copy.deepcopy(base.state_dict())
    with pytest.raises(PretrainedError, match=r"without feedback, but its layer 'conv1' has some; call weight_fe"):
        load_pretrained(base, tmp_path)
    assert base.state_dict().keys() == before.keys()
    load_pretrained(wf.remove(base), tmp_path)


def test_interrupted_load_leaves_the_model(tmp_path: Path, monkeypatch) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    save_pretrained(attached(), tmp_path)
    base = net()
    monkeypatch.setattr(pretrained, "_tied", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_pretrained(base, tmp_path)
    assert wf.feedback_layers(base) == {}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("intact")
    save_pretrained(model_of_errors(), folder)
    return contents(folder)


@given(file=st.sampled_from([WEIGHTS, CONFIG]), data=st.data())
@settings(max_examples=150)
def test_any_damage_is_noticed(intact: dict[str, bytes], tmp_path_factory, file: str, data: st.DataObject) -> None:
    whole = intact[file]
    start = data.draw(st.integers(0, len(whole) - 1), label="start")
    length = data.draw(st.sampled_from([0, 1, 2, len(whole)]), label="length")
    damaged = whole[:start] + data.draw(st.binary(max_size=3), label="instead") + whole[start + length :]
    folder = tmp_path_factory.mktemp("damaged")
    for name, content in intact.items():
        (folder / name).write_bytes(damaged if name == file else content)
    if file == CONFIG and means_the_same(damaged, whole):
        load_pretrained(net(), folder)
    elif damaged != whole:
        check_refused(folder, file)


def means_the_same(damaged: bytes, whole: bytes) -> bool:
    """Only white space, and other ways to write a number or string, may change."""
    try:
        return json.dumps(json.loads(damaged.decode())) == json.dumps(json.loads(whole))
    except ValueError:
        return False


# The hub


def test_imports_are_lazy() -> None:
    code = "import sys, weight_feedback.pretrained; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"safetensors", "huggingface_hub"} & set(result.stdout.split())


@pytest.mark.parametrize("missing", ["safetensors.torch", "huggingface_hub"])
def test_missing_extra(missing: str, tmp_path: Path, monkeypatch) -> None:
    save_pretrained(attached(), tmp_path / "saved")
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(vars(pretrained), "WeightFeedbackHubMixin", raising=False)
    message = r"need.* pip install 'weight-feedback\[hub\]'"
    if missing == "huggingface_hub":
        with pytest.raises(ImportError, match=message):
            from weight_feedback.pretrained import WeightFeedbackHubMixin  # noqa: F401
        load_pretrained(net(), tmp_path / "saved")
    else:
        with pytest.raises(ImportError, match=message):
            save_pretrained(attached(), tmp_path / "new")
        with pytest.raises(ImportError, match=message):
            load_pretrained(net(), tmp_path / "saved")
        assert not (tmp_path / "new").exists()


def test_no_such_name() -> None:
    with pytest.raises(AttributeError, match=r"'weight_feedback.pretrained' has no attribute 'Hub'"):
        pretrained.Hub  # noqa: B018


@pytest.fixture
def hub_class(monkeypatch) -> type:
    pytest.importorskip("huggingface_hub")
    from weight_feedback.pretrained import WeightFeedbackHubMixin

    class Net(nn.Module, WeightFeedbackHubMixin):
        def __init__(self, hidden: int = 3, own: bool = False) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, hidden), nn.Linear(hidden, 2)
            if own:
                wf.attach(self, "fc1", summary=wf.Moments())

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.fc1(x))

    assert issubclass(Net, WeightFeedbackHubMixin)
    return Net


@pytest.mark.parametrize("own", [True, False])
def test_hub_mixin(hub_class: type, own: bool, tmp_path: Path) -> None:
    model = hub_class(hidden=6, own=own)
    wf.attach(wf.remove(model), "fc1", summary=wf.DenseProjection(3, seed=4), init="default")
    model.save_pretrained(tmp_path)
    assert set(contents(tmp_path)) == {WEIGHTS, CONFIG, "config.json", "README.md"}
    assert "library_name: weight-feedback" in (tmp_path / "README.md").read_text()
    loaded = hub_class.from_pretrained(tmp_path)
    assert type(loaded) is hub_class
    assert not loaded.training
    assert loaded.fc1.signal.summary.seed == 4
    assert torch.equal(loaded(torch.ones(4)), model(torch.ones(4)))
    nn.init.constant_(model.fc1.bias, math.nan)
    model.save_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match="holds NaN"):
        hub_class.from_pretrained(tmp_path)
    assert hub_class.from_pretrained(tmp_path, allow_nan=True).fc1.bias.isnan().all()


def test_hub_download(hub_class: type, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub

    model = wf.attach(hub_class(), "fc1", signal=wf.Clock(2), init="default")
    model.save_pretrained(tmp_path)
    asked = {}

    def download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", lambda **_: tmp_path / "config.json")
    options = {"revision": "abc", "cache_dir": tmp_path / "cache", "token": "secret"}
    for flags in ({"local_files_only": True, "force_download": False}, {"force_download": True}):
        loaded = hub_class.from_pretrained("someone/net", **options, **flags)
        assert torch.equal(loaded(torch.ones(4)), model(torch.ones(4)))
        files = {"repo": "someone/net", "allow_patterns": [WEIGHTS, CONFIG], "local_files_only": False}
        assert asked == files | options | flags
