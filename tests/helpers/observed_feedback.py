"""What truly happens to feedback in a network, found out by trying: change a ``V``, and look at the outputs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

import weight_feedback as wf
from weight_feedback.fold import fold_anyway

#: How far an output moves at most, as a share of its largest entry, where what moves it is rounding.
ROUNDING = 1e-6
#: Root mean square of what ``z`` adds to each layer: as large as features usually are.
LOUDNESS = 0.3


@dataclasses.dataclass(frozen=True)
class Truth:
    """By the layer's name; and how far the fold's outputs are from the model's. A call of nothing doesn't count."""

    calls: Mapping[str, int]
    moved: Mapping[str, float]
    gradient: Mapping[str, bool]
    folded: float

    def of(self, name: str) -> str:
        """Say in a word what becomes of what ``z`` adds to a layer."""
        moves = self.moved[name] > ROUNDING
        if not self.calls[name]:
            assert not moves
            return "uncalled"
        if not self.gradient[name]:
            return "moves alone" if moves else "lost"
        return "heard" if moves else "cancelled"


def tensors(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors in a model's output, in order."""
    if dataclasses.is_dataclass(output):
        output = vars(output)
    if isinstance(output, Tensor) and output.is_floating_point():
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(part)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Let all that draws random numbers draw the same each time."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - what other people's networks draw from
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(7)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def run(model: nn.Module, inputs: Mapping[str, object]) -> list[Tensor]:
    """Run a model on copies of its inputs, from the same random states each time; its buffers are as before."""
    kept = [(m, name, b, b if b is None else b.clone()) for m in model.modules() for name, b in m._buffers.items()]
    with seeded():
        outputs = [*tensors(model(**copy.deepcopy(inputs)))]
    for module, name, buffer, values in kept:
        module._buffers[name] = buffer
        if buffer is not None:
            buffer.data.copy_(values)
    return outputs


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference between outputs, each as a share of its largest entry; 0 is bit for bit."""
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(
        (
            float((x.double() - y.double()).abs().max()) / float(y.abs().max())
            for x, y in zip(found, expected, strict=True)
            if not torch.equal(x, y)
        ),
        default=0.0,
    )


@torch.no_grad()
def speak_up(model: nn.Module, seed: int = 5) -> nn.Module:
    """Give every layer a random V with which what ``z`` adds has the size `LOUDNESS`."""
    generator = torch.Generator().manual_seed(seed)
    signals = wf.signals(model)
    for name, v in wf.feedback_parameters(model):
        z = signals[name.removesuffix("feedback_weight").removesuffix(".")]()
        drawn = torch.randn(v.shape, generator=generator, dtype=torch.float64)
        v.copy_(drawn * LOUDNESS / (drawn @ z.double()).square().mean().sqrt())
    return model


def find(model: nn.Module, inputs: Mapping[str, object]) -> Truth:
    """Find out the truth of a model whose layers have a ``V`` that isn't zero."""
    layers = wf.feedback_layers(model)
    with torch.no_grad():
        whole = run(model, inputs)
    moved = {}
    for name, layer in layers.items():
        with torch.no_grad():
            layer.feedback_weight.neg_()
            moved[name] = distance(run(model, inputs), whole)
            layer.feedback_weight.neg_()
    with torch.no_grad():
        folded = distance(run(fold_anyway(model), inputs), whole)
    return Truth(counted(model, inputs), moved, gradients(model, inputs), folded)


def counted(model: nn.Module, inputs: Mapping[str, object]) -> dict[str, int]:
    """Count the calls of each layer's ``forward``, whoever calls it."""
    copied = copy.deepcopy(model)
    calls = dict.fromkeys(layers := wf.feedback_layers(copied), 0)
    for name, layer in layers.items():

        def forward(*args: Tensor, _name: str = name, _forward=layer.forward, **kwargs: Tensor) -> Tensor:
            output = _forward(*args, **kwargs)
            calls[_name] += output.numel() > 0
            return output

        layer.forward = forward
    with torch.no_grad():
        run(copied, inputs)
    return calls


def gradients(model: nn.Module, inputs: Mapping[str, object]) -> dict[str, bool]:
    """Say which V get a gradient from a random sum over all outputs, be it zero."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(11)
    outputs = [x for x in run(model, inputs) if x.requires_grad]
    if outputs:
        sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in outputs).backward()
    found = {name: layer.feedback_weight.grad is not None for name, layer in wf.feedback_layers(model).items()}
    model.zero_grad()
    return found


@torch.no_grad()
def used_otherwise(
    base: nn.Module, names: Sequence[str], inputs: Mapping[str, object]
) -> dict[str, tuple[str, ...]]:
    """Say which layers of a model without feedback have a weight or bias that others than the layer use.

    The layer's own call is held fast, then another parameter is put in place of each: do the outputs move?
    """
    run(base, inputs)  # after which weights that hooks compute have no graph
    used = {}
    for name in names:
        layer, used[name] = base.get_submodule(name), ()
        layer.forward = functools.partial(fresh, copy.deepcopy(layer))
        whole = run(base, inputs)
        for part in ("weight", "bias"):
            if (kept := layer._parameters.get(part)) is not None:
                layer._parameters[part] = nn.Parameter(kept + kept.abs().mean() * torch.randn_like(kept))
                used[name] += (part,) * (distance(run(base, inputs), whole) > 0)
                layer._parameters[part] = kept
        del layer.forward
    return used


def fresh(layer: nn.Module, *args: Tensor, **kwargs: Tensor) -> Tensor:
    """Call a copy, so that what the layer writes is lost."""
    return copy.deepcopy(layer)(*args, **kwargs)
