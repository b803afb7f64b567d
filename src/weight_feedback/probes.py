"""What a forward and a backward pass tell of a feedback layer: what ``z`` adds there, and whether it gets out."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from weight_feedback.attach import feedback_layers
from weight_feedback.layers import FeedbackLayer
from weight_feedback.running import Inputs, aside, instead, strided, tensors_in
from weight_feedback.selection import takes_means
from weight_feedback.streams import stream
from weight_feedback.weights import still

#: Derivatives whose sum is less than this part of the sum of their sizes cancel.
CANCELLED = 1e-5


class Probe:
    """What one feedback layer hears, and what it makes of that, during one forward."""

    def __init__(self, layer: FeedbackLayer) -> None:
        self.layer, self.z = layer, torch.empty(0)
        self.added, self.rest, self.count = 0.0, 0.0, 0  # sums of squares over so many entries
        self.signs: list[Tensor] = []  # of each call, [2, channels]: with z and without
        # How much of what z should add is there in what the layer returns, times what it should add, squared.
        self.there = 0.0
        # With their versions. They are kept, or else their memory might be used again and mistaken for them.
        self.outputs: list[tuple[Tensor, int]] = []
        self.norms: dict[int, str] = {}  # index of an output to the normalisation that takes it
        # What the model returns, differentiated by a shift and by a scale of each channel: sums over all entries of
        # the derivatives, and of their sizes.
        self.derivatives: dict[str, tuple[Tensor, Tensor]] = {}
        self.has_graph = False
        self.hooks: list[RemovableHandle] = []

    def run(self, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Call the layer's forward, and measure."""
        output = forward(*args, **kwargs)
        if output._is_view():
            output = output.clone()  # a view that is written to gets another history, without the hook below
        if output.numel():
            with torch.no_grad(), still(self.layer):
                rest = self._measure(next(iter((*args, *kwargs.values()))), output.detach())
            self.outputs.append((output, _version(output)))
            if output.requires_grad:
                self.has_graph = True
                by = {"shift": None} if self.layer.conditioning == "concat" else {"shift": None, "scale": rest}
                self.hooks.append(output.register_hook(functools.partial(self._differentiate, by)))
        return output

    def unhook(self) -> None:
        """Let go of the graph: a hook holds this object, which holds the outputs, and Python sees no such cycle."""
        for hook in self.hooks:
            hook.remove()

    def _measure(self, entered: Tensor, output: Tensor) -> Tensor:
        """Add up what z adds to one output and what is there without it; return the latter."""
        layer = self.layer
        rest = _wide(layer._compute(entered, cast(Tensor | None, layer.bias)))
        scale, shift = layer._modulation(self.z)
        channels = (-1, *[1] * layer._trailing)
        added = _wide(shift).reshape(channels).expand_as(rest)
        if scale is not None:
            added = added + (_wide(scale).reshape(channels) - 1) * rest
        self.count += rest.numel()
        # A mean adds up pairwise; a norm doesn't, and is off by 10⁻³ in float32 for 10⁷ entries.
        self.added += rest.numel() * float(added.square().mean())
        self.rest += rest.numel() * float(rest.square().mean())
        self.there += rest.numel() * float(((_wide(output) - rest) * added).mean())
        self.signs.append(torch.stack([_signs(part, layer._trailing) for part in (rest + added, rest)]))
        return rest

    @torch.no_grad()
    def _differentiate(self, by: Mapping[str, Tensor | None], derivative: Tensor | None) -> None:
        # Too coarse to tell what cancels from what is small; or an operation after it, such as a quantised one, has
        # no derivative.
        if derivative is None or torch.finfo(derivative.dtype).eps > 1e-6:
            self.has_graph = False
            return
        for kind, factor in by.items():
            terms = _wide(derivative) if factor is None else _wide(derivative) * factor
            entries = _by_channel(terms, self.layer._trailing).double()
            net, size = entries.sum(1), entries.abs().sum(1)
            if kind in self.derivatives:
                net, size = net + self.derivatives[kind][0], size + self.derivatives[kind][1]
            self.derivatives[kind] = (net, size)

    @property
    def is_heard(self) -> bool | None:
        """Whether what z should add is in what the layer returns; None where that is nothing, or not finite."""
        whole = self.added
        return (
            self.there > whole / 2 if self.outputs and 0 < whole < math.inf and math.isfinite(self.there) else None
        )

    def reach(self, differentiated: bool) -> dict[str, bool | None]:
        """Return whether the model's outputs depend on the layer's, and whether they do not on what z can add."""
        if not self.outputs or not self.has_graph or not differentiated:
            return {"reached": None, "cancelled": None}
        sizes = {kind: float(size.norm()) for kind, (_, size) in self.derivatives.items()}
        if not any(sizes.values()):
            return {"reached": False, "cancelled": None}
        nets = {kind: float(net.norm()) for kind, (net, _) in self.derivatives.items()}
        return {"reached": True, "cancelled": all(nets[kind] <= CANCELLED * size for kind, size in sizes.items())}

    def meet(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which of the layer's outputs a normalisation takes: the latter's pre-hook."""
        taken: Tensor = next(iter((*args, *kwargs.values())))
        for index, (output, version) in enumerate(self.outputs):
            one, other = ((x.data_ptr(), x.shape, x.stride()) for x in (taken, output))
            # Not after an operation in place, such as ReLU's; and not with another dimension as channels.
            if one == other and _version(output) == version and output.dim() == self.layer._trailing + 2:
                self.norms.setdefault(index, name)

    def measured(self) -> dict[str, Any]:
        """Return how loud ``z`` was over all calls; None where there was none."""
        if not self.outputs:
            return dict.fromkeys(["added", "rest", "share", "saturated"])
        added, rest = math.sqrt(self.added / self.count), math.sqrt(self.rest / self.count)
        if self.is_heard is False:
            return {"added": 0.0, "rest": rest, "share": 0.0, "saturated": 0.0}
        share = ratio(added, added + rest) if math.isfinite(rest) else math.nan
        signs = torch.stack(self.signs)
        whole, without = torch.where((signs == signs[0]).all(0), signs[0], 0)
        saturated = float(((whole != 0) & (whole != without)).float().mean())
        return {"added": added, "rest": rest, "share": share, "saturated": saturated}


def run_probed(model: nn.Module, probes: Mapping[str, Probe], inputs: Inputs) -> bool:
    """Run the model once, probe its layers, and differentiate what it returns; return whether that can be done."""
    norms = {name: module for name, module in model.named_modules() if takes_means(module)}
    leaves = {
        f"{name}.feedback_weight".lstrip("."): layer.feedback_weight.detach().requires_grad_()
        for name, layer in feedback_layers(model).items()
        if "feedback_weight" in layer._parameters
    }

    def work() -> bool:
        with torch.no_grad():
            for probe in probes.values():
                probe.z = probe.layer.signal()
        with contextlib.ExitStack() as stack:
            # A model that was built in inference mode has no gradients.
            stack.enter_context(torch.set_grad_enabled(not any(p.is_inference() for p in model.parameters())))
            stack.enter_context(instead({probe.layer: probe.run for probe in probes.values()}))
            for probe in probes.values():
                for name, norm in norms.items():
                    hook = functools.partial(probe.meet, name)
                    stack.callback(norm.register_forward_pre_hook(hook, with_kwargs=True).remove)
            outputs = tensors_in(inputs.run(model))
        ends = [strided(t) if t.is_nested else t for t in outputs if t.requires_grad]
        # All of one sign, so that they cancel only what the model cancels.
        weights = [torch.empty(t.shape, device="cpu").uniform_(0.5, 1.5, generator=stream(0, "ends")) for t in ends]
        try:
            torch.autograd.grad(
                ends, [*leaves.values()], [w.to(t) for w, t in zip(weights, ends, strict=True)], allow_unused=True
            )
        except RuntimeError:  # such as of a checkpoint that runs the forward again by itself
            return False
        return bool(ends)

    try:
        return aside(model, leaves, work)
    finally:
        for probe in probes.values():
            probe.unhook()


def _version(tensor: Tensor) -> int:
    # A model may put its forward under inference mode, whose tensors count none.
    return -1 if tensor.is_inference() else tensor._version


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _by_channel(output: Tensor, trailing: int) -> Tensor:
    """Return a layer's output as a matrix, with a row for each channel."""
    return output.movedim(-1 - trailing, 0).reshape(output.shape[-1 - trailing], -1)


def _signs(output: Tensor, trailing: int) -> Tensor:
    """Sign of each channel, shape ``[channels]``; 0 where it has entries of both signs, or zeros."""
    entries = _by_channel(output, trailing)
    return (entries > 0).all(1).int() - (entries < 0).all(1).int()


def ratio(part: float, whole: float) -> float:
    """Return a part of a whole; 0 if there is no part, infinity if there is no whole.

    Args:
        part: of the whole, or beyond it.
        whole: not negative.
    """
    return 0.0 if part == 0 else part / whole if whole else math.inf
