"""Small networks, one for each way to use a layer, or its weight, that feedback may be lost in."""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from helpers.architectures import Architecture, drawn
from helpers.diagnoses import Calls


def batch() -> dict[str, Tensor]:
    return {"x": drawn(5, 6)}


def toy(
    name: str,
    forward: Callable[..., object],
    layers: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    **options: Any,
) -> Architecture:
    """A network of layers ``a`` and ``b``, and extra ones, that runs a function of itself and ``x``."""

    def build() -> nn.Module:
        return Calls(forward, **{key: nn.Linear(6, 6) for key in ("a", *extra)}, b=nn.Linear(6, 4))

    return Architecture(name, build, batch, layers or {}, **{"film": True, **options})


def other(name: str, build: Callable[[], nn.Module], layers: Mapping[str, str] | None = None, **options: Any):
    return Architecture(name, build, layers=layers or {}, **{"inputs": batch, "film": True, **options})


BYPASSED = {"a": "uncalled"}
#: A tensor that was looked up beforehand. The fold has one of its own, which no longer follows the weight.
KEPT = {"used": {"a": ("weight",)}, "folds": True}


@dataclasses.dataclass
class Output:
    scores: Tensor
    number: int
    hidden: tuple[Tensor, ...]


class Doubled(torch.autograd.Function):
    """Runs a layer twice over, and again in backward, as reversible networks do."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer(x) * 2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.backward(ctx.layer(x), 2 * gradient)
        return x.grad, None


class Views(nn.Module):
    """Uses views of a layer's weight that it made when it was built, or all parameters by name."""

    def __init__(self, keep: Callable[[nn.Module], object], use: Callable[[object], Tensor]) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(6, size, dtype=torch.float64) for size in (6, 4))
        self.kept, self.use = keep(self), use

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(F.linear(x, self.use(self.kept))))


def attention(model: nn.Module, x: Tensor) -> Tensor:
    return model.b(torch.softmax(model.query(x) @ model.key(x).T, -1) @ model.a(x))


def under_no_grad(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = model.a(x)
    return model.b(torch.tanh(hidden))


def thrown_away(model: nn.Module, x: Tensor) -> Tensor:
    model.a(x)
    return model.b(x)


def chooses(model: nn.Module, x: Tensor) -> Tensor:
    """Go on with the examples that score best, as sparse attention does with positions: z adds the same to each."""
    return model.b(x[model.a(x)[:, 0].topk(3).indices])


def changes_inputs(model: nn.Module, x: Tensor) -> Tensor:
    x.mul_(0.5).add_(1)
    return model.b(torch.tanh(model.a(x).mul_(2))) + x[:, :4]


def writes_to_output(model: nn.Module, x: Tensor) -> Tensor:
    """Add to a layer's output in place, as with embeddings of positions: a view, for inputs with three axes."""
    hidden = model.a(x.view(5, 2, 3))
    hidden += torch.ones(3)
    return model.b(torch.tanh(hidden).flatten(1))


def keeps_activations(model: nn.Module, x: Tensor) -> Tensor:
    model.last = torch.tanh(model.a(x))
    return model.b(model.last)


def counts(model: nn.Module, x: Tensor) -> Tensor:
    """Standardise by running statistics, one replaced and one changed in place."""
    hidden = model.a(x)
    model.mean = 0.9 * model.mean + 0.1 * hidden.detach().mean(0)
    model.steps += 1
    return model.b(torch.tanh(hidden - model.mean * model.steps))


def caches(model: nn.Module, x: Tensor) -> Tensor:
    """Keep what is computed once in a buffer, which was None before."""
    if model.kept is None:
        model.kept = torch.ones(6).to(x)
    return model.b(torch.tanh(model.a(x) + model.kept))


class Caches(Calls):
    def __init__(self) -> None:
        super().__init__(caches, a=nn.Linear(6, 6), b=nn.Linear(6, 4))
        self.register_buffer("kept", None)


class Counts(Calls):
    def __init__(self) -> None:
        super().__init__(counts, a=nn.Linear(6, 6), b=nn.Linear(6, 4))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def routed(model: nn.Module, x: Tensor) -> Tensor:
    """Send every example to one of three experts; none goes to the last, and the second's is empty."""
    first = torch.ones(len(x), dtype=torch.bool)
    output = x.new_zeros(len(x), 6)
    for expert, chosen in ((model.a, first), (model.empty, ~first)):
        output = output.index_put((chosen,), expert(x[chosen]))
    if not first.any():
        output = model.idle(output)
    return model.b(torch.tanh(output))


def with_penalty(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {"y": model.b(torch.tanh(model.a(x))), "penalty": model.a.weight.square().sum()}


def looks_at_dtype(model: nn.Module, x: Tensor) -> Tensor:
    assert model.a.weight.shape[1] == x.shape[1]
    return model.b(torch.tanh(model.a(x.to(model.a.weight.dtype).to(model.a.weight.device))))


def other_weights(model: nn.Module, x: Tensor) -> Tensor:
    weights = {"weight": 2 * model.a.weight, "bias": model.a.bias}
    return model.b(torch.tanh(functional_call(model.a, weights, (x,))))


def dropped_by_python(model: nn.Module, x: Tensor) -> Tensor:
    hidden = torch.tanh(model.a(x)) * (random.random() > 0.5 or 0.5)
    return model.b(hidden * float(np.random.rand()))  # noqa: NPY002


def structured(model: nn.Module, x: Tensor) -> dict[str, object]:
    hidden = torch.tanh(model.a(x))
    return {"out": Output(model.b(hidden), 3, (hidden, hidden.argmax(-1))), "rest": [None, "text", (hidden.sum(),)]}


def tied(model: nn.Module, x: Tensor) -> Tensor:
    return model.b(torch.tanh(model.a(model.words(x))))


def tied_layers() -> nn.Module:
    words, head = nn.Embedding(7, 6), nn.Linear(6, 7)
    head.weight = words.weight
    return Calls(tied, words=words, a=nn.Linear(6, 6), b=head)


def two_names(model: nn.Module, x: Tensor) -> Tensor:
    return model.b(torch.tanh(model.again(torch.tanh(model.a(x)))))


def shared_layers() -> nn.Module:
    layer = nn.Linear(6, 6)
    return Calls(two_names, a=layer, again=layer, b=nn.Linear(6, 4))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.inner(x)))


def beside_scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        scripted = torch.jit.script(Scripted())
    return in_sequence(scripted, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))


def norm_again() -> nn.Module:
    norm = nn.BatchNorm1d(6)
    return in_sequence(nn.Linear(6, 6), norm, nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), norm, nn.Linear(6, 4))


def in_sequence(*layers: nn.Module) -> nn.Module:
    return Calls(lambda model, x: model.all(x), all=nn.Sequential(*layers))


def changed(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Two layers, the first of which has another way to its weight."""
    return in_sequence(how(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 4))


def zero_head() -> nn.Module:
    model = in_sequence(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    nn.init.zeros_(model.all[4].weight)
    return model


def plain(model: nn.Module, x: Tensor) -> Tensor:
    return model.b(torch.tanh(model.a(x)))


def stacked(model: nn.Module, x: Tensor) -> Tensor:
    both = torch.stack([model.a.weight, model.other.weight])
    return model.b(torch.tanh(both @ x.T).mean(0).T)


def checkpointed(model: nn.Module, x: Tensor, *, reentrant: bool) -> Tensor:
    return model.b(checkpoint(lambda y: torch.tanh(model.a(y)), x, use_reentrant=reentrant))


CASES = [
    toy("plain", plain),
    # A weight or bias is used, and the layer isn't called.
    toy("linear", lambda m, x: m.b(torch.tanh(F.linear(x, m.a.weight, m.a.bias))), BYPASSED),
    toy("linear-without-bias", lambda m, x: m.b(torch.tanh(F.linear(x, m.a.weight))), BYPASSED),
    toy("transposed", lambda m, x: m.b(torch.tanh(x @ m.a.weight.T)), BYPASSED),
    toy("data", lambda m, x: m.b(torch.tanh(F.linear(x, m.a.weight.data))), BYPASSED),
    toy("einsum", lambda m, x: m.b(torch.tanh(torch.einsum("ni,oi->no", x, m.a.weight))), BYPASSED),
    toy("stacked", stacked, {"a": "uncalled", "other": "uncalled"}, ["other"]),
    toy("by-name", lambda m, x: m.b(torch.tanh(x @ dict(m.named_parameters())["a.weight"])), BYPASSED),
    other(
        "names-kept",
        lambda: Views(lambda m: dict(m.named_parameters()), lambda kept: kept["a.weight"]),
        BYPASSED,
        **KEPT,
    ),
    other(
        "view-kept",
        lambda: Views(lambda m: m.a.weight.data.view(-1), lambda kept: kept.view(6, 6)),
        BYPASSED,
        **KEPT,
    ),
    toy("base-forward", lambda m, x: m.b(torch.tanh(nn.Linear.forward(m.a, x))), BYPASSED),
    toy("bias-alone", lambda m, x: m.b(torch.tanh(x + m.a.bias)), BYPASSED),
    # It is called, and the weight or bias is used besides.
    toy("bias-besides", lambda m, x: m.b(torch.tanh(m.a(x)) + m.a.bias)),
    toy("autoencoder", lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight.T), {"b": "uncalled"}),
    toy("penalty", with_penalty),
    toy("dtype", looks_at_dtype),
    # Nobody hears it, or V gets no gradient.
    toy("never-called", lambda m, x: m.b(x), BYPASSED),
    toy("thrown-away", thrown_away, {"a": "lost"}),
    toy("times-zero", lambda m, x: m.b(x + 0 * m.a(x)), {"a": "cancelled"}),
    toy("no-grad", under_no_grad, {"a": "moves alone"}),
    toy("detached", lambda m, x: m.b(torch.tanh(m.a(x).detach())), {"a": "moves alone"}),
    toy("chooses", chooses, {"a": "lost"}),
    toy("argmax", lambda m, x: plain(m, x).argmax(-1), {"[ab]": "lost"}),
    toy("attention", attention, {"key": "cancelled"}, ["query", "key"], film=False),
    other("zero-head", zero_head, {"all.[02]": "cancelled"}, lively=False),
    toy("experts", routed, {"empty": "uncalled", "idle": "uncalled"}, ["empty", "idle"]),
    # All of these are heard.
    toy("forward-called", lambda m, x: m.b.forward(torch.tanh(m.a.forward(x)))),
    toy("checkpoint", lambda m, x: checkpointed(m, x, reentrant=False)),
    toy("checkpoint-reentrant", lambda m, x: checkpointed(m, m.first(x), reentrant=True), extra=["first"]),
    # Without an input that gets a gradient, a re-entrant checkpoint has none to go back from.
    toy("checkpoint-of-input", lambda m, x: checkpointed(m, x, reentrant=True), {"a": "moves alone"}),
    toy("reversible", lambda m, x: m.b(torch.tanh(Doubled.apply(m.first(x), m.a))), extra=["first"]),
    toy("other-weights", other_weights, used={"a": ("weight",)}, folds=False),
    toy("vmap", lambda m, x: vmap(lambda one: plain(m, one))(x)),
    toy("twice", lambda m, x: m.b(torch.tanh(m.a(torch.tanh(m.a(x)))))),
    other("two-names", shared_layers),
    other("tied", tied_layers, inputs=lambda: {"x": torch.arange(5)}),
    toy("structured", structured),
    toy("changes-inputs", changes_inputs),
    toy("keeps-activations", keeps_activations),
    other("output-in-place", lambda: Calls(writes_to_output, a=nn.Linear(3, 3), b=nn.Linear(6, 4))),
    other("running-statistics", Counts),
    other("cache", Caches),
    other("scripted-besides", beside_scripted, training=True),
    other("norm-again", norm_again, in_training={"all.0": "cancelled"}),
    toy("python-random", dropped_by_python),
    other("dropout", lambda: in_sequence(nn.Linear(6, 6), nn.Dropout(), nn.Linear(6, 4)), training=True),
    other(
        "batch-norm",
        lambda: in_sequence(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)),
        in_training={"all.0": "cancelled"},
        film=False,
    ),
    other("weight-norm", lambda: changed(parametrizations.weight_norm)),
    # In training its weights move within a forward.
    other("spectral-norm", lambda: changed(parametrizations.spectral_norm)),
    other("pruned", lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.5))),
]
