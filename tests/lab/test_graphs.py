"""Steps that a CUDA graph replays: the same bits as the plain loop's, and nothing for a GPU to wait for."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import MagicMock, call

import pytest
import torch

from helpers.cpu_graphs import HostWorkError, Tapes
from helpers.interrupted_trials import STEPS, TRAINING, bits, few_images, make
from helpers.lockstep_training import trained
from weight_feedback.lab.data.datasets import normalise
from weight_feedback.lab.tasks.notebook import graphs
from weight_feedback.lab.tasks.notebook import lockstep as lockstep_module
from weight_feedback.lab.tasks.notebook.building import build_cohort
from weight_feedback.lab.tasks.notebook.graphs import CudaGraphs, Replayed, recorder_for
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import Classifier
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Pooled, Sketched, Subspace

POOLED = Pooled(k=32, kernels=((25, 16), (2, 25)))
SIGNALS = (None, "zeros", "constant", "noise", "clock", "stale", "permuted", "yoked", "own")


def subspace(signal: str | None, projection: str = "count") -> NetworkTrial:
    settings = {"subspace": Subspace(dimensions=8, projection=projection), "lr": 0.5}
    return make(signal, summary=None, training=settings)


TRIALS = {
    **{str(signal): make(signal) for signal in (*SIGNALS, "own-gradient")},
    **{f"{signal}, cohort": make(signal, training={"cohort": 2}) for signal in SIGNALS},
    "film": make("own", conditioning="film"),
    "film, cohort": make("own", conditioning="film", training={"cohort": 2}),
    "full weight": make(None, model="mnist-projected"),
    "pooled": make("own", summary=POOLED),
    "count": make("own", summary=Sketched(k=8, sketch="count")),
    "count, yoked cohort": make("yoked", summary=Sketched(k=8, sketch="count"), training={"cohort": 2}),
    "kronecker": make("own", summary=Sketched(k=8, sketch="kronecker")),
    **{f"{signal}, subspace": subspace(signal) for signal in (None, "zeros", "yoked", "own")},
    **{f"own, {kind} subspace": subspace("own", kind) for kind in ("kronecker", "dense")},
}


def lockstep(trial: NetworkTrial, recorder: Tapes | None = None, device: str = "cpu") -> Lockstep:
    trials = trial.cohort()
    models, donors = build_cohort(trials, STEPS, torch.device(device))
    seeds = [one.seed for one in trials]
    return Lockstep(models, few_images().to(device), trial.training, seeds, donors, recorder)


def add_to_step(monkeypatch, work: Callable[[torch.Tensor], object]) -> None:
    """Do something more with the losses, in each training step."""
    classify = Classifier.classify

    def with_work(model, x, labels, reduction):
        output, losses = classify(model, x, labels, reduction)
        work(losses)
        return output, losses

    monkeypatch.setattr(Classifier, "classify", with_work)


@pytest.fixture(autouse=True)
def constants() -> None:
    """What a data set is normalised with is sent to a device once, in whichever step is the first."""
    data = few_images()
    normalise(data.train_images[:1], data.mean, data.std)


@pytest.mark.parametrize("name", TRIALS)
def test_replayed_training_has_the_bits_of_the_plain_loop_and_asks_nothing_of_the_host(name: str) -> None:
    plain, replayed = lockstep(TRIALS[name]), lockstep(TRIALS[name], tapes := Tapes())
    assert trained(plain) == trained(replayed)
    assert bits(plain) == bits(replayed)
    # An epoch is two batches of 32 and one of 16, which is no part of this.
    assert tapes.events == [*["warm up"] * 3, "record", *["replay"] * (2 * TRAINING.epochs - 3)]


@pytest.mark.parametrize(
    ("work", "noticed"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: float(x[0]), "__float__"),
        (lambda x: bool(x.isfinite().all()), "__bool__"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "cpu"),
        (lambda x: x.to("cpu"), "to"),
        (lambda x: x.detach().numpy(), "numpy"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: torch.tensor(2.0, device=x.device), "tensor"),
        (lambda x: x + torch.ones(1, device="cpu"), "ones"),
        (lambda x: torch.rand_like(x), "rand_like"),
    ],
)
def test_work_of_the_host_in_a_step_is_noticed(monkeypatch, work: Callable, noticed: str) -> None:
    add_to_step(monkeypatch, work)
    with pytest.raises(HostWorkError, match=f"^{noticed}$"):
        trained(lockstep(make(None), Tapes()))


def test_a_tensor_made_in_a_step_on_another_device_is_noticed(monkeypatch) -> None:
    add_to_step(monkeypatch, lambda x: x + torch.ones(1))
    with pytest.raises(RuntimeError, match="Tensor on device meta is not on the expected device cpu"):
        trained(lockstep(make(None), Tapes()))


@pytest.mark.parametrize("signal", ["noise", "clock"])
def test_what_is_not_precomputed_is_work_of_the_host(monkeypatch, signal: str) -> None:
    monkeypatch.setattr(lockstep_module, "precompute", lambda *_: None)
    with pytest.raises(HostWorkError, match=r"^__int__$"):
        trained(lockstep(make(signal), Tapes()))


def test_after_training_time_goes_on_by_itself() -> None:
    trial = make("noise")
    plain, replayed = lockstep(trial), lockstep(trial, Tapes())
    heard = []
    for learning in (plain, replayed):
        trained(learning)
        (network,) = learning._learners["network"].networks
        network.fc1.signal.advance()
        heard.append(network.fc1.signal().clone())
    assert torch.equal(*heard)


def test_losses_of_a_step_stay_what_they_were() -> None:
    total = torch.zeros(())

    def step(batch: torch.Tensor) -> torch.Tensor:
        total.add_(batch.sum())
        return total * 1

    take = Replayed(step, tapes := Tapes(), torch.empty(2, dtype=torch.int64))
    batches = [torch.tensor(batch) for batch in ([1, 2], [3], [4, 5], [6, 7], [8, 9], [10], [11, 12])]
    losses = [take(batch) for batch in batches]
    assert [float(loss) for loss in losses] == [3, 6, 15, 28, 45, 55, 78]
    assert tapes.events == [*["warm up"] * graphs.WARM_UP, "record", "replay", "replay"]


def test_a_graph_is_recorded_after_work_on_a_stream_of_its_own(monkeypatch) -> None:
    """What PyTorch asks for, in this order, of a stand-in for CUDA."""
    cuda = MagicMock()
    for name in ("Stream", "current_stream", "stream", "graph", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    recorder = recorder_for(torch.device("cuda"))
    assert isinstance(recorder, CudaGraphs)
    side, here, result = cuda.Stream(), cuda.current_stream(), cuda.work()
    cuda.reset_mock()
    assert recorder.warm_up(cuda.work) is result
    assert cuda.mock_calls == [
        call.current_stream(),
        call.Stream().wait_stream(here),
        call.stream(side),
        call.stream().__enter__(),
        call.work(),
        call.stream().__exit__(None, None, None),
        call.current_stream().wait_stream(side),
        call.work().record_stream(here),
    ]
    cuda.reset_mock()
    assert recorder.record(cuda.work) == (cuda.CUDAGraph().replay, result)
    assert cuda.mock_calls[:5] == [
        call.CUDAGraph(),
        call.graph(cuda.CUDAGraph()),
        call.graph().__enter__(),
        call.work(),
        call.graph().__exit__(None, None, None),
    ]
    assert recorder_for(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", TRIALS)
def test_on_a_gpu(name: str) -> None:
    trial = TRIALS[name]
    here = trained(lockstep(trial))
    device = torch.device("cuda")
    for recorder in (None, recorder_for(device)):
        for history, expected in zip(trained(lockstep(trial, recorder, "cuda")), here, strict=True):
            assert history.step_losses == pytest.approx(expected.step_losses, rel=1e-3)
