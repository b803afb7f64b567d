"""What each of several processes does with weights that are spread over them; see process_jobs.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import weight_feedback as wf

STEPS, K = 3, 4
X = torch.linspace(-9, 9, 48, dtype=torch.float64).sin().view(8, 6)
Y = X[:, :4].square()
SUMMARIES: dict[str, Callable[[], wf.Summary]] = {
    "count": lambda: wf.CountSketch(K, scale="calibrated"),
    "count-nonzeros": lambda: wf.CountSketch(K, nonzeros=2),
    "dense": lambda: wf.DenseProjection(K),
    "kronecker": lambda: wf.KroneckerProjection(K),
}


def net(width: int = 5) -> nn.Sequential:
    """The network of these tests, the same at every call; five and seven rows don't divide evenly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, 4))
        return nn.Sequential(*layers).double()


def hear(model: nn.Module, summary: str = "count", **options) -> nn.Module:
    """Two layers hear all weights, with V not zero; the last hears them one step late."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        wf.attach(model, ["0", "2"], reads="all", summary=SUMMARIES[summary](), init="default", **options)
    return model


def late(model: nn.Sequential) -> nn.Sequential:
    """The last layer hears the weights of the one before, one step late."""
    own = wf.OwnWeights([(model[2], "weight", "2.weight")], wf.CountSketch(3))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        wf.attach(model, "4", signal=wf.Stale(own, 1), init="default")
    return model


def train(model: nn.Module, x: Tensor = X, y: Tensor = Y, steps: int = STEPS) -> None:
    """Plain training; `wf.refresh` does nothing for a network in one process."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05)
    wf.refresh(model)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(model(x).to(y), y).backward()
        optimiser.step()
        wf.refresh(model)
        wf.advance(model)


def found(model: nn.Module) -> dict:
    """Whole weights, what is heard, and outputs."""
    state = {name: whole(parameter) for name, parameter in model.named_parameters()}
    heard = {name: signal().clone() for name, signal in wf.signals(model).items()}
    return {"state": state, "heard": heard, "output": whole(model(X).detach())}


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def shard(model: nn.Sequential, **options) -> nn.Sequential:
    """As people do: each block on its own, then what is left."""
    for layer in (model[0], model[2]):
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def fully_sharded(rank: int, folder: Path) -> dict:
    done = {}
    for summary in SUMMARIES:
        model = shard(late(hear(net(), summary)))
        train(model, X[rank::2], Y[rank::2])
        done[summary] = found(model)
    return done


def communicated(rank: int, folder: Path) -> dict:
    model = shard(hear(net()))
    with CommDebugMode() as mode:
        wf.refresh(model)
    return {str(kind): count for kind, count in mode.get_comm_counts().items() if count}


def cast(rank: int, folder: Path) -> dict:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = shard(hear(net().float()), mp_policy=policy)
    train(model, X.float()[rank::2], Y.float()[rank::2])
    state = {name: whole(parameter) for name, parameter in model.named_parameters()}
    return {"state": state, "heard": wf.signals(model)["0"]().clone()}


def message(what: Callable[[], object]) -> str:
    try:
        what()
    except (RuntimeError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused(rank: int, folder: Path) -> dict[str, str]:
    model = shard(hear(net()))
    messages = {"forward": message(lambda: model(X)), "fold": message(lambda: wf.fold(model))}
    messages["remove"] = message(lambda: wf.remove(model))
    messages["attach"] = message(lambda: wf.attach(model, "4", summary=wf.CountSketch(2)))
    messages["diagnose"] = message(lambda: wf.diagnose(model, X))
    messages["save"] = message(lambda: wf.save_pretrained(model, folder / "saved"))
    wf.refresh(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    messages["second forward"] = message(lambda: model(X))
    optimiser.step()
    messages["stale"] = message(lambda: model(X))
    for name, options in (
        ("moments", {"summary": wf.Moments()}),
        ("gradient", {"summary": wf.CountSketch(2), "detach": False}),
    ):
        model = fully_shard(wf.attach(net(), "0", **options))
        messages[name] = message(lambda model=model: wf.refresh(model))
    model = net()
    wf.attach(model, "0", signal=wf.Permuted([(model[0], "weight", "0.weight")], wf.CountSketch(2)))
    messages["permuted"] = message(lambda: wf.refresh(fully_shard(model)))
    split = parallel(net(width=8), init_device_mesh("cpu", (2,)))
    messages["moments at once"] = message(lambda: wf.attach(split, "0", summary=wf.Moments()))
    return messages


def flattened(rank: int, folder: Path) -> dict:
    """FSDP1: one unit for the whole network works, units inside of it don't."""
    done: dict = {}
    for original in (False, True):
        flat = functools.partial(FullyShardedDataParallel, use_orig_params=original, device_id=torch.device("cpu"))
        model = flat(hear(net()))
        output = model(X)
        output.square().sum().backward()
        nested = hear(net())
        for i in (0, 2, 4):
            nested[i] = flat(nested[i])
        nested = flat(nested)
        done[str(original)] = {
            "output": output.detach(),
            "nested": message(lambda nested=nested: nested(X)),
            "attach": message(lambda flat=flat: wf.attach(flat(net()), "0", summary=wf.CountSketch(2))),
            **{
                name: message(functools.partial(function, model))
                for name, function in (("check", wf.check), ("fold", wf.fold), ("remove", wf.remove))
            },
            "diagnose": message(lambda model=model: wf.diagnose(model, X)),
            "save": message(lambda model=model: wf.save_pretrained(model, folder / "saved")),
        }
    return done


def checkpointed(rank: int, folder: Path) -> dict:
    model = shard(hear(net()))
    train(model, X[rank::2], Y[rank::2])
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "sharded")
    loaded = shard(hear(net()))
    state = {"model": get_model_state_dict(loaded)}
    dcp.load(state, checkpoint_id=folder / "sharded")
    set_model_state_dict(loaded, state["model"])
    wf.refresh(loaded)
    return {"saved": found(model), "loaded": found(loaded)}


def parallel(model: nn.Sequential, mesh) -> nn.Sequential:
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(output_layouts=Replicate())}
    return parallelize_module(model, mesh, plan)


def tensor_parallel(rank: int, folder: Path) -> dict:
    mesh, done = init_device_mesh("cpu", (2,)), {}
    for summary in SUMMARIES:
        for conditioning in ("concat", "film"):
            model = hear(parallel(net(width=8), mesh), summary, conditioning=conditioning)
            train(model)
            folded = wf.fold(model)
            done[f"{summary}-{conditioning}"] = found(model) | {"folded": whole(folded(X).detach())}
    return done


def in_all_directions(rank: int, folder: Path) -> dict:
    mesh, heard = init_device_mesh("cpu", (2,)), []
    for placement in (Shard(0), Shard(1), Shard(2), Shard(3), Replicate()):
        model = convolved()
        weight = distribute_tensor(model[0].weight.detach(), mesh, [placement])
        model[0].weight = nn.Parameter(weight)
        wf.refresh(model)
        heard.append(wf.signals(model)["1"]().clone())
    return {"heard": heard}


def convolved() -> nn.Sequential:
    """A layer that hears a convolution's weight, a scalar and a vector."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(5, 3, (2, 7)), nn.Linear(2, 2)).double()
    model.register_parameter("scalar", nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
    return wf.attach(model, "1", reads=["0.weight", "scalar", "0.bias"], summary=wf.CountSketch(7))


def both(rank: int, folder: Path) -> dict:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = shard(hear(parallel(net(width=8), mesh["tensor"])), mesh=mesh["data"])
    half = mesh.get_local_rank("data")
    train(model, X[half::2], Y[half::2])
    return found(model)
