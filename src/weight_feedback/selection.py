"""What names, globs and modules mean: the layers of a model that are to hear, and the tensors that are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weight_feedback.layers import FEEDBACK_LAYERS, FeedbackLayer, feedback_class
from weight_feedback.signals import Read


def layers_that_hear(model: nn.Module, into: str | nn.Module | Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    """Find the layers that are to be given feedback, and check that they can.

    Args:
        model: the model.
        into: names, globs and modules, as `weight_feedback.attach` takes them.

    Returns:
        Name to layer; each layer once, by the name that it was found under.

    Raises:
        KeyError: a name or module isn't in the model, or a glob matches nothing.
        TypeError: a layer is of a kind that can't be given feedback, or is quantised or never called.
        ValueError: a layer has feedback already, is lazy, or ``into`` is empty.
    """
    modules = _modules(model)
    found: dict[nn.Module, str] = {}
    for wanted in [into] if isinstance(into, str | nn.Module) else into:
        for name in _layer_names(model, wanted):
            found.setdefault(modules[name], name)
    if not found:
        raise ValueError("attach: into= must name at least one layer, got none")
    for layer, name in found.items():
        _check_can_hear(layer, name, parent=modules[name.rpartition(".")[0]])
    return {name: layer for layer, name in found.items()}


def _layer_names(model: nn.Module, wanted: str | nn.Module) -> list[str]:
    modules = _modules(model)
    if isinstance(wanted, nn.Module):
        return [_name_of(model, wanted)]
    if wanted in modules:
        return [wanted]
    names = [name for name, _ in model.named_modules() if _matches(name, wanted)]
    if not names:
        raise KeyError(f"the model has no module {wanted!r}{_near(wanted, modules)}")
    able = [
        name for name in names if feedback_class(type(modules[name])) or isinstance(modules[name], FeedbackLayer)
    ]
    return able or names[:1]


def _check_can_hear(layer: nn.Module, name: str, parent: nn.Module) -> None:
    if isinstance(layer, FeedbackLayer):
        raise ValueError(f"attach: {name!r} has feedback already; call weight_feedback.remove(model) first")
    if any(map(is_lazy, layer.parameters(recurse=False))):
        raise ValueError(
            f"attach: {name!r} is a {type(layer).__name__} and has no shape yet; run one batch through the model "
            "first"
        )
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
            f"attach: {name!r} must be one of {kinds} or transformers' Conv1D, got {type(layer).__name__}"
        )


def _is_quantised(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and (weight.is_quantized or not weight.is_floating_point()):
        return True
    homes = f"{type(layer).__module__}.{type(weight).__module__}"
    return any(home in homes.split(".") for home in ("quantized", "bitsandbytes", "torchao"))


def default_reads(model: nn.Module, layer: FeedbackLayer) -> list[Read]:
    """Find what a layer reads unless told otherwise: its own weight, and those of all later layers.

    Args:
        model: the model.
        layer: the layer that is to hear.

    Returns:
        The reads, each tensor once.

    Raises:
        ValueError: a layer is lazy.
    """
    names = [name for name, module in model.named_modules() if _is_read_by_default(module)]
    return named_reads(model, names[names.index(_name_of(model, layer)) :])


def _is_read_by_default(module: nn.Module) -> bool:
    # A lazy layer counts, so that it is asked for its shape, rather than left out.
    kind = getattr(module, "cls_to_become", None) or type(module)
    return isinstance(module, FeedbackLayer) or feedback_class(kind) is not None


def named_reads(model: nn.Module, names: str | Sequence[str | nn.Module]) -> list[Read]:
    """Find what is read.

    Args:
        model: the model.
        names: names, globs and modules, or ``"all"``, as `weight_feedback.attach` takes them.

    Returns:
        The reads, each tensor once, by the first of its names.

    Raises:
        KeyError: a name isn't in the model, or a glob matches nothing.
        ValueError: a parameter is lazy.
    """
    if isinstance(names, str):
        names = _all_parameters(model) if names == "all" else [names]
    reads = [_resolve(model, name) for wanted in names for name in _read_names(model, wanted)]
    # The tensors are held until all are compared, so that no two of them have had one id.
    tensors = [read.tensor() for read in reads]
    unique = {id(tensor): read for tensor, read in reversed([*zip(tensors, reads, strict=True)])}
    return [read for tensor, read in zip(tensors, reads, strict=True) if unique[id(tensor)] is read]


def _all_parameters(model: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in model.named_parameters()
        if _is_base(name) and (is_lazy(parameter) or parameter.is_floating_point())
    ]


def _is_base(name: str) -> bool:
    return name.rpartition(".")[2] != "feedback_weight"


def _read_names(model: nn.Module, wanted: str | nn.Module) -> list[str]:
    if isinstance(wanted, nn.Module):
        return [_name_of(model, wanted)]
    parameters = [name for name, _ in model.named_parameters() if _is_base(name)]
    weighted = [name for name, module in model.named_modules() if isinstance(_weight(module), Tensor)]
    known = [*weighted, *parameters]
    names = [] if wanted in known else [name for name in known if _matches(name, wanted)]
    # A name that is none of these may still be that of a buffer, of V, or a wrong one.
    return names or [wanted]


def _resolve(model: nn.Module, name: str) -> Read:
    """Find what a name reads: a module's weight, or the attribute after the last dot."""
    modules = _modules(model)
    owner, _, attribute = name.rpartition(".")
    if name in modules and isinstance(_weight(modules[name]), Tensor):
        read = Read(modules[name], "weight", f"{name}.weight" if name else "weight")
    elif owner in modules and isinstance(getattr(modules[owner], attribute, None), Tensor):
        read = Read(modules[owner], attribute, name)
    elif attribute == "full_weight" and isinstance(modules.get(owner), FeedbackLayer):
        raise KeyError(
            f"can't read {name!r}: it holds V, whose size isn't known before this summary is bound; "
            "give the summary its out_features, or read the weight alone"
        )
    else:
        known = [*modules, *dict(model.named_parameters())]
        raise KeyError(
            f"can't read {name!r}: the model has no such parameter, nor a module of that name with a "
            f"weight{_near(name, known)}"
        )
    if is_lazy(read.tensor()):
        raise ValueError(
            f"can't read {read.name}: it is lazy and has no shape yet; run one batch through the model first"
        )
    return read


def _weight(module: nn.Module) -> object:
    return getattr(module, "weight", None)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module by each of its names."""
    return dict(model.named_modules(remove_duplicate=False))


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    for name, module in _modules(model).items():
        if module is wanted:
            return name
    raise KeyError(f"this {type(wanted).__name__} is no module of the model; give one that is, or its name")


def _matches(name: str, pattern: str) -> bool:
    """Compare part by part, so that no ``*`` stands for a dot."""
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [k for k in known if k], cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
