"""Feedback as data: what a model's layers hear, written as plain JSON values and built from them again.

Writing and checking follow what is said of the settings once: by each summary's class, and for signals by a table.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from weight_feedback.attach import attach_silently, feedback_layers, refuse_sharded, settle
from weight_feedback.fields import (
    FLAG,
    INDEX,
    INTEGER,
    NUMBER,
    SIZE,
    TEXT,
    Field,
    ListOf,
    PretrainedError,
    Record,
    choice,
)
from weight_feedback.integrity import refuse_misread
from weight_feedback.layers import Conditioning
from weight_feedback.registry import SUMMARIES
from weight_feedback.selection import Names
from weight_feedback.signals import (
    Clock,
    Constant,
    Noise,
    OwnWeights,
    Permuted,
    Read,
    Received,
    Signal,
    Stale,
    Zeros,
)
from weight_feedback.streams import stream

#: The version of the file's format.
FORMAT = 1


class _Tagged(Field):
    """An object whose field ``class`` names one of several classes; its other fields are the settings."""

    def __init__(self, classes: Mapping[type[nn.Module], Mapping[str, Field]]) -> None:
        super().__init__("an object with a class", lambda v: type(v) is dict and "class" in v, self.data, dict)
        self.classes = classes
        self.names = ", ".join(kind.__name__ for kind in classes)

    def data(self, module: nn.Module, **given: Any) -> dict[str, Any]:
        """Write a module's class and settings; those given are taken in place of the module's own."""
        if type(module) not in self.classes:
            raise TypeError(
                f"save_pretrained can't save a {type(module).__name__}: it must be one of {self.names}; "
                "to save the model without feedback, fold it first (weight_feedback.fold)"
            )
        # A setting and the attribute that keeps it share their name, but for one, whose name a buffer has.
        settings = {
            name: field.write(given[name] if name in given else getattr(module, _ATTRIBUTES.get(name, name)))
            for name, field in self.classes[type(module)].items()
        }
        return {"class": type(module).__name__, **settings}

    def read(self, value: Any, where: str) -> tuple[type[nn.Module], dict[str, Any]]:
        """Return the class, and the settings checked."""
        settings = super().read(value, where)
        name = settings.pop("class")
        for kind, fields in self.classes.items():
            if kind.__name__ == name:
                return kind, Record(fields).read(settings, where)
        raise PretrainedError(f"{where}.class must be one of {self.names}, got {reprlib.repr(name)}")


_ATTRIBUTES = {"fill": "fill_value"}
_SUMMARY = _Tagged({kind: kind.settings for kind in SUMMARIES.values()})
_OWN: dict[str, Field] = {
    "reads": ListOf(Record({"name": TEXT, "module": TEXT, "attribute": TEXT})),
    "summary": _SUMMARY,
    "detach": FLAG,
}
_VECTOR: dict[str, Field] = {"out_features": SIZE}
_SIGNAL = _Tagged(
    {
        OwnWeights: _OWN,
        Permuted: {**_OWN, "seed": INTEGER},
        Zeros: _VECTOR,
        Received: _VECTOR,
        Constant: _VECTOR,
        Noise: {**_VECTOR, "padding": INDEX, "redraw": FLAG, "seed": INTEGER},
        Clock: {**_VECTOR, "max_period": NUMBER, "amplitude": NUMBER},
        Stale: {"signal": INDEX, "lag": SIZE},
    }
)
# A signal is named by its place in the list of signals, where it stands after the one that it wraps. So a signal
# that several layers hear stands there once.
_FILE = Record(
    {
        "format": INTEGER,
        "layers": ListOf(Record({"name": TEXT, "conditioning": choice(Conditioning), "signal": INDEX})),
        "signals": ListOf(_SIGNAL),
        "aliases": ListOf(Record({"name": TEXT, "same_as": TEXT})),
        "weights": Record({"bytes": INDEX, "sha256": TEXT}),
        "sha256": TEXT,
    }
)


def read_config(value: Any, where: str) -> dict[str, Any]:
    """Check all that a configuration file holds, each field by its kind.

    Args:
        value: the JSON value of the whole file.
        where: the file, for messages.

    Returns:
        Its fields, ready for `build`.

    Raises:
        PretrainedError: it is of an unknown format, or a field is missing, unknown or of the wrong kind.
    """
    version = value.get("format") if type(value) is dict else None
    if type(version) is int and version > FORMAT:
        raise PretrainedError(
            f"{where}: format must be {FORMAT}, got {version}: made by a newer version; upgrade weight_feedback"
        )
    config: dict[str, Any] = _FILE.read(value, f"{where}:")
    if version != FORMAT:
        raise PretrainedError(f"{where}: format must be {FORMAT}, got {version}")
    return config


def describe(model: nn.Module) -> dict[str, Any]:
    """Write the feedback of a model as data.

    Args:
        model: a module with or without feedback.

    Returns:
        JSON values: ``layers``, in the order of `feedback_layers`, and the ``signals`` that they hear.

    Raises:
        TypeError: a signal or summary is of a class that can't be saved.
        ValueError: a read is orphaned (see `weight_feedback.check`).
    """
    refuse_misread(model)
    names = {module: name for name, module in model.named_modules()}
    places: dict[Signal, int] = {}
    signals: list[dict[str, Any]] = []

    def place(signal: Signal) -> int:
        if signal not in places:
            given: dict[str, Any] = {"signal": place(signal.signal)} if type(signal) is Stale else {}
            if isinstance(signal, OwnWeights):
                given["reads"] = [
                    {"name": read.name, "module": names[read.module], "attribute": read.attribute}
                    for read in signal.reads
                ]
            signals.append(_SIGNAL.data(signal, **given))
            places[signal] = len(signals) - 1
        return places[signal]

    layers = [
        {"name": name, "conditioning": layer.conditioning, "signal": place(layer.signal)}
        for name, layer in feedback_layers(model).items()
    ]
    return {"layers": layers, "signals": signals}


def build(model: nn.Module, config: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> None:
    """Give a model the feedback that was described, in place; no weight of the model is changed.

    Args:
        model: a module without feedback.
        config: from `read_config`.
        state: the whole ``state_dict`` that is to be loaded later; it says how large signals are, and their types.
        where: the file, for messages.

    Raises:
        PretrainedError: the description doesn't suit the model, which may have a part of the feedback then.
    """
    with blame(where):
        refuse_sharded(model)
        names = Names(model)
    for i, layer in enumerate(config["layers"]):
        with blame(f"{where}: layers[{i}]"):
            # Silent at first: all V must be there before signals are made, which may read them.
            k = _saved(state, f"{_prefix(layer)}feedback_weight").shape[-1]
            attach_silently(names, layer["name"], k, layer["conditioning"])
    settle(model)
    layers = feedback_layers(model)
    builder = _Builder(model, config["signals"], state, where)
    for i, layer in enumerate(config["layers"]):
        with blame(f"{where}: layers[{i}].signal"):
            target = layers[layer["name"]]
            k = target.feedback_weight.shape[-1]
            signal = builder.signal(layer["signal"], k, f"{_prefix(layer)}signal.", target.weight.device)
            _check_size("out_features", signal.out_features, k)
            target.signal = signal
    with blame(where):
        refuse_misread(model)


class _Builder:
    """Makes each signal once; what a signal keeps in the ``state_dict`` is loaded later."""

    def __init__(self, model: nn.Module, signals: Sequence[Any], state: Mapping[str, Tensor], where: str) -> None:
        self.model, self.signals, self.state, self.where = model, signals, state, where
        self.built: dict[int, Signal] = {}

    def signal(self, place: int, k: int, key: str, device: torch.device) -> Signal:
        """Return the signal at a place of the list, of ``k`` numbers, whose tensors are saved under ``key``."""
        if place >= len(self.signals):
            raise ValueError(f"must be a place in the list of {len(self.signals)} signals, got {place}")
        if place not in self.built:
            kind, settings = self.signals[place]
            with blame(f"{self.where}: signals[{place}]"):
                if issubclass(kind, OwnWeights):
                    self.built[place] = self._own_weights(kind, k, **settings)
                elif kind is Stale:
                    self.built[place] = self._stale(place, k, key, device, **settings)
                else:
                    self.built[place] = self._vector(kind, k, key, device, **settings)
        return self.built[place]

    # Sizes are compared before anything is made of that size.

    def _stale(self, place: int, k: int, key: str, device: torch.device, signal: int, lag: int) -> Stale:
        _check_size("lag", lag, len(_saved(self.state, f"{key}ring")) - 1)
        if signal >= place:
            raise ValueError(f"signal must be a place before {place}, got {signal}")
        return Stale(self.signal(signal, k, f"{key}signal.", device), lag)

    def _vector(
        self, kind: Any, k: int, key: str, device: torch.device, out_features: int, **settings: Any
    ) -> Signal:
        _check_size("out_features", out_features, k)
        dtype = _saved(self.state, f"{key}z").dtype
        if kind in (Constant, Noise):
            return cast(Signal, kind(torch.zeros(k, device=device, dtype=dtype), **settings))
        return cast(Signal, kind(k, device=device, dtype=dtype, **settings))

    def _own_weights(self, kind: Any, k: int, reads: Sequence[Any], summary: Any, **settings: Any) -> OwnWeights:
        summary_class, summary_settings = summary
        _check_size("summary.out_features", summary_settings.get("out_features", k), k)
        true_reads = [Read(self.model.get_submodule(r["module"]), r["attribute"], r["name"]) for r in reads]
        # A calibrated factor is loaded. The weights that are here now needn't do to calibrate by: they may be zero.
        calibrated = summary_settings.get("scale") == "calibrated"
        bound_to = _stand_ins(true_reads) if calibrated else true_reads
        signal = cast(OwnWeights, kind(bound_to, summary_class(**summary_settings), **settings))
        signal.reads = tuple(true_reads)
        return signal


def _stand_ins(reads: Sequence[Read]) -> list[Read]:
    """Return reads of random tensors with the names, shapes, devices and types of those that are read."""
    module = nn.Module()
    for i, read in enumerate(reads):
        tensor = read.tensor()
        drawn = torch.randn(tensor.shape, generator=stream(0, "stand-in", i), device="cpu")
        module.register_buffer(f"weight_{i}", drawn.to(tensor))
    return [Read(module, f"weight_{i}", read.name) for i, read in enumerate(reads)]


def _prefix(layer: Mapping[str, Any]) -> str:
    return f"{layer['name']}." if layer["name"] else ""


def _saved(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state or not state[key].dim():
        raise ValueError(f"{key} must be among the saved tensors, with at least one dimension; it isn't")
    return state[key]


def _check_size(field: str, size: int, saved: int) -> None:
    if size != saved:
        raise ValueError(f"{field} must be {saved}, as in the saved tensors, got {size}")


@contextmanager
def blame(where: str) -> Iterator[None]:
    """Turn any error of a block into a `PretrainedError` that says where it arose.

    Args:
        where: the file and the field.

    Raises:
        PretrainedError: the block raised an error.
    """
    try:
        yield
    except PretrainedError:
        raise
    except Exception as error:
        # The text of a KeyError is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise PretrainedError(f"{where}: {message}") from error
