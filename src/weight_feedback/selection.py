"""What names, globs and modules mean: the layers of a model that are to hear, and the tensors that are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from weight_feedback.forwards import replaced_in_class, replacement
from weight_feedback.layers import FeedbackLayer
from weight_feedback.registry import FEEDBACK_LAYERS, feedback_class
from weight_feedback.signals import Read
from weight_feedback.weights import current, is_offloaded, is_quantised


class Names:
    """The names in a model, looked up once.

    Args:
        model: the model.

    Attributes:
        modules: every module by each of its names.
        unique: every module once, with the first of its names.
        parameters: every parameter by the first of its names.
        readable: names of modules with a weight, then those of all parameters but V, each in the model's order.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.unique: dict[nn.Module, str] = {}
        for name, module in self.modules.items():
            self.unique.setdefault(module, name)
        self.parameters = dict(model.named_parameters())
        weighted = [name for module, name in self.unique.items() if isinstance(_weight(module), Tensor)]
        self.readable = dict.fromkeys([*weighted, *filter(_is_base, self.parameters)])

    def of(self, module: nn.Module) -> str:
        """Return the first name of a module.

        Args:
            module: one of the model's.

        Raises:
            KeyError: it isn't.
        """
        if module not in self.unique:
            raise KeyError(f"this {type(module).__name__} is no module of the model; give one that is, or its name")
        return self.unique[module]


def layers_that_hear(names: Names, into: str | nn.Module | Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    """Find the layers that are to be given feedback, and check that they can.

    Args:
        names: those of the model.
        into: names, globs and modules, as `weight_feedback.attach` takes them.

    Returns:
        Name to layer; each layer once, by the name that it was found under.

    Raises:
        KeyError: a name or module isn't in the model, or a glob matches nothing.
        TypeError: a layer is of a kind that can't be given feedback, or is quantised or never called.
        ValueError: a layer has feedback already, is lazy, or ``into`` is empty.
    """
    modules = names.modules
    found: dict[nn.Module, str] = {}
    for wanted in [into] if isinstance(into, str | nn.Module) else into:
        for name in _layer_names(names, wanted):
            found.setdefault(modules[name], name)
    if not found:
        raise ValueError("attach: into= must name at least one layer, got none")
    for layer, name in found.items():
        _check_can_hear(names, layer, name)
    return {name: layer for layer, name in found.items()}


def _layer_names(names: Names, wanted: str | nn.Module) -> list[str]:
    modules = names.modules
    if isinstance(wanted, nn.Module):
        return [names.of(wanted)]
    if wanted in modules:
        return [wanted]
    matching = [name for name in names.unique.values() if _matches(name, wanted)]
    if not matching:
        raise KeyError(f"the model has no module {wanted!r}{_near(wanted, modules)}")
    able = [
        name for name in matching if feedback_class(type(modules[name])) or isinstance(modules[name], FeedbackLayer)
    ]
    return able or matching[:1]


def _check_can_hear(names: Names, layer: nn.Module, name: str) -> None:
    parent = names.modules[name.rpartition(".")[0]]
    if isinstance(layer, FeedbackLayer):
        raise ValueError(f"attach: {name!r} has feedback already; call weight_feedback.remove(model) first")
    if any(map(is_lazy, layer.parameters(recurse=False))):
        raise ValueError(
            f"attach: {name!r} is a {type(layer).__name__} and has no shape yet; run one batch through the model "
            "first"
        )
    if isinstance(weight := current(layer, "weight"), Tensor) and weight.is_complex():
        raise ValueError(f"attach: {name!r} is complex, of {weight.dtype}, and z is real; let another layer hear")
    if _is_quantised(layer):
        raise TypeError(
            f"attach: {name!r} must have floating-point weights, got the quantised {type(layer).__name__}; "
            "give the layer feedback, train and fold it before you quantise"
        )
    if isinstance(parent, nn.MultiheadAttention) and parent.out_proj is layer:
        raise TypeError(
            f"attach: {name!r} would hear nothing: nn.MultiheadAttention uses the weight of its out_proj, and "
            "never calls that layer; give feedback to a layer after the attention instead, such as linear1 of an "
            "nn.TransformerEncoderLayer"
        )
    if feedback_class(type(layer)) is None:
        kinds = ", ".join(kind.__name__ for kind in FEEDBACK_LAYERS)
        raise TypeError(
            f"attach: {name!r} must be one of torch.nn's {kinds} or transformers' Conv1D, got "
            f"{_full_name(type(layer))}{_instead(names, layer, name)}"
        )
    _check_untouched(layer, name)


def _check_untouched(layer: nn.Module, name: str) -> None:
    """Refuse a layer of the right kind whose forward, weight or names other code has taken."""
    if (forward := replacement(layer) or replaced_in_class(type(layer))) is not None:
        raise TypeError(
            f"attach: the forward of {name!r} was replaced by {forward}, which would not hear z; give it feedback "
            "before that, or undo that first (accelerator.unwrap_model(…, keep_fp32_wrapper=False) for "
            "accelerate's)"
        )
    if is_offloaded(layer):
        raise ValueError(
            f"attach: accelerate offloads the weights of {name!r}, and would not know V; attach first, and keep "
            "the layer and what it reads on a device"
        )
    own = vars(layer).keys() | layer._modules.keys() | layer._parameters.keys() | layer._buffers.keys()
    if taken := sorted(own & {"signal", "conditioning", "feedback_weight"}):
        raise ValueError(
            f"attach: {name!r} has attributes of its own called {', '.join(taken)}, which feedback would replace; "
            "rename them first"
        )


def _instead(names: Names, layer: nn.Module, name: str) -> str:
    """Say in words what can hear in the place of a layer that can't."""
    within = [
        f"{name}.{inner}".lstrip(".")
        for inner, module in layer.named_modules()
        if inner and feedback_class(type(module)) is not None
    ]
    # What adapters such as peft's wrap does the layer's own work; the rest are the adapter's own.
    wrapped = [inner for inner in within if inner.rpartition(".")[2] == "base_layer"]
    if wrapped or within:
        return f"; attach to {' or '.join(map(repr, (wrapped or within)[:3]))}, inside of it"
    able = [other for module, other in names.unique.items() if feedback_class(type(module)) is not None]
    if not able:
        return "; the model has no layer that can hear: put a torch.nn layer in its place"
    near = difflib.get_close_matches(name, able, n=3, cutoff=0) or able[:3]
    return f"; put a torch.nn layer in its place, or attach to another one, such as {' or '.join(map(repr, near))}"


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_quantised(layer: nn.Module) -> bool:
    weight = current(layer, "weight")
    if isinstance(weight, Tensor) and is_quantised(weight):
        return True
    homes = f"{type(layer).__module__}.{type(weight).__module__}"
    return any(home in homes.split(".") for home in ("quantized", "bitsandbytes", "torchao", "quanto"))


def default_reads(names: Names, layer: FeedbackLayer) -> list[Read]:
    """Find what a layer reads unless told otherwise: its own weight, and those of all later layers.

    Args:
        names: those of the model.
        layer: the layer that is to hear.

    Returns:
        The reads, each tensor once.

    Raises:
        ValueError: a layer is lazy.
    """
    read = [name for module, name in names.unique.items() if _is_read_by_default(module)]
    return named_reads(names, read[read.index(names.of(layer)) :])


def _is_read_by_default(module: nn.Module) -> bool:
    # A lazy layer counts, so that it is asked for its shape, rather than left out.
    kind = getattr(module, "cls_to_become", None) or type(module)
    return isinstance(module, FeedbackLayer) or feedback_class(kind) is not None


def named_reads(names: Names, reads: str | Sequence[str | nn.Module]) -> list[Read]:
    """Find what is read.

    Args:
        names: those of the model.
        reads: names, globs and modules, or ``"all"``, as `weight_feedback.attach` takes them.

    Returns:
        The reads, each tensor once, by the first of its names.

    Raises:
        KeyError: a name isn't in the model, or a glob matches nothing.
        ValueError: a parameter is lazy.
    """
    if isinstance(reads, str):
        reads = _all_parameters(names) if reads == "all" else [reads]
    found = [_resolve(names, name) for wanted in reads for name in _read_names(names, wanted)]
    # The tensors are held until all are compared, so that no two of them have had one id.
    tensors = [read.tensor() for read in found]
    unique = {id(tensor): read for tensor, read in reversed([*zip(tensors, found, strict=True)])}
    return [read for tensor, read in zip(tensors, found, strict=True) if unique[id(tensor)] is read]


def _all_parameters(names: Names) -> list[str]:
    return [
        name
        for name, parameter in names.parameters.items()
        if _is_base(name) and (is_lazy(parameter) or parameter.is_floating_point())
    ]


def _is_base(name: str) -> bool:
    return name.rpartition(".")[2] != "feedback_weight"


def _read_names(names: Names, wanted: str | nn.Module) -> list[str]:
    if isinstance(wanted, nn.Module):
        return [names.of(wanted)]
    known = names.readable
    matching = [] if wanted in known else [name for name in known if _matches(name, wanted)]
    # A name that is none of these may still be that of a buffer, of V, or a wrong one.
    return matching or [wanted]


def _resolve(names: Names, name: str) -> Read:
    """Find what a name reads: a module's weight, or the attribute after the last dot."""
    modules = names.modules
    owner, _, attribute = name.rpartition(".")
    if name in modules and isinstance(_weight(modules[name]), Tensor):
        read = Read(modules[name], "weight", f"{name}.weight" if name else "weight")
    elif owner in modules and isinstance(current(modules[owner], attribute), Tensor):
        read = Read(modules[owner], attribute, name)
    elif attribute == "full_weight" and isinstance(modules.get(owner), FeedbackLayer):
        raise KeyError(
            f"can't read {name!r}: it holds V, whose size isn't known before this summary is bound; "
            "give the summary its out_features, or read the weight alone"
        )
    else:
        known = [*modules, *names.parameters]
        raise KeyError(
            f"can't read {name!r}: the model has no such parameter, nor a module of that name with a "
            f"weight{_near(name, known)}"
        )
    if is_lazy(read.tensor()):
        raise ValueError(
            f"can't read {read.name}: it is lazy and has no shape yet; run one batch through the model first"
        )
    return read


def takes_means(module: nn.Module) -> bool:
    """Say whether a module subtracts the mean of each channel, and with it what a bias adds.

    Args:
        module: any; batch normalisation does so in training, instance normalisation always.
    """
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, _BatchNorm | _InstanceNorm)


def check_acyclic(layers: Mapping[str, FeedbackLayer]) -> None:
    """Refuse a layer that reads a weight which is computed by way of that layer.

    Args:
        layers: name to feedback layer, of a whole model.

    Raises:
        ValueError: a parametrisation of a weight that a layer reads runs that layer, itself or by what others read.
    """
    for name, layer in layers.items():
        reached: set[FeedbackLayer] = set()
        todo = [layer]
        while todo:
            for other in _run_to_read(todo.pop()):
                if other is layer:
                    raise ValueError(
                        f"{name!r} reads a weight whose parametrisation runs {name!r} itself, so it has no value; "
                        "read its parametrizations.….original instead, or other weights"
                    )
                if other not in reached:
                    reached.add(other)
                    todo.append(other)


def _run_to_read(layer: FeedbackLayer) -> Iterator[FeedbackLayer]:
    """Yield the feedback layers in the parametrisations of what a layer reads."""
    for read in layer.signal.reads:
        parametrised = getattr(read.module, "parametrizations", {})
        parts = ("weight", "feedback_weight") if read.attribute == "full_weight" else (read.attribute,)
        for part in parts:
            if part in parametrised:
                yield from (m for m in parametrised[part].modules() if isinstance(m, FeedbackLayer))


def _weight(module: nn.Module) -> object:
    return current(module, "weight")


def _matches(name: str, pattern: str) -> bool:
    """Compare part by part, so that no ``*`` stands for a dot."""
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _near(name: str, known: Iterable[str]) -> str:
    known = [*known]
    # What wraps a model puts something in front of its names.
    near = [k for k in known if k.endswith(f".{name}")][:3] or difflib.get_close_matches(
        name, [k for k in known if k], cutoff=0.5
    )
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
