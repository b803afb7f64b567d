"""What the signal looks like to the layer that hears it: is it audible, and is it news?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from weight_feedback.attach import feedback_layers
from weight_feedback.integrity import faults, refuse_without_values
from weight_feedback.layers import FeedbackLayer
from weight_feedback.probes import Probe, ratio, run_probed
from weight_feedback.running import Inputs, innermost, same_random_states
from weight_feedback.sharding import check_unsharded
from weight_feedback.signals import Stale
from weight_feedback.weights import unmoved

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

#: The limits behind the words of a conclusion; each is compared with the field that it names.
BARELY_AUDIBLE = 0.01  #: a smaller ``share``
DOMINANT = 0.5  #: a larger ``share``
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
        heard: whether what ``z`` adds is in what the layer returns, by comparison with its output without feedback;
        not
            where other code has replaced the layer's forward. None if ``z`` adds nothing, or isn't finite.
        reached: whether the model's outputs depend on what the layer returns, by their derivatives.
        cancelled: whether they stay the same whatever ``z`` adds, as what follows takes away what it has in common:
            the softmax of an attention does that to its keys, a normalisation of channels to a bias. None where
            derivatives aren't known, or are too coarse.
        normalised_by: name of the normalisation of each channel that directly takes what the layer returns, at
            every call, with the layer's channels as its own; the first one's, if calls differ.
        drift: ``‖z − z0‖ / ‖z0‖``, here and in what follows without padding.
        explained: share of ``‖z‖²`` that lies along ``z0``, which is the squared cosine between the two: 1 where
            ``z`` is the initial ``z`` rescaled, 0 where one of them is zero.
        change: ``‖z − previous‖ / ‖previous‖``, divided by the number of steps between.
        problems: what `weight_feedback.check` finds wrong with the layer without running it.
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
    heard: bool | None
    reached: bool | None
    cancelled: bool | None
    normalised_by: str | None
    drift: float | None
    explained: float | None
    change: float | None
    problems: tuple[str, ...]

    @property
    def conclusion(self) -> str:
        """One plain sentence; its limits are this module's constants."""
        if lost := sum(not math.isfinite(entry) for entry in self.z):
            return f"broken: {lost} of the {self.k} entries of z are not finite, so what it reads has diverged."
        if self.share is None:
            return "never called: this forward doesn't use the layer, so nobody hears its z."
        if self.problems:
            return f"wrong: {'; and '.join(self.problems)}."
        if self.heard is False:
            return "not heard: what z adds isn't in what the layer returns, so its forward was replaced."
        if not math.isfinite(self.share):
            return "broken: z is finite but the layer's output isn't, so its input, its weights or V have diverged."
        caveats = "; and ".join(self._caveats())
        verdict = self._verdict(self.share)
        return f"{verdict}; but {caveats}." if caveats else f"{verdict}."

    def _verdict(self, share: float) -> str:
        if share == 0:
            return "silent: V is zero" if self.v_is_zero else "silent: z adds nothing"
        part = f"z makes up {share:.1%} of what the layer computes"
        if self.cancelled and self.normalised_by is not None:
            return f"cancelled: {part}"
        if self.cancelled:
            return (
                f"cancelled: {part}, but what follows takes it away, as a softmax does with what all keys of an "
                "attention have in common, or a normalisation with a channel's mean"
            )
        if self.reached is False:
            return f"without effect: {part}, on which the outputs don't depend for now: something after it is zero"
        loud = "outweighs the features" if share > DOMINANT else "audible"
        return f"{'barely audible' if share < BARELY_AUDIBLE else loud}: {part}"

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

    Runs one forward, in the mode that the model is in, and one backward pass, and leaves no trace: buffers such as
    running statistics, gradients, hooks and the random states of PyTorch, NumPy and Python are as before.

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
        ValueError: the model has no feedback layers, is sharded or has no values yet, a ``z`` has the wrong shape,
            or ``steps`` is below 1.
        KeyError: ``z0`` or ``previous`` names a layer that has no feedback.
    """
    check_unsharded("diagnose", model)
    layers = feedback_layers(model)
    if not layers:
        raise ValueError("diagnose: the model has no feedback layers; give it one by weight_feedback.attach")
    if steps < 1:
        raise ValueError(f"diagnose: steps must be at least 1, got {steps}")
    start, before = _by_name("z0", z0, layers), _by_name("previous", previous, layers)
    refuse_without_values("diagnose", model)
    with unmoved(model), same_random_states(model):  # looking at weights that are computed may run their code
        wrong = {name: tuple(sentences) for name, sentences in faults(model).items()}
        probes = {name: Probe(layer) for name, layer in layers.items()}
        differentiated = run_probed(innermost(model), probes, Inputs(inputs, kwargs))
        return Diagnosis(
            {
                name: _examine(probe, start.get(name), before.get(name), steps, differentiated, wrong[name])
                for name, probe in probes.items()
            }
        )


def _by_name(what: str, z: Heard, layers: Mapping[str, FeedbackLayer]) -> dict[str, Tensor]:
    given = z if isinstance(z, Mapping) else {} if z is None else dict.fromkeys(layers, z)
    for name, vector in given.items():
        if name not in layers:
            raise KeyError(f"diagnose: {what} names {name!r}, which has no feedback; there is {', '.join(layers)}")
        if vector.shape != ((k := layers[name].signal.out_features),):
            raise ValueError(f"diagnose: {what} of {name!r} must have shape [{k}], got {list(vector.shape)}")
    return {name: _vector(vector) for name, vector in given.items()}


def _examine(
    probe: Probe,
    z0: Tensor | None,
    previous: Tensor | None,
    steps: int,
    differentiated: bool,
    wrong: tuple[str, ...],
) -> LayerDiagnosis:
    layer, z = probe.layer, _vector(probe.z)
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
        calls=len(probe.outputs),
        **probe.measured(),
        heard=probe.is_heard,
        **probe.reach(differentiated),
        normalised_by=probe.norms[0] if 0 < len(probe.norms) == len(probe.outputs) else None,
        drift=None if z0 is None else _distance(heard, z0[:end]),
        explained=None if z0 is None else _cosine(heard, z0[:end]) ** 2,
        change=None if previous is None else _distance(heard, previous[:end]) / steps,
        problems=wrong,
    )


def _vector(z: Tensor) -> Tensor:
    # On the CPU, because not every device has float64.
    return z.detach().cpu().double()


def _distance(z: Tensor, origin: Tensor) -> float:
    return ratio(float((z - origin).norm()), float(origin.norm()))


def _cosine(z: Tensor, other: Tensor) -> float:
    return min(ratio(float((z @ other).abs()), float(z.norm() * other.norm())), 1.0)


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
