"""Feedback layers: the layers that they replace, plus a signal ``z`` and a weight ``V`` for it.

Two kinds of conditioning say how ``z`` acts on the base layer's output ``y = W·x + b``:

- ``concat``: concatenating ``z`` to every example of a batch is a bias that moves with the weights,
  ``[W|V]·[x;z] + b = W·x + (b + V·z)``, and is computed as one;
- ``film``: scale and shift of each output channel, ``(1 + S·z)·y + V·z`` (feature-wise linear modulation, Perez
  et al. 2018, arXiv:1709.07871), with ``S`` stacked on top of ``V`` in ``feedback_weight``.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.forwards import rebind, shared_with_copy
from weight_feedback.restoring import Restoring
from weight_feedback.sharding import beside, here, spread_like
from weight_feedback.signals import Signal, Zeros
from weight_feedback.summaries.base import check_size
from weight_feedback.weights import CopyingValues, current, make_plain, unmoved

Init = Literal["zeros", "default"]
Conditioning = Literal["concat", "film"]


class FeedbackLayer(Restoring):
    """What all feedback layers share: a ``signal``, and a ``feedback_weight`` for it.

    The base's parameters keep their names and shapes. Subclasses say how their base computes with another bias,
    which axis of the weight counts its outputs, and over how many last dimensions of the output a channel extends.

    A checkpoint of the base, without any feedback, loads strictly: ``V`` becomes 0, the signal stays as it is,
    and each layer warns of it. A checkpoint that holds only a part of a layer's feedback is an error.

    Attributes:
        base: the PyTorch class that the layer replaces.
        conditioning: how ``z`` acts: ``"concat"`` or ``"film"``.
        feedback_weight: ``V``, shape ``[out, k]``; for ``film`` ``[S; V]``, shape ``[2·out, k]``.
        signal: what the layer hears.
    """

    base: ClassVar[type[nn.Module]]
    _out_axis: ClassVar[int] = 0
    _trailing: ClassVar[int]
    conditioning: Conditioning
    weight: Tensor
    feedback_weight: nn.Parameter
    signal: Signal

    def add_feedback(self, signal: Signal, init: Init = "zeros", conditioning: Conditioning = "concat") -> Self:
        """Give the layer a signal, and a ``feedback_weight`` for it.

        Args:
            signal: what the layer hears; its size is that of ``V``.
            conditioning: how it acts.
            init: ``"zeros"`` leaves the output as it was, bit for bit; ``"default"`` draws ``V`` uniformly from
                ``±1/√(fan_in + k)``, as PyTorch would for the widened layer.

        Returns:
            The layer itself.

        Raises:
            ValueError: ``init`` or ``conditioning`` is none of those named.
        """
        for field, value, known in (("init", init, Init), ("conditioning", conditioning, Conditioning)):
            if value not in get_args(known):
                raise ValueError(f"{field} must be one of {', '.join(get_args(known))}, got {value!r}")
        self.signal, self.conditioning = signal, conditioning
        weight = self._current("weight")
        rows = weight.shape[self._out_axis] * (2 if conditioning == "film" else 1)
        zeros = here(weight.detach()).new_zeros(rows, signal.out_features)
        self.feedback_weight = nn.Parameter(self._spread(zeros, weight))
        if init == "default":
            self.reset_feedback()
        return self

    def remove_feedback(self) -> None:
        """Become the plain layer that this was, in place: of class ``base``, without signal and ``V``."""
        self._modules.pop("signal", None)
        for name in ("conditioning", "_place", "_assigned"):
            self.__dict__.pop(name, None)
        kind = type(self)
        # A class of PyTorch's own making, such as that of a parametrised layer, stays on top.
        self.__class__ = kind.base if "base" in vars(kind) else rebased(kind, kind.base)  # type: ignore[assignment]
        rebind(self, kind)
        if "feedback_weight" not in self._parameters:
            # A parametrisation or hook computes it. The former goes off the class, which is this layer's own now.
            make_plain(self, "feedback_weight", torch.empty(0), requires_grad=False)
        del self._parameters["feedback_weight"]

    @torch.no_grad()
    def reset_feedback(self) -> None:
        """Draw ``feedback_weight`` uniformly from ``±1/√(fan_in + k)``."""
        weight, v = self._current("weight"), self.feedback_weight
        bound = 1 / math.sqrt(weight.numel() // weight.shape[self._out_axis] + v.shape[1])
        drawn = here(weight.detach()).new_empty(v.shape).uniform_(-bound, bound)
        v.copy_(self._spread(drawn, weight))

    def _spread(self, v: Tensor, weight: Tensor) -> Tensor:
        # A shard of [S; V] would hold the one half of it alone.
        return spread_like(v, weight, self._out_axis if self.conditioning == "concat" else None)

    def _current(self, attribute: str) -> Tensor:
        """Return the weight, bias or V as it is now; nothing is written for that."""
        return cast(Tensor, current(self, attribute))

    def _restore(self, lost: frozenset[str]) -> None:
        # The base's own parameters are for a checkpoint, or for `reset_parameters` of the base, to set.
        if "feedback_weight" in lost:
            self.feedback_weight.zero_()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        """Apply the layer.

        Args:
            input: of the shape that the base takes.

        Returns:
            Of the shape that the base returns.
        """
        layer: nn.Module = self
        if not isinstance(layer, FeedbackLayer):
            # What wrapped this method before the feedback was removed still calls it.
            return cast(Tensor, type(layer).forward(layer, input))
        scale, shift = self._modulation(self.signal())
        bias = cast(Tensor | None, self.bias)
        if scale is None:
            return self._compute(input, shift if bias is None else bias + shift)
        scale, shift = (part.reshape(-1, *[1] * self._trailing) for part in (scale, shift))
        return scale * self._compute(input, bias) + shift

    def _modulation(self, z: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the factor of each channel, ``1 + S·z`` (None for ``concat``), and its shift ``V·z``."""
        # Flat, since a DTensor makes one row of it.
        heard = F.linear(beside(z, self.feedback_weight), self.feedback_weight).flatten()
        if self.conditioning == "concat":
            return None, heard
        scale, shift = heard.chunk(2)
        return 1 + scale, shift

    def _compute(self, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        """Apply the base layer with another bias."""
        raise NotImplementedError

    @torch.no_grad()
    def plain_parameters(self, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the plain layer that computes the same.

        Args:
            z: heard instead of the signal, shape ``[k]``; default: what the signal says now.

        Returns:
            The weight, which is the layer's own for ``concat``, and the bias, shape ``[out]``.

        Raises:
            ValueError: ``z`` has another shape.
        """
        if z is not None and z.shape != (k := self.feedback_weight.shape[1],):
            raise ValueError(f"fold: z must have shape [{k}], got {list(z.shape)}")
        scale, shift = self._modulation(self.signal() if z is None else z.to(self.feedback_weight))
        weight, bias = self._current("weight"), cast(Tensor | None, current(self, "bias"))
        if scale is None:
            return weight, shift if bias is None else bias + shift
        sizes = [-1 if axis == self._out_axis else 1 for axis in range(weight.dim())]
        return scale.reshape(sizes) * weight, shift if bias is None else scale * bias + shift

    def fold(self, z: Tensor | None = None) -> nn.Module:
        """Return the plain layer that computes the same, with ``b + V·z`` as its bias.

        Outside autocast its output equals this layer's: bit for bit for ``concat``, to rounding for ``film``, whose
        scale goes into the weight. It shares no memory with this layer.

        Args:
            z: heard instead of the signal, shape ``[k]``; default: what the signal says now.

        Returns:
            A layer of class ``base``, always with a bias.

        Raises:
            ValueError: ``z`` has another shape.
        """
        return fold_layers(self, {"": self}, {"": z})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load; without feedback in the checkpoint ``V`` becomes 0, and with a part of it there is an error."""
        v, signal = f"{prefix}feedback_weight", f"{prefix}signal."
        there = {key for key in state_dict if key == v or key.startswith(signal)}
        held = {v: torch.zeros_like(self.feedback_weight)}
        ours = [value for key, value in state_dict.items() if key.startswith(prefix) and key not in there]
        like = next((value for value in ours if isinstance(value, Tensor) and value.is_floating_point()), None)
        if like is not None and local_metadata.get("assign_to_params_buffers", False):
            # The base's tensors take the place of those here; what has no value in the checkpoint goes with them.
            held[v] = like.new_zeros(self.feedback_weight.shape)
            for module in self.signal.modules():
                if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
                    module.to_empty(device=like.device, recurse=False)
        held.update(self.signal.state_dict(prefix=signal, keep_vars=True))
        name = repr(prefix[:-1]) if prefix else "this layer"
        if there and (missing := [key for key in held if key not in there]):
            error_msgs.append(
                f"the checkpoint has a part of the feedback of {name}: it lacks {', '.join(missing)}; "
                "load all of it, or none and start with V = 0"
            )
        elif not there and any(key.startswith(prefix) for key in state_dict):
            # PyTorch hands over a copy that this layer's signal will load from in its turn.
            state_dict.update(held)
            warnings.warn(
                f"the checkpoint has no feedback for {name}: its feedback_weight is set to 0, so that it hears "
                "nothing for now, and its signal stays as it is",
                UserWarning,
                stacklevel=2,
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Add the size of ``z`` and how it acts to the base's own."""
        added = f"signal_features={self.feedback_weight.shape[1]}, conditioning={self.conditioning!r}"
        return f"{super().extra_repr()}, {added}".removeprefix(", ")


def rebased(kind: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """Return a class like one that PyTorch made on top of another, with another class beneath.

    Args:
        kind: a class with a single base, such as `torch.nn.utils.parametrize` makes for a layer.
        base: to be beneath.
    """
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{base.__name__}", (base,), own)


def fold_layers(model: nn.Module, layers: Mapping[str, FeedbackLayer], z: Mapping[str, Tensor | None]) -> nn.Module:
    """Return a copy of a module in which feedback layers are plain.

    Args:
        model: the module.
        layers: name to feedback layer, for all of the module's feedback layers.
        z: by the same names, heard instead of the signal; where missing or None, what the signal says now.

    Returns:
        The copy, which shares no memory with the module.

    Raises:
        ValueError: a ``z`` has the wrong shape, a module's forward was replaced by a function, or a module's own
            ``__deepcopy__`` doesn't copy a layer.
    """
    with unmoved(model):
        parts = {name: layer.plain_parameters(z.get(name)) for name, layer in layers.items()}
    # deepcopy takes from its memo what it finds there: so signals, which may be large, are never copied.
    memo: dict[int, Any] = {id(layer.signal): nn.Identity() for layer in layers.values()}
    with CopyingValues():
        folded = copy.deepcopy(model, memo)
    _refuse_what_was_not_copied(layers, dict(folded.named_modules()))
    if (shared := shared_with_copy(model, folded)) is not None:
        raise ValueError(
            f"fold: the forward of {shared or 'the model itself'!r} was replaced by a function, which runs the "
            "original whatever is folded; undo that first (accelerator.unwrap_model(model, "
            "keep_fp32_wrapper=False) for accelerate's)"
        )
    for name, (weight, bias) in parts.items():
        plain = cast(FeedbackLayer, folded.get_submodule(name))
        film = plain.conditioning == "film"
        plain.remove_feedback()
        with torch.enable_grad():  # else what is computed would never require gradients
            trained = {name: current(plain, name) for name in ("weight", "bias")}
        # A parametrisation goes off the layer's class, which `remove_feedback` has made for this layer alone.
        if film:
            make_plain(plain, "weight", weight, cast(Tensor, trained["weight"]).requires_grad)
        like = trained["weight"] if trained["bias"] is None else trained["bias"]
        make_plain(plain, "bias", bias.clone(), cast(Tensor, like).requires_grad)
    return folded


def _refuse_what_was_not_copied(layers: Mapping[str, FeedbackLayer], copied: Mapping[str, nn.Module]) -> None:
    """Refuse a copy that has the original's own layers: they would lose their feedback."""
    for name, layer in layers.items():
        if copied.get(name) is layer:
            raise ValueError(
                f"fold: a copy of the model has the same {name!r}, since the __deepcopy__ of a module around it "
                "returns what it should copy; fold would take the feedback from the model itself"
            )
        if not isinstance(copied.get(name), FeedbackLayer):
            raise ValueError(
                f"fold: a copy of the model has no feedback in {name!r}, since the __deepcopy__ of a module around "
                "it builds a new one"
            )


class FeedbackLinear(FeedbackLayer, nn.Linear):
    """`torch.nn.Linear` with feedback; by concatenation ``y = W·x + b + V·z``.

    Args:
        in_features: size of each input, without ``z``.
        out_features: size of each output.
        signal_features: ``k``, the size of ``z``. The signal is silent (`Zeros`) until ``signal`` is set.
        bias: whether the layer has a bias besides ``V·z``.
        conditioning: how ``z`` acts, ``"concat"`` or ``"film"``.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: ``signal_features`` is smaller than 1, or there is no such conditioning.

    Shape:
        Input ``[*, in_features]``, output ``[*, out_features]``.
    """

    base = nn.Linear
    _trailing = 0

    def __init__(
        self,
        in_features: int,
        out_features: int,
        signal_features: int,
        bias: bool = True,
        conditioning: Conditioning = "concat",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("FeedbackLinear", signal_features)
        nn.Linear.__init__(self, in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.add_feedback(Zeros(signal_features, device=device, dtype=dtype), "default", conditioning)

    @property
    def full_weight(self) -> Tensor:
        """``[W|V]``, shape ``[out_features, in_features + k]``: the weight of the concatenated form."""
        if self.conditioning != "concat":
            raise AttributeError(f"full_weight is that of concatenation; this layer's is {self.conditioning}")
        return torch.cat([self._current("weight"), self._current("feedback_weight")], dim=1)

    def _compute(self, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        return F.linear(input, self.weight, bias)


class _FeedbackConv(FeedbackLayer):
    """The constructor that the convolutions share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        signal_features: int,
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        conditioning: Conditioning = "concat",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size(type(self).__name__, signal_features)
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*sizes, bias=bias, padding_mode=padding_mode, device=device, dtype=dtype)
        self.add_feedback(Zeros(signal_features, device=device, dtype=dtype), "default", conditioning)

    def _compute(self, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        return cast(Tensor, cast(nn.Conv2d, self)._conv_forward(input, self.weight, bias))


class FeedbackConv1d(_FeedbackConv, nn.Conv1d):
    """`torch.nn.Conv1d` with feedback; arguments and errors as for `FeedbackConv2d`.

    Shape:
        Input ``[n, in_channels, l]``, output ``[n, out_channels, l']``, both also without ``n``.
    """

    base = nn.Conv1d
    _trailing = 1


class FeedbackConv2d(_FeedbackConv, nn.Conv2d):
    """`torch.nn.Conv2d` with feedback; by concatenation every position of channel ``o`` gains ``(V·z)[o]``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution.
        signal_features: ``k``, the size of ``z``. The signal is silent (`Zeros`) until ``signal`` is set.
        stride: of the convolution.
        padding: of the input.
        dilation: of the kernel.
        groups: blocks of channels.
        bias: whether the layer has a bias besides ``V·z``.
        padding_mode: as for `torch.nn.Conv2d`.
        conditioning: how ``z`` acts, ``"concat"`` or ``"film"``.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: ``signal_features`` is smaller than 1, or there is no such conditioning.

    Shape:
        Input ``[n, in_channels, h, w]``, output ``[n, out_channels, h', w']``, both also without ``n``.
    """

    base = nn.Conv2d
    _trailing = 2


class FeedbackConv3d(_FeedbackConv, nn.Conv3d):
    """`torch.nn.Conv3d` with feedback; arguments and errors as for `FeedbackConv2d`.

    Shape:
        Input ``[n, in_channels, d, h, w]``, output ``[n, out_channels, d', h', w']``, both also without ``n``.
    """

    base = nn.Conv3d
    _trailing = 3
