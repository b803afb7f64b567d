"""What the signal looks like to the layer that hears it: is it audible, and is it news?"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from weight_feedback.attach import feedback_layers
from weight_feedback.layers import FeedbackLayer
from weight_feedback.selection import takes_means
from weight_feedback.sharding import check_unsharded
from weight_feedback.signals import Stale

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

#: The limits behind the words of a conclusion; each is compared with the field that it names.
BARELY_AUDIBLE = 0.01  #: a smaller ``share``
DROWNING = 0.5  #: a larger ``share``
NO_NEWS = 0.9  #: a larger ``explained``
STANDING_STILL = 1e-4  #: a smaller ``change``

HOW_TO_GET_Z0 = """news?     unknown without the initial z; keep it before training, and pass z0=z0:
          z0 = {name: s().clone() for name, s in wf.signals(model).items()}
"""

#: One vector for each layer's name, or one for all layers.
Heard = Mapping[str, Tensor] | Tensor | None

# Okabe and Ito's colours: distinct for colour-blind readers, and in grey.
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#999999"


@dataclass(frozen=True)
class LayerDiagnosis:
    """What one feedback layer hears, how loud it is there, and how new. None stands for what isn't known.

    "Added" is what ``z`` adds to the layer's output ``y``: ``V·z`` for ``concat``, ``S·z·y + V·z`` for ``film``;
    the "rest" is ``y``, the output without feedback. Both are measured over all entries (examples, positions,
    channels) of all calls of one forward.

    Attributes:
        kind: class of the layer.
        conditioning: how ``z`` acts, ``"concat"`` or ``"film"``.
        signal: class of the signal.
        z: what is heard, ``k`` numbers.
        z0: what was heard at initialisation, if it was given.
        k: size of ``z``.
        norm: Euclidean norm of ``z``, padding included.
        rms: root mean square of ``z``, padding included.
        padding: how many entries at the end of ``z`` are constant fill.
        dead: share of the entries of ``z``, without padding, that are exactly 0 or not finite.
        v_is_zero: whether all of ``V`` (for ``film`` all of ``[S; V]``) is exactly 0.
        calls: how often the forward called the layer, calls with an empty input not counted.
        added: root mean square of what ``z`` adds.
        rest: root mean square of the rest.
        share: ``added / (added + rest)``; 0 where nothing is added.
        saturated: share of the output channels whose sign ``z`` decides: with ``z`` all the channel's outputs are
            above 0, or all are below 0; without ``z`` that doesn't hold with the same sign.
        normalised_by: name of the normalisation of each channel that directly takes what the layer returns, at
            every call, with the layer's channels as its own; the first one's, if calls differ.
        drift: ``‖z − z0‖ / ‖z0‖``, here and in what follows without padding.
        explained: share of ``‖z‖²`` that lies along ``z0``, which is the squared cosine between the two: 1 where
            ``z`` is the initial ``z`` rescaled, 0 where one of them is zero.
        change: ``‖z − previous‖ / ‖previous‖``, divided by the number of steps between.
    """

    kind: str
    conditioning: str
    signal: str
    z: tuple[float, ...]
    z0: tuple[float, ...] | None
    k: int
    norm: float
    rms: float
    padding: int
    dead: float
    v_is_zero: bool
    calls: int
    added: float | None
    rest: float | None
    share: float | None
    saturated: float | None
    normalised_by: str | None
    drift: float | None
    explained: float | None
    change: float | None

    @property
    def conclusion(self) -> str:
        """One plain sentence; its limits are this module's constants."""
        if lost := sum(not math.isfinite(entry) for entry in self.z):
            return f"broken: {lost} of the {self.k} entries of z are not finite, so what it reads has diverged."
        if self.share is None:
            return "never called: this forward doesn't use the layer, so nobody hears its z."
        if not math.isfinite(self.share):
            return "broken: z is finite but the layer's output isn't, so its input, its weights or V have diverged."
        loud = "drowns out the features" if self.share > DROWNING else "audible"
        word = "barely audible" if self.share < BARELY_AUDIBLE else loud
        verdict = f"{word}: z makes up {self.share:.1%} of what the layer computes"
        if self.share == 0:
            verdict = "silent: V is zero" if self.v_is_zero else "silent: z adds nothing"
        caveats = "; and ".join(self._caveats())
        return f"{verdict}; but {caveats}." if caveats else f"{verdict}."

    def _caveats(self) -> Iterator[str]:
        if self.normalised_by is not None and self.share:
            what = "all that z adds" if self.conditioning == "concat" else "z's shift and the size of its scale"
            yield f"in training {self.normalised_by!r}, the normalisation that comes next, cancels {what}"
        if (self.explained or 0) > NO_NEWS:
            yield f"z is hardly news, as {self.explained:.1%} of it is the initial z"
        if self.change is not None and self.change < STANDING_STILL:
            yield f"z stands still, as it changes by {self.change:.2g} of its norm a step"

    def __str__(self) -> str:
        """Several lines of text, without the layer's name; the last is the conclusion."""
        text = f"z         {self.k} numbers, {self.padding} of them padding\n"
        text += f"          norm {self.norm:.3g}, rms {self.rms:.3g}, {self.dead:.0%} dead\n"
        if self.calls:
            text += f"audible?  share {self.share:.3g}: z adds {self.added:.3g} (rms) to {self.rest:.3g}\n"
            text += f"          z decides the sign of {self.saturated:.0%} of the channels\n"
        if self.drift is None:
            text += HOW_TO_GET_Z0
        else:
            text += f"news?     {self.explained:.1%} of z is the initial z; drift {self.drift:.3g} of its norm\n"
        if self.change is not None:
            text += f"          z changes by {self.change:.3g} of its norm a step\n"
        return f"{text}=> {self.conclusion}"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found; printing it gives readable text.

    Attributes:
        layers: name of each feedback layer to what was found there, in the model's order.
    """

    layers: Mapping[str, LayerDiagnosis]

    def __repr__(self) -> str:
        """Readable text, one block a layer."""
        return "\n\n".join(
            f"{name or 'the model itself'}: {layer.kind} ({layer.conditioning}) hears {layer.signal}\n"
            + textwrap.indent(str(layer), "  ")
            for name, layer in self.layers.items()
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return layer to field to value, fit for JSON: tuples are lists, numbers that aren't finite are None."""
        return {
            name: {field: _plain(value) for field, value in vars(layer).items()} | {"conclusion": layer.conclusion}
            for name, layer in self.layers.items()
        }

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw a row for each layer: how loud ``z`` is beside the rest, and its entries.

        Args:
            path: where to save the picture too; the suffix chooses the format.

        Returns:
            The figure, which isn't registered with pyplot.

        Raises:
            ImportError: matplotlib isn't installed.
        """
        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("Diagnosis.plot needs matplotlib: pip install matplotlib") from error
        # Names of layers are text, whatever they contain.
        style = dict.fromkeys(["axes.spines.top", "axes.spines.right", "text.parse_math", "text.usetex"], False)
        with mpl.rc_context(cast(Any, style)):
            figure = Figure(figsize=(10, 2.7 * len(self.layers)), layout="constrained")
            rows = figure.subfigures(len(self.layers), 1, squeeze=False)[:, 0]
            for row, (name, layer) in zip(rows, self.layers.items(), strict=True):
                _draw(row, name, layer)
            if path is not None:
                figure.savefig(path, dpi=160)
        return figure


def diagnose(
    model: nn.Module, *inputs: Any, z0: Heard = None, previous: Heard = None, steps: int = 1, **kwargs: Any
) -> Diagnosis:
    """Tell for each feedback layer whether ``z`` is audible there, and whether it is news.

    Runs one forward without gradients, in the mode that the model is in, and leaves no trace: buffers such as
    running statistics, gradients, hooks and PyTorch's random states are as before.

    Args:
        model: a module with feedback layers.
        *inputs: a batch, as the model's forward takes it.
        z0: what the layers heard at initialisation, shape ``[k]`` each: one by name, or one for all layers.
        previous: what they heard at an earlier moment, in the same form.
        steps: optimiser steps between ``previous`` and now.
        **kwargs: passed on to the model's forward, so ``**batch`` works.

    Returns:
        What was found, by the layer's name.

    Raises:
        ValueError: the model has no feedback layers or is sharded, a ``z`` has the wrong shape, or ``steps`` is
            below 1.
        KeyError: ``z0`` or ``previous`` names a layer that has no feedback.
    """
    check_unsharded("diagnose", model)
    layers = feedback_layers(model)
    if not layers:
        raise ValueError("diagnose: the model has no feedback layers; give it one by weight_feedback.attach")
    if steps < 1:
        raise ValueError(f"diagnose: steps must be at least 1, got {steps}")
    start, before = _by_name("z0", z0, layers), _by_name("previous", previous, layers)
    ears = _listen(model, layers, inputs, kwargs)
    return Diagnosis({name: _examine(ear, start.get(name), before.get(name), steps) for name, ear in ears.items()})


def _by_name(what: str, z: Heard, layers: Mapping[str, FeedbackLayer]) -> dict[str, Tensor]:
    given = z if isinstance(z, Mapping) else {} if z is None else dict.fromkeys(layers, z)
    for name, vector in given.items():
        if name not in layers:
            raise KeyError(f"diagnose: {what} names {name!r}, which has no feedback; there is {', '.join(layers)}")
        if vector.shape != ((k := layers[name].signal.out_features),):
            raise ValueError(f"diagnose: {what} of {name!r} must have shape [{k}], got {list(vector.shape)}")
    return {name: _vector(vector) for name, vector in given.items()}


class _Ear:
    """What one feedback layer hears and says during one forward."""

    def __init__(self, layer: FeedbackLayer) -> None:
        self.layer, self.z = layer, torch.empty(0)
        self.added, self.rest, self.count = 0.0, 0.0, 0  # sums of squares over so many entries
        self.signs: list[Tensor] = []  # of each call, [2, channels]: with z and without
        # With their versions. They are kept, or else their memory might be used again and mistaken for them.
        self.outputs: list[tuple[Tensor, int]] = []
        self.norms: dict[int, str] = {}  # index of an output to the normalisation that takes it

    def hear(self, layer: FeedbackLayer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Measure a call: the layer's forward hook."""
        if output.numel() == 0:
            return
        self.outputs.append((output, output._version))
        rest = _wide(layer._compute(next(iter((*args, *kwargs.values()))), cast(Tensor | None, layer.bias)))
        scale, shift = layer._modulation(self.z)
        channels = (-1, *[1] * layer._trailing)
        added = _wide(shift).reshape(channels).expand_as(rest)
        if scale is not None:
            added = added + (_wide(scale).reshape(channels) - 1) * rest
        self.count += rest.numel()
        # A mean adds up pairwise; a norm doesn't, and is off by 10⁻³ in float32 for 10⁷ entries.
        self.added += rest.numel() * float(added.square().mean())
        self.rest += rest.numel() * float(rest.square().mean())
        self.signs.append(torch.stack([_signs(part, layer._trailing) for part in (rest + added, rest)]))

    def meet(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which of the layer's outputs a normalisation takes: the latter's pre-hook."""
        taken: Tensor = next(iter((*args, *kwargs.values())))
        for index, (output, version) in enumerate(self.outputs):
            one, other = ((x.data_ptr(), x.shape, x.stride()) for x in (taken, output))
            # Not after an operation in place, such as ReLU's; and not with another dimension as channels.
            if one == other and output._version == version and output.dim() == self.layer._trailing + 2:
                self.norms.setdefault(index, name)

    def measured(self) -> dict[str, float | None]:
        """Return how loud ``z`` was over all calls; None where there was none."""
        if not self.outputs:
            return dict.fromkeys(["added", "rest", "share", "saturated"])
        added, rest = math.sqrt(self.added / self.count), math.sqrt(self.rest / self.count)
        share = _ratio(added, added + rest) if math.isfinite(rest) else math.nan
        signs = torch.stack(self.signs)
        whole, without = torch.where((signs == signs[0]).all(0), signs[0], 0)
        saturated = float(((whole != 0) & (whole != without)).float().mean())
        return {"added": added, "rest": rest, "share": share, "saturated": saturated}


def _listen(
    model: nn.Module, layers: Mapping[str, FeedbackLayer], inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, _Ear]:
    ears = {name: _Ear(layer) for name, layer in layers.items()}
    norms = {name: module for name, module in model.named_modules() if takes_means(module)}

    def read(*_: object) -> None:
        # Inside the forward, because a weight that is computed when read may write to buffers.
        for ear in ears.values():
            ear.z = ear.layer.signal()

    # The forward writes to copies of the buffers. Signals never write, and may be large.
    signals = tuple(f"{name}.signal.".lstrip(".") for name in layers)
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # compiled code wouldn't call the hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))  # its tensors don't count their versions
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in {tensor.device for tensor in (*model.parameters(), *model.buffers())}:
            if device.type not in ("cpu", "meta"):
                stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
        stack.callback(model.register_forward_pre_hook(read).remove)
        for ear in ears.values():
            stack.callback(ear.layer.register_forward_hook(ear.hear, with_kwargs=True).remove)
            for name, norm in norms.items():
                hook = functools.partial(ear.meet, name)
                stack.callback(norm.register_forward_pre_hook(hook, with_kwargs=True).remove)
        buffers = {name: b.clone() for name, b in model.named_buffers() if not name.startswith(signals)}
        functional_call(model, buffers, inputs, kwargs)
    return ears


def _examine(ear: _Ear, z0: Tensor | None, previous: Tensor | None, steps: int) -> LayerDiagnosis:
    layer, z = ear.layer, _vector(ear.z)
    source = layer.signal
    while isinstance(source, Stale):
        source = source.signal
    padding = int(getattr(getattr(source, "summary", source), "padding", 0))
    heard = z[: (end := len(z) - padding)]
    return LayerDiagnosis(
        kind=type(layer).__name__,
        conditioning=layer.conditioning,
        signal=type(layer.signal).__name__,
        z=tuple(z.tolist()),
        z0=None if z0 is None else tuple(z0.tolist()),
        k=len(z),
        norm=float(z.norm()),
        rms=float(z.norm()) / math.sqrt(len(z)),
        padding=padding,
        dead=float(((heard == 0) | ~heard.isfinite()).double().mean()),
        v_is_zero=not bool(layer.feedback_weight.any()),
        calls=len(ear.outputs),
        **ear.measured(),
        normalised_by=ear.norms[0] if 0 < len(ear.norms) == len(ear.outputs) else None,
        drift=None if z0 is None else _distance(heard, z0[:end]),
        explained=None if z0 is None else _cosine(heard, z0[:end]) ** 2,
        change=None if previous is None else _distance(heard, previous[:end]) / steps,
    )


def _vector(z: Tensor) -> Tensor:
    # On the CPU, because not every device has float64.
    return z.detach().cpu().double()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _signs(output: Tensor, trailing: int) -> Tensor:
    """Sign of each channel, shape ``[channels]``; 0 where it has entries of both signs, or zeros."""
    entries = output.movedim(-1 - trailing, 0).reshape(output.shape[-1 - trailing], -1)
    return (entries > 0).all(1).int() - (entries < 0).all(1).int()


def _distance(z: Tensor, origin: Tensor) -> float:
    return _ratio(float((z - origin).norm()), float(origin.norm()))


def _cosine(z: Tensor, other: Tensor) -> float:
    return min(_ratio(float((z @ other).abs()), float(z.norm() * other.norm())), 1.0)


def _ratio(part: float, whole: float) -> float:
    return 0.0 if part == 0 else part / whole if whole else math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _draw(row: SubFigure, name: str, layer: LayerDiagnosis) -> None:
    title = textwrap.fill(f"{name}: {layer.conclusion}".lstrip(": "), 115)
    row.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    loud, entries = row.subplots(1, 2, width_ratios=(1, 2))
    values = [layer.rest or 0.0, layer.added or 0.0]
    bars = loud.barh(["the rest", "z adds"], [v if math.isfinite(v) else 0.0 for v in values], color=(_GREY, _BLUE))
    loud.bar_label(bars, [f"{v:.3g}" if layer.calls else "never called" for v in values], padding=4)
    loud.set(xlabel="root mean square in the output", xmargin=0.25)
    entries.axhline(0, color="black", linewidth=0.6)
    entries.vlines(range(layer.k), 0, layer.z, color=_BLUE, linewidth=min(3, 200 / layer.k), label="z")
    if layer.z0 is not None:
        entries.plot(range(layer.k), layer.z0, "_", color=_ORANGE, markersize=7, markeredgewidth=2, label="z0")
    if layer.padding:
        entries.axvspan(layer.k - layer.padding - 0.5, layer.k - 0.5, color=_GREY, alpha=0.25, label="padding")
    entries.xaxis.get_major_locator().set_params(integer=True)
    entries.set(xlabel="entry of z", ylabel="value", xlim=(-0.5, layer.k - 0.5))
    entries.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
