"""A description that is not what was saved is refused, and says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.cases import attached, net
from helpers.saved_models import CONFIG, WEIGHTS, check_refused, model_of_errors, rewrite
from weight_feedback.pretrained import load_pretrained, save_pretrained


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of the arguments at the place that the others say."""

    def change(config: Any) -> None:
        *names, last, value = path
        for name in names:
            config = config[name]
        if value is put:
            del config[last]
        else:
            config[last] = value

    return change


ONE = r"whole number of at least 1, got"
BAD_CONFIGS = {
    "older": (put("format", 0), r"json: format must be 1, got 0$"),
    "newer": (
        lambda config: config.update(format=2, more=True),
        r"json: format must be 1, got 2: made by a newer version; upgrade weight_feedback",
    ),
    "format a flag": (put("format", True), r"json: format must be a whole number of 64 bits, got True"),
    "no format": (
        put("format", put),
        r"json: must have the fields format, layers, .* missing: format; unknown: none",
    ),
    "unknown field": (put("extra", 1), r"missing: none; unknown: 'extra'"),
    "layers no list": (put("layers", {}), r"json: layers must be a list, got \{\}"),
    "layer no object": (put("layers", 1, 7), r"json: layers\[1\] must be an object, got 7"),
    "layer without name": (put("layers", 1, "name", put), r"layers\[1\] must have .* missing: name; unknown: none"),
    "name a number": (put("layers", 1, "name", 1), r"layers\[1\].name must be a string, got 1"),
    "conditioning": (
        put("layers", 1, "conditioning", "cat"),
        r"conditioning must be one of concat, film, got 'cat'",
    ),
    "conditioning null": (put("layers", 1, "conditioning", None), r"must be one of concat, film, got None"),
    "no such layer": (put("layers", 1, "name", "fc7"), r"layers\[1\]: fc7.feedback_weight must be among the saved"),
    "layer twice": (put("layers", 1, "name", "conv1"), r"layers\[1\]: attach: 'conv1' has feedback already"),
    "no such signal": (
        put("layers", 1, "signal", 4),
        r"layers\[1\].signal: must be a place in the list of 4 .* got 4",
    ),
    "signal below 0": (put("layers", 1, "signal", -1), r"layers\[1\].signal must be a whole number of at least 0"),
    "signal of another size": (
        put("layers", 1, "signal", 1),
        r"layers\[1\].signal: out_features must be 16, .* got 5",
    ),
    "moments of another size": (
        put("signals", 3, "summary", "norms", []),
        r"layers\[2\].signal: out_features must be 10, as in the saved tensors, got 7",
    ),
    "signal no object": (put("signals", 0, []), r"signals\[0\] must be an object with a class, got \[\]"),
    "signal without class": (put("signals", 0, "class", put), r"signals\[0\] must be an object with a class, got"),
    "signal class": (
        put("signals", 0, "class", "Mine"),
        r"signals\[0\].class must be one of OwnWeights, .* 'Mine'",
    ),
    "signal class a list": (put("signals", 0, "class", ["Noise"]), r"signals\[0\].class must be one of OwnWeights"),
    "summary class": (
        put("signals", 2, "summary", "class", "Noise"),
        r"signals\[2\].summary.class must be one of AvgPool, .* got 'Noise'",
    ),
    "signal field missing": (put("signals", 0, "redraw", put), r"signals\[0\] must have .* missing: redraw; unk"),
    "signal field unknown": (put("signals", 1, "leg", 2), r"signals\[1\] must have .* unknown: 'leg'"),
    "size": (
        put("signals", 0, "out_features", 10**12),
        r"signals\[0\]: out_features must be 5, .* got 1000000000000",
    ),
    "size 0": (put("signals", 0, "out_features", 0), rf"signals\[0\].out_features must be a {ONE} 0"),
    "size a fraction": (put("signals", 0, "out_features", 5.0), rf"out_features must be a {ONE} 5.0"),
    "padding": (put("signals", 0, "padding", 5), r"signals\[0\]: Noise: padding must lie from 0 to 4, got 5"),
    "seed": (put("signals", 0, "seed", 2**63), r"signals\[0\].seed must be a whole number of 64 bits, got 922337"),
    "redraw": (put("signals", 0, "redraw", 1), r"signals\[0\].redraw must be true or false, got 1"),
    "lag": (
        put("signals", 1, "lag", 10**12),
        r"signals\[1\]: lag must be 2, as in the saved tensors, got 1000000000000",
    ),
    "wraps itself": (put("signals", 1, "signal", 1), r"signals\[1\]: signal must be a place before 1, got 1"),
    "reads": (put("signals", 2, "reads", "fc1"), r"signals\[2\].reads must be a list, got 'fc1'"),
    "reads nothing": (put("signals", 2, "reads", []), r"signals\[2\]: MaxPool needs at least one tensor to read"),
    "read field": (
        put("signals", 2, "reads", 0, "weight", ""),
        r"signals\[2\].reads\[0\] must .* unknown: 'weight'",
    ),
    "read module": (put("signals", 2, "reads", 0, "module", "fc3"), r"signals\[2\]: .*no attribute .*fc3"),
    "read attribute": (
        put("signals", 2, "reads", 0, "attribute", "w"),
        r"signals\[2\]: can't read fc1.weight: FeedbackLinear.w must be a floating-point tensor, got None",
    ),
    "read of a signal that was replaced": (
        put("signals", 2, "reads", 0, {"name": "z", "module": "fc2.signal", "attribute": "z"}),
        r"signals\[2\]: MaxPool: kernel",
    ),
    "summary size": (
        put("signals", 2, "summary", "out_features", 17),
        r"signals\[2\]: summary.out_features must be 16, as in the saved tensors, got 17",
    ),
    "kernels": (
        put("signals", 2, "summary", "kernels", 1, [1]),
        r"kernels\[1\] must be a pair of whole .* got \[1\]",
    ),
    "kernel 0": (
        put("signals", 2, "summary", "kernels", 0, [0, 1]),
        r"kernels\[0\] must be a pair of whole numbers",
    ),
    "kernels too large": (
        put("signals", 2, "summary", "kernels", 0, [7, 8]),
        r"signals\[2\]: MaxPool: kernel \(7, 8",
    ),
    "flag": (put("signals", 2, "summary", "transpose", 0, 0), r"transpose\[0\] must be true or false, got 0"),
    "fill": (
        put("signals", 2, "summary", "fill", "infinity"),
        r'fill must be a number, "inf", "-inf" or "nan", got',
    ),
    "fill too large": (put("signals", 2, "summary", "fill", 10**400), r'fill must be a number, "inf"'),
    "fill a flag": (put("signals", 2, "summary", "fill", True), r'fill must be a number, "inf".* got True'),
    "norm": (
        put("signals", 3, "summary", "norms", 0, 0.5),
        r"signals\[3\]: Moments: norms must be of order 1 or more",
    ),
    "aliases": (put("aliases", [{"name": "a"}]), r"json: aliases\[0\] must have .* missing: same_as"),
    "alias of nothing": (
        put("aliases", [{"name": "a", "same_as": "b"}]),
        r"json: aliases\[0\].same_as must be a tensor of model.safetensors, got 'b'",
    ),
    "alias twice": (
        put("aliases", [{"name": "fc1.bias", "same_as": "norm.bias"}]),
        r"aliases\[0\].name must be a new name, but model.safetensors has 'fc1.bias' too",
    ),
    "alias unknown": (
        put("aliases", [{"name": "a", "same_as": "fc1.bias"}]),
        r"missing: none; unexpected: \['a'\]",
    ),
    "bytes": (put("weights", "bytes", 5), rf"{WEIGHTS}: bytes must be 5, as {CONFIG} says, got \d+; the two"),
    "checksum": (put("weights", "sha256", "?"), rf"{WEIGHTS}: sha256 must be '\?', as {CONFIG} says, got"),
}


@pytest.mark.parametrize("name", list(BAD_CONFIGS))
def test_bad_descriptions(name: str, tmp_path: Path) -> None:
    change, message = BAD_CONFIGS[name]
    save_pretrained(model_of_errors(), tmp_path)
    rewrite(tmp_path, change)
    check_refused(tmp_path, message)


def test_edited_description(tmp_path: Path) -> None:
    save_pretrained(model_of_errors(), tmp_path)
    text = (tmp_path / CONFIG).read_text()
    (tmp_path / CONFIG).write_text(text.replace('"fill": 1.0', '"fill": 2.0'))
    check_refused(
        tmp_path, rf"{CONFIG}: sha256 must be .* got .*; the file is damaged or was edited: save the model"
    )
    (tmp_path / CONFIG).write_text(json.dumps(json.loads(text)))  # another layout is the same description
    load_pretrained(net(), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON, but isn't: Expecting value"),
        ("[" * 100_000, "must be JSON, but isn't"),
        ("\xff", "must be JSON, but isn't: 'utf-8' codec"),
        ('{"format": NaN}', "must be JSON, but isn't: NaN is no JSON number"),
        ('{"format": 1' + "0" * 5000 + "}", "must be JSON, but isn't: Exceeds the limit"),
        ("[]", r"json: must be an object, got \[\]"),
        (" " * 1_000_001, "json must have at most 1000000 bytes, got more"),
    ],
    ids=["empty", "deep", "binary", "nan", "long number", "list", "too large"],
)
def test_description_is_no_description(text: str, message: str, tmp_path: Path) -> None:
    save_pretrained(attached(), tmp_path)
    (tmp_path / CONFIG).write_bytes(text.encode("latin-1"))
    check_refused(tmp_path, message)
