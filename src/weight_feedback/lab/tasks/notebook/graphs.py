"""Steps that are recorded once as a CUDA graph and then replayed: one call, in place of one for each operation.

For small networks, most of a GPU's step is the time that Python and PyTorch take to launch its operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

#: How many whole batches are trained on before a step is recorded; PyTorch asks for a few.
WARM_UP = 3


class Recorder(Protocol):
    """What can record work on a device."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work as it is to be done before it is recorded.

        Args:
            work: on tensors whose places don't change, without waiting for the device.

        Returns:
            What the work returned.
        """

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Record the work, without doing it.

        Args:
            work: see `warm_up`.

        Returns:
            What does the work when called, and where its result is after each call.
        """


class CudaGraphs:
    """Records work on the present CUDA device as a ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self._side = torch.cuda.Stream()

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work on a stream of its own, as PyTorch asks for before a recording.

        Args:
            work: see `Recorder.warm_up`.

        Returns:
            What the work returned, ready for the present stream.
        """
        here = torch.cuda.current_stream()
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            result = work()
        here.wait_stream(self._side)
        result.record_stream(here)
        return result

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Record the work.

        Args:
            work: see `Recorder.record`.

        Returns:
            See `Recorder.record`.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
        return graph.replay, result


class Replayed:
    """A step that is recorded and replayed for batches of one shape, and taken plainly for others.

    The first `WARM_UP` batches of the shape are real steps too, as is the one for which it is recorded.

    Args:
        step: takes a batch, trains in place, returns losses. It must do all its work on the device, on tensors
            whose places don't change between calls, or that it makes itself.
        recorder: of the device.
        batch: of the shape to record, on the device; what is in it doesn't matter. Each batch is copied here.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], recorder: Recorder, batch: Tensor) -> None:
        self._step, self._recorder, self._batch = step, recorder, batch
        self._cold = WARM_UP
        self._recorded: tuple[Callable[[], object], Tensor] | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        """Take a step.

        Args:
            batch: on the device.

        Returns:
            The losses, which later steps leave alone.
        """
        if batch.shape != self._batch.shape:
            return self._step(batch)
        self._batch.copy_(batch)
        if self._cold:
            self._cold -= 1
            return self._recorder.warm_up(self._work)
        if self._recorded is None:
            self._recorded = self._recorder.record(self._work)
        replay, losses = self._recorded
        replay()
        return losses.clone()

    def _work(self) -> Tensor:
        return self._step(self._batch)


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records steps on a device; None where nothing can.

    Args:
        device: of training.
    """
    return CudaGraphs() if device.type == "cuda" else None
