"""Save a model with its feedback as two files, and load it onto a freshly built model; nothing is ever pickled.

``model.safetensors`` holds the tensors of the ``state_dict``, ``weight_feedback.json`` says which layers hear what.
The second carries the checksum of the first, and its own. Both need ``pip install 'weight-feedback[hub]'``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from weight_feedback.attach import feedback_layers, remove
from weight_feedback.configs import FORMAT, blame, build, describe, read_config
from weight_feedback.fields import PretrainedError
from weight_feedback.files import write_atomically
from weight_feedback.sharding import check_unsharded

if TYPE_CHECKING:
    from huggingface_hub import ModelHubMixin as WeightFeedbackHubMixin  # noqa: F401 - see __getattr__

__all__ = ["PretrainedError", "load_pretrained", "save_pretrained"]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "weight_feedback.json"
#: Bytes that a configuration may have; real ones are far smaller.
CONFIG_LIMIT = 1_000_000
_INSTALL = "install it with: pip install 'weight-feedback[hub]'"


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write a model's weights and a description of its feedback into a folder.

    Tensors that are the same memory (tied weights, a signal that two layers hear) are written once. Each file
    appears whole or not at all, the description last: a save that is cut short is noticed on loading.

    Args:
        model: a module with or without feedback.
        folder: made if need be; an earlier save there is replaced.

    Raises:
        TypeError: a signal or summary is of a class of your own, or the ``state_dict`` holds something that isn't a
            tensor.
        ValueError: a read is orphaned (see `weight_feedback.check`), or the weights are spread over processes.
        PretrainedError: safetensors has no room for a kind of tensor (sparse, complex128, meta), or the description
            would be too large to be read again.
        ImportError: safetensors isn't installed.
    """
    check_unsharded("save_pretrained", model)
    folder = Path(folder)
    feedback, state = describe(model), model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"save_pretrained saves tensors only, got a {type(value).__name__} as {name!r} of the state_dict; "
                "let get_extra_state() return a tensor"
            )
    tensors = _safetensors()
    with blame(f"{folder / WEIGHTS_FILE} can't be written"):
        tied = _tied(state)
        # Copies, since safetensors takes neither views of one memory nor other orders of dimensions.
        whole = {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in state.items()
            if name not in tied
        }
        weights = tensors.save(whole, metadata={"format": "pt"})
    content = {
        "format": FORMAT,
        **feedback,
        "aliases": [{"name": name, "same_as": first} for name, first in tied.items()],
        "weights": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps({**content, "sha256": _checksum(content)}, indent=1, allow_nan=False)
    config = f"{text}\n".encode()
    if len(config) > CONFIG_LIMIT:
        raise PretrainedError(
            f"{folder / CONFIG_FILE} must have at most {CONFIG_LIMIT} bytes, would have {len(config)}; "
            "hear fewer tensors in each signal, or tie fewer"
        )
    write_atomically(folder / WEIGHTS_FILE, weights)
    write_atomically(folder / CONFIG_FILE, config)


def load_pretrained(base_model: nn.Module, folder: str | Path, *, allow_nan: bool = False) -> nn.Module:
    """Give a freshly built model the feedback and all the weights that were saved.

    Its outputs equal those of the model that was saved, and time goes on from there: bit for bit, if that model
    kept the device and dtype that it had when feedback was attached, and ``base_model`` has its device and memory
    formats. What a ``state_dict`` doesn't hold, such as ``requires_grad`` and the training mode, stays that of
    ``base_model``.

    Args:
        base_model: of the same architecture, without feedback; changed in place, unless an error is raised.
        folder: with the two files that `save_pretrained` writes.
        allow_nan: whether weights that are no numbers are loaded too.

    Returns:
        ``base_model``.

    Raises:
        PretrainedError: a file is missing, damaged, of an unknown format or not the other's partner, or it doesn't
            suit ``base_model``; or a tensor holds NaN.
        ImportError: safetensors isn't installed.
    """
    _safetensors()
    for name in feedback_layers(base_model):
        raise PretrainedError(
            f"base_model must be without feedback, but its layer {name!r} has some; "
            "call weight_feedback.remove(model) first"
        )
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    state = _read_weights(folder / WEIGHTS_FILE, config, allow_nan)
    try:
        build(base_model, config, state, str(folder / CONFIG_FILE))
        with blame(str(folder / WEIGHTS_FILE)):
            _check_fit(base_model, state)
            base_model.load_state_dict(state)
    except BaseException:
        remove(base_model)
        raise
    return base_model


def _read_config(path: Path) -> dict[str, Any]:
    data = _read(path, CONFIG_LIMIT)
    if len(data) > CONFIG_LIMIT:
        raise PretrainedError(
            f"{path} must have at most {CONFIG_LIMIT} bytes, got more; it isn't a file of save_pretrained"
        )
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} must be JSON, but isn't: {error}; the file is damaged") from error
    config = read_config(value, str(path))
    expected = _checksum({name: part for name, part in value.items() if name != "sha256"})
    if config["sha256"] != expected:
        raise PretrainedError(
            f"{path}: sha256 must be {expected}, that of the other fields, got {reprlib.repr(config['sha256'])}; "
            "the file is damaged or was edited: save the model again"
        )
    return config


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _read_weights(path: Path, config: Mapping[str, Any], allow_nan: bool) -> dict[str, Tensor]:
    """Return the whole ``state_dict``: what the file holds, and the aliases."""
    data = _read(path, config["weights"]["bytes"])
    found = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(data).hexdigest()}
    for field, value in config["weights"].items():
        if found[field] != value:
            raise PretrainedError(
                f"{path}: {field} must be {value!r}, as {CONFIG_FILE} says, got {found[field]!r}; the two files "
                "aren't of one save, or this one is damaged: copy both again, or save the model again"
            )
    with blame(f"{path} must be a safetensors file"):
        state: dict[str, Tensor] = _safetensors().load(data)
    for name, tensor in state.items():
        if not allow_nan and bool(tensor.isnan().any()):
            raise PretrainedError(f"{path}: {name} holds NaN; pass allow_nan=True to load it nevertheless")
    for i, alias in enumerate(config["aliases"]):
        where = f"{path.with_name(CONFIG_FILE)}: aliases[{i}]"
        if alias["same_as"] not in state:
            raise PretrainedError(f"{where}.same_as must be a tensor of {path.name}, got {alias['same_as']!r}")
        if alias["name"] in state:
            raise PretrainedError(f"{where}.name must be a new name, but {path.name} has {alias['name']!r} too")
        state[alias["name"]] = state[alias["same_as"]]
    return state


def _check_fit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that loading will succeed, and will leave in the model what is in the file."""
    own = model.state_dict()
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unexpected:
        raise ValueError(
            f"must hold the tensors of base_model with its feedback; missing: {_listed(missing)}; "
            f"unexpected: {_listed(unexpected)}; build base_model with the architecture that was saved"
        )
    for name, value in own.items():
        expected, found = _described(value), _described(state[name])
        if expected != found:
            raise ValueError(f"{name} must be {expected}, as in base_model, got {found}")
    for name, first in _tied(own).items():
        if state[name] is not state[first] and not torch.equal(state[name], state[first]):
            raise ValueError(
                f"{name} and {first} must be equal, since base_model ties them, but they differ; untie them first"
            )


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    memory = " without data (meta)" if value.is_meta else ""
    return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}{memory}"


def _listed(names: set[str]) -> str:
    return reprlib.repr(sorted(names)) if names else "none"


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return from each name whose tensor is the same memory as an earlier one to the name of that one."""
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, tensor in state.items():
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if first.setdefault(memory, name) != name:
            tied[name] = first[memory]
    return tied


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path, limit: int) -> bytes:
    """Return a file's bytes, but not more than one beyond the limit; a pipe or device might never end."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is a folder, a pipe or a device")
        with path.open("rb") as file:
            return file.read(min(limit, path.stat().st_size) + 1)
    except OSError as error:
        raise PretrainedError(
            f"{path} must be a readable file, but: {error.strerror}; give the folder that save_pretrained wrote"
        ) from error


def _safetensors() -> ModuleType:
    # Only saving and loading need it: the library itself needs nothing but torch and numpy.
    try:
        import safetensors.torch as tensors
    except ImportError as error:
        raise ImportError(f"saving and loading need safetensors; {_INSTALL}") from error
    return tensors


_CARD = """---
{{ card_data }}
---

A PyTorch model with layers that hear a summary of its own weights, saved by
[weight-feedback](https://pypi.org/project/weight-feedback/). With the model's class: `Model.from_pretrained(...)`.
"""


def _hub_mixin() -> type:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"WeightFeedbackHubMixin needs huggingface_hub; {_INSTALL}") from error

    class WeightFeedbackHubMixin(
        huggingface_hub.ModelHubMixin,
        library_name="weight-feedback",
        tags=["weight-feedback"],
        model_card_template=_CARD,
    ):
        """Gives a model class ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, feedback included.

        >>> class Net(nn.Module, WeightFeedbackHubMixin): ...  # doctest: +SKIP

        The constructor's arguments are kept in ``config.json``. What is loaded is in evaluation mode; feedback that
        the constructor attaches gives way to that which was saved.
        """

        __qualname__ = "WeightFeedbackHubMixin"

        def _save_pretrained(self, save_directory: Path) -> None:
            assert isinstance(self, nn.Module)
            save_pretrained(self, save_directory)

        @classmethod
        def _from_pretrained(
            cls,
            *,
            model_id: str,
            revision: str | None,
            cache_dir: str | Path | None,
            force_download: bool,
            local_files_only: bool,
            token: str | bool | None,
            allow_nan: bool = False,
            **model_kwargs: Any,
        ) -> Any:
            folder = model_id
            if not Path(model_id).is_dir():
                folder = huggingface_hub.snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=[WEIGHTS_FILE, CONFIG_FILE],
                )
            model: Any = cls(**model_kwargs)
            return load_pretrained(remove(model), folder, allow_nan=allow_nan).eval()

    return WeightFeedbackHubMixin


def __getattr__(name: str) -> Any:
    # Made at first use, so that importing the library doesn't import huggingface_hub.
    if name != "WeightFeedbackHubMixin":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = mixin = _hub_mixin()
    return mixin
