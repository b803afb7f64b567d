"""Feedback layers: the layers that they replace, plus a signal ``z`` and a weight ``V`` for it.

Concatenating ``z`` to every example of a batch is a bias that moves with the weights,
``[W|V]·[x;z] + b = W·x + (b + V·z)``, and is computed as one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weight_feedback.signals import Signal, Zeros
from weight_feedback.summaries.base import check_size

Init = Literal["zeros", "default"]


class FeedbackLayer(nn.Module):
    """What all feedback layers share: ``feedback_weight`` ``V`` of shape ``[out, k]`` and a ``signal``.

    Conditioning is ``concat``: the layer computes what its base computes with bias ``b + V·z``. The base's
    parameters keep their names and shapes.

    Attributes:
        base: the PyTorch class that the layer replaces.
        feedback_weight: ``V``, shape ``[out, k]``.
        signal: what the layer hears.
    """

    base: ClassVar[type[nn.Module]]
    weight: Tensor
    feedback_weight: nn.Parameter
    signal: Signal

    def add_feedback(self, signal: Signal, init: Init = "zeros") -> Self:
        """Give the layer a signal, and a ``V`` for it.

        Args:
            signal: what the layer hears; its size is that of ``V``.
            init: ``"zeros"`` leaves the output as it was, bit for bit; ``"default"`` draws ``V`` uniformly from
                ``±1/√(fan_in + k)``, as PyTorch would for the widened layer.

        Returns:
            The layer itself.

        Raises:
            ValueError: ``init`` is neither.
        """
        if init not in get_args(Init):
            raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
        self.signal = signal
        self.feedback_weight = nn.Parameter(self.weight.new_zeros(self.weight.shape[0], signal.out_features))
        if init == "default":
            self.reset_feedback()
        return self

    def remove_feedback(self) -> None:
        """Become the plain layer that this was, in place: of class ``base``, without signal and ``V``."""
        self._modules.pop("signal", None)
        self._parameters.pop("feedback_weight", None)
        self.__class__ = self.base  # type: ignore[assignment]

    @torch.no_grad()
    def reset_feedback(self) -> None:
        """Draw ``V`` uniformly from ``±1/√(fan_in + k)``."""
        bound = 1 / math.sqrt(self.weight[0].numel() + self.feedback_weight.shape[1])
        self.feedback_weight.uniform_(-bound, bound)

    def feedback_bias(self, z: Tensor | None = None) -> Tensor:
        """Return the bias that the layer computes with, ``b + V·z``.

        Args:
            z: heard instead of the signal, shape ``[k]``; default: what the signal says now.

        Returns:
            Shape ``[out]``.
        """
        shift = F.linear(self.signal() if z is None else z, self.feedback_weight)
        bias = cast(Tensor | None, self.bias)
        return shift if bias is None else bias + shift

    def fold(self, z: Tensor | None = None) -> nn.Module:
        """Return the plain layer that computes the same, with ``b + V·z`` as its bias.

        Outside autocast its output equals this layer's bit for bit. It shares no memory with this layer.

        Args:
            z: heard instead of the signal, shape ``[k]``; default: what the signal says now.

        Returns:
            A layer of class ``base``, always with a bias.

        Raises:
            ValueError: ``z`` has another shape.
        """
        return fold_layers(self, {"": self}, {"": z})


def fold_layers(model: nn.Module, layers: Mapping[str, FeedbackLayer], z: Mapping[str, Tensor | None]) -> nn.Module:
    """Return a copy of a module in which feedback layers are plain, with ``b + V·z`` as their bias.

    Args:
        model: the module.
        layers: name to feedback layer, for all of the module's feedback layers.
        z: by the same names, heard instead of the signal; where missing or None, what the signal says now.

    Returns:
        The copy, which shares no memory with the module.

    Raises:
        ValueError: a ``z`` has the wrong shape.
    """
    biases = {}
    for name, layer in layers.items():
        heard, k = z.get(name), layer.feedback_weight.shape[1]
        if heard is not None and heard.shape != (k,):
            raise ValueError(f"fold: z must have shape [{k}], got {list(heard.shape)}")
        with torch.no_grad():
            biases[name] = layer.feedback_bias(None if heard is None else heard.to(layer.feedback_weight))
    # deepcopy takes from its memo what it finds there: so signals, which may be large, are never copied.
    memo: dict[int, object] = {id(layer.signal): nn.Identity() for layer in layers.values()}
    folded = copy.deepcopy(model, memo)
    for name, bias in biases.items():
        plain = cast(FeedbackLayer, folded.get_submodule(name))
        like = cast(Tensor, plain.weight if plain.bias is None else plain.bias)
        plain.bias = nn.Parameter(bias.clone(), requires_grad=like.requires_grad)
        plain.remove_feedback()
    return folded


class FeedbackLinear(FeedbackLayer, nn.Linear):
    """`torch.nn.Linear` with feedback: ``y = W·x + b + V·z``.

    Args:
        in_features: size of each input, without ``z``.
        out_features: size of each output.
        signal_features: ``k``, the size of ``z``. The signal is silent (`Zeros`) until ``signal`` is set.
        bias: whether the layer has a bias besides ``V·z``.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: ``signal_features`` is smaller than 1.

    Shape:
        Input ``[*, in_features]``, output ``[*, out_features]``.
    """

    base = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        signal_features: int,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("FeedbackLinear", signal_features)
        nn.Linear.__init__(self, in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.add_feedback(Zeros(signal_features, device=device, dtype=dtype), init="default")

    @property
    def full_weight(self) -> Tensor:
        """``[W|V]``, shape ``[out_features, in_features + k]``: the weight of the concatenated form."""
        return torch.cat([self.weight, self.feedback_weight], dim=1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        """Apply the layer.

        Args:
            input: shape ``[*, in_features]``.

        Returns:
            Shape ``[*, out_features]``.
        """
        return F.linear(input, self.weight, self.feedback_bias())


class FeedbackConv2d(FeedbackLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with feedback: every position of output channel ``o`` gains ``(V·z)[o]``.

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
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: ``signal_features`` is smaller than 1.

    Shape:
        Input ``[n, in_channels, h, w]``, output ``[n, out_channels, h', w']``.
    """

    base = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        signal_features: int,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("FeedbackConv2d", signal_features)
        nn.Conv2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )
        self.add_feedback(Zeros(signal_features, device=device, dtype=dtype), init="default")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name for it
        """Apply the layer.

        Args:
            input: shape ``[n, in_channels, h, w]``.

        Returns:
            Shape ``[n, out_channels, h', w']``.
        """
        return cast(Tensor, self._conv_forward(input, self.weight, self.feedback_bias()))


#: From each class that can be given feedback to the class that has it.
FEEDBACK_LAYERS: dict[type[nn.Module], type[FeedbackLayer]] = {
    layer.base: layer for layer in (FeedbackLinear, FeedbackConv2d)
}
