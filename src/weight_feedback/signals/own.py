"""Signals that hear the network's own weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from weight_feedback.sharding import Spread, is_elsewhere, is_sharded, rows_here, spread
from weight_feedback.signals.base import Read, Signal
from weight_feedback.streams import stream
from weight_feedback.summaries.base import Seeded, Summary
from weight_feedback.summaries.projections import Projection

_REFRESH = "call weight_feedback.refresh(model) before the first forward and whenever the weights have changed"


def _check_readable(reads: Sequence[Read], tensors: Sequence[Tensor]) -> None:
    """Refuse what can't be read, all of it by name."""
    faults = {read.name: read.fault(tensor) for read, tensor in zip(reads, tensors, strict=True)}
    if wrong := [f"{name}: {fault}" for name, fault in faults.items() if fault is not None]:
        raise ValueError(f"can't read {'; '.join(wrong)}")
    places: dict[torch.device, list[str]] = {}
    for read, tensor in zip(reads, tensors, strict=True):
        places.setdefault(tensor.device, []).append(read.name)
    if len(places) > 1:
        where = "; ".join(f"on {device}: {', '.join(names)}" for device, names in places.items())
        raise ValueError(
            f"can't read weights of several devices together, {where}; read those of one device (what is on meta "
            "was offloaded, or has no values yet)"
        )


class OwnWeights(Signal):
    """The summary of the network's own weights, as they are at each call.

    Weights that FSDP2 or tensor parallel spreads over processes can't be read within a forward; there ``z`` is
    that of the last `weight_feedback.refresh`.

    Args:
        reads: ``(module, attribute, name)`` triples. They are kept outside the module tree, so no parameter
            appears twice in a ``state_dict``, and deepcopy, pickle and ``torch.func`` see the right weights.
        summary: an unbound summary; it is bound to the reads here, in their order.
        detach: whether gradients stop at the weights that are read. If False, the loss is also differentiated
            through the signal.

    Raises:
        ValueError: two reads have one name, a read can't be read (it isn't a floating-point tensor, is quantised or
            offloaded, …), reads lie on several devices, or gradients are wanted through sharded weights.
        TypeError: weights are sharded, and the summary isn't a projection.
    """

    held: Tensor | None

    def __init__(
        self, reads: Iterable[tuple[nn.Module, str, str]], summary: Summary, *, detach: bool = True
    ) -> None:
        super().__init__()
        self.reads = tuple(Read(*read) for read in reads)
        self.detach = detach
        names = [read.name for read in self.reads]
        if len(set(names)) < len(names):
            raise ValueError(f"reads must have different names, got {', '.join(names)}")
        tensors = [read.tensor() for read in self.reads]
        _check_readable(self.reads, tensors)
        #: Of the reads, when they were bound.
        self.dtypes = tuple(tensor.dtype for tensor in tensors)
        self.summary = summary
        if self.sharded:
            self._check_sums()
        summary.bind(dict(zip(names, tensors, strict=True)))
        self.out_features = cast(int, summary.out_features)
        self.register_buffer("held", None, persistent=False)
        self._versions: list[tuple[Tensor, int]] = []

    def forward(self) -> Tensor:
        """Read the weights and summarise them.

        Returns:
            ``z``, shape ``[out_features]``, on the device of the weights.

        Raises:
            RuntimeError: a weight has changed its shape; or the weights are sharded, and have changed since
                `weight_feedback.refresh`, or it was never called.
            TypeError: torch.fx traces the model.
        """
        if self.held is not None:
            # Dynamo can't follow versions.
            if not torch.compiler.is_compiling() and any(seen != now._version for now, seen in self._versions):
                raise RuntimeError(f"{self._label()}: the weights have changed since the last refresh; {_REFRESH}")
            return self.held
        weights = self._weights()
        if any(map(is_sharded, weights)):
            raise RuntimeError(f"{self._label()}: the weights are spread over processes; {_REFRESH}")
        return cast(Tensor, self.summary(*[weight.detach() for weight in weights] if self.detach else weights))

    def _weights(self) -> list[Tensor]:
        weights = [read.tensor() for read in self.reads]
        for read, weight, shape in zip(self.reads, weights, self.summary.shapes, strict=False):
            if not isinstance(weight, Tensor):
                raise TypeError(
                    f"{self._label()}: {read.name} must be a tensor, got a {type(weight).__name__}; torch.fx can't "
                    "trace what reads weights: use torch.export or torch.compile, fold the model first, or let a "
                    "tracer take each weight_feedback.FeedbackLayer for a leaf"
                )
            if weight.shape != shape or is_elsewhere(weight):
                raise RuntimeError(f"{self._label()}: {read.misfit(weight, shape)}")
        return weights

    def _label(self) -> str:
        more = f" and {len(self.reads) - 3} more" if len(self.reads) > 3 else ""
        return f"{type(self).__name__} of {', '.join(read.name for read in self.reads[:3])}{more}"

    def _check_sums(self) -> None:
        """Refuse what can't be added up over processes."""
        if type(self) is not OwnWeights or not isinstance(self.summary, Projection):
            kind = type(self.summary if type(self) is OwnWeights else self).__name__
            raise TypeError(
                f"{self._label()}: the weights are spread over processes, and {kind} can't be added up over them; "
                "use OwnWeights of a projection: CountSketch, KroneckerProjection or DenseProjection"
            )
        if not self.detach:
            raise ValueError(
                f"{self._label()}: the weights are spread over processes, and gradients can't go through z there; "
                "use detach=True"
            )

    @torch.no_grad()
    def shares(self) -> Iterator[tuple[Spread | None, Tensor]]:
        """Project what this process holds of the weights; see `weight_feedback.refresh`.

        Yields:
            Over which processes a share is to be added up, None for weights that every process holds whole; and
            this process's share of ``z``, shape ``[out_features]``.

        Raises:
            TypeError: the summary isn't a projection.
            ValueError: gradients are wanted through the weights.
        """
        self._check_sums()
        project = cast(Projection, self.summary).partial
        for index, weight in enumerate(self._weights()):
            if is_sharded(weight):
                yield spread(weight), project(index, *rows_here(weight))
            else:
                yield None, project(index, weight.reshape(weight.shape or 1), 0)

    def hold(self, z: Tensor | None) -> None:
        """Say ``z`` until the weights change; None: read them at every call.

        Args:
            z: shape ``[out_features]``.
        """
        self.held = z
        parameters = {weight for read in self.reads for weight in read.module.parameters()}
        self._versions = [] if z is None else [(weight, weight._version) for weight in parameters]

    def _restore(self, lost: frozenset[str]) -> None:
        self.hold(None)
        super()._restore(lost)

    @property
    def sharded(self) -> bool:
        """Whether a weight that is read is spread over processes."""
        return any(is_sharded(read.tensor()) for read in self.reads)


class Permuted(OwnWeights, Seeded):
    """Own weights, the entries of each tensor shuffled by a fixed permutation before the summary.

    It keeps every value and forgets where it stood.

    Args:
        reads: as for `OwnWeights`.
        summary: an unbound summary.
        detach: whether gradients stop at the weights that are read.
        seed: seeds the permutations, each together with the canonical name of its tensor.

    Raises:
        ValueError: as for `OwnWeights`.
    """

    def __init__(
        self,
        reads: Iterable[tuple[nn.Module, str, str]],
        summary: Summary,
        *,
        detach: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(reads, summary, detach=detach)
        self.seed = int(seed)
        for index, read in enumerate(self.reads):
            order = torch.empty(read.tensor().numel(), dtype=torch.int64, device=read.tensor().device)
            self.register_buffer(f"order_{index}", order, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the permutations again from the seed."""
        for order, drawn in self._draws():
            order.copy_(drawn)

    def _draws(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, read in enumerate(self.reads):
            order = self.get_buffer(f"order_{index}")
            generator = stream(self.seed, "permutation", read.name)
            yield order, torch.randperm(order.numel(), generator=generator, device="cpu")

    def _seed_loaded(self) -> None:
        self.reset_parameters()

    def _weights(self) -> list[Tensor]:
        return [
            weight.flatten()[self.get_buffer(f"order_{index}")].view(weight.shape)
            for index, weight in enumerate(super()._weights())
        ]
