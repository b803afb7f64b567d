"""Signals that say something in place of the network's own weights: the controls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from weight_feedback.restoring import is_finite, is_near, lose
from weight_feedback.signals.base import Signal
from weight_feedback.streams import stream
from weight_feedback.summaries.base import Seeded, check_size


class _Held(Signal):
    """A signal that holds its ``z`` in a buffer."""

    z: Tensor

    def _hold(self, z: Tensor) -> None:
        self.out_features = z.numel()
        self.register_buffer("z", z)

    def _restore(self, lost: frozenset[str]) -> None:  # noqa: ARG002
        self.z.zero_()

    def faults(self) -> Iterator[str]:
        """Say if what is held was lost."""
        if not is_finite(self.z):
            yield f"the z of {type(self).__name__} isn't finite: it was lost, or what it received has diverged"

    def forward(self) -> Tensor:
        """Return the vector that is held, shape ``[out_features]``."""
        return self.z


class Zeros(_Held):
    """Silence: ``z = 0``. The layer computes, bit for bit, what it computes without feedback.

    Args:
        out_features: ``k``.
        device: of ``z``.
        dtype: of ``z``.

    Raises:
        ValueError: ``out_features`` is smaller than 1.
    """

    def __init__(
        self, out_features: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self._hold(torch.zeros(check_size(type(self).__name__, out_features), device=device, dtype=dtype))


class Received(Zeros):
    """Whatever was last written by `receive`; zeros before that.

    The yoked control: a network that hears another network's weights at the same step.

    Args:
        out_features: ``k``.
        device: of ``z``.
        dtype: of ``z``.

    Raises:
        ValueError: ``out_features`` is smaller than 1.
    """

    def receive(self, z: Tensor) -> None:
        """Write ``z``, without its gradient.

        Args:
            z: the vector to hear from now on, shape ``[out_features]``.

        Raises:
            ValueError: the shape is another one.
        """
        _check_shape("Received.receive", z, self.out_features)
        self.z.copy_(z.detach())


class Constant(_Held):
    """A given ``z`` that never changes, such as the summary of the initial weights.

    Args:
        z: the vector, shape ``[k]``; it is copied, and kept in the ``state_dict``.

    Raises:
        ValueError: ``z`` isn't a vector.
    """

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        _check_shape("Constant", z, z.numel())
        self._hold(z.detach().clone())

    def _restore(self, lost: frozenset[str]) -> None:  # noqa: ARG002
        lose(self.z)


class _Timed(_Held):
    """A signal with time: buffers ``step`` and ``z``, where ``z`` is what `_at` says of the step.

    Attributes:
        ahead: ``z`` of coming steps, that of step t in row t modulo the number of rows; None before `precompute`.
    """

    step: Tensor
    ahead: Tensor | None
    _precomputed: int = 0

    def _start(self, like: Tensor) -> None:
        self._hold(torch.empty_like(like))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=like.device))
        self.register_buffer("ahead", None, persistent=False)

    def reset_parameters(self) -> None:
        """Go back to step 0."""
        self._precomputed = 0
        self.step.zero_()
        if not self.z.is_meta:
            self.z.copy_(self._at(range(1))[0])

    def _restore(self, lost: frozenset[str]) -> None:  # noqa: ARG002
        self.reset_parameters()

    def faults(self) -> Iterator[str]:
        """Add a ``z`` that isn't that of the step."""
        lost = [*super().faults()]
        yield from lost
        if not lost and not self.z.is_meta:
            now = int(self.step)
            if not is_near(self.z, self._at(range(now, now + 1))[0].cpu()):
                yield (
                    f"the z of {type(self).__name__} isn't that of step {now}: its buffers were overwritten, as "
                    "averaging them does"
                )

    def precompute(self, steps: int) -> None:
        """Draw what the next calls of `advance` will say, so that they neither draw nor wait for the device.

        Args:
            steps: how many; 0 forgets what was drawn.
        """
        self._precomputed = steps
        if not steps:
            return
        if self.ahead is None or len(self.ahead) != steps:
            self.ahead = self.z.new_empty(steps, self.out_features)
        first = int(self.step) + 1
        # In place, as a CUDA graph that replays `advance` goes on reading there.
        self.ahead.copy_(self._at(range(first, first + steps)).roll(first, 0))

    def advance(self) -> None:
        """Go on to the next step."""
        self.step.add_(1)
        if self._precomputed and self.ahead is not None:
            self._precomputed -= 1
            self.z.copy_(self.ahead.index_select(0, (self.step % len(self.ahead)).reshape(1)).squeeze(0))
        else:
            now = int(self.step)
            self.z.copy_(self._at(range(now, now + 1))[0])

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._precomputed = 0
        super()._load_from_state_dict(*arguments)

    def _at(self, steps: range) -> Tensor:
        """Return ``z`` of some steps, shape ``[len(steps), out_features]``, on any device."""
        raise NotImplementedError


class Noise(_Timed, Seeded):
    """Gaussian noise with the mean and standard deviation of a given ``z``.

    Each draw is standardised, so that it matches both exactly, and with them the norm. Padding is copied, not
    replaced: it is no part of what is matched.

    Args:
        z: the vector to match, shape ``[k]``.
        padding: how many entries at the end of ``z`` are fill (a summary's ``padding``).
        redraw: whether each step has a draw of its own; if False, one draw stays.
        seed: seeds the draws.

    Raises:
        ValueError: ``z`` isn't a vector, or padding leaves nothing of it.
    """

    target: Tensor

    def __init__(self, z: Tensor, *, padding: int = 0, redraw: bool = True, seed: int = 0) -> None:
        super().__init__()
        _check_shape("Noise", z, z.numel())
        if not 0 <= padding < z.numel():
            raise ValueError(f"Noise: padding must lie from 0 to {z.numel() - 1}, got {padding}")
        self.padding, self.redraw, self.seed = padding, redraw, int(seed)
        self._start(z.detach())
        self.register_buffer("target", z.detach().clone())
        self.reset_parameters()

    def _restore(self, lost: frozenset[str]) -> None:
        if "target" in lost:
            lose(self.target)
        self.reset_parameters()

    def _at(self, steps: range) -> Tensor:
        heard, fill = self.target.split([self.target.numel() - self.padding, self.padding])
        drawn = torch.stack([self._draw(step if self.redraw else 0, heard.numel()) for step in steps]).to(heard)
        noise = heard.mean() + heard.std(correction=0) * drawn
        return torch.cat([noise, fill.expand(len(steps), -1)], dim=1)

    def _draw(self, step: int, count: int) -> Tensor:
        # Drawn on the CPU, so that every device hears the same noise.
        generator = stream(self.seed, "noise", step)
        drawn = torch.randn(count, generator=generator, dtype=torch.float64, device="cpu")
        drawn -= drawn.mean()
        # A single entry has no spread: it is its own mean.
        drawn /= drawn.std(correction=0).clamp_min(torch.finfo(drawn.dtype).tiny)
        return drawn


class Clock(_Timed):
    """Sinusoidal features of the step: the time course of training, without any weights.

    ``z[2i] = a·sin(t/Tᵢ)`` and ``z[2i+1] = a·cos(t/Tᵢ)`` with ``Tᵢ = max_period^(2i/k)``, the position encoding
    of Vaswani et al. (2017, arXiv:1706.03762, section 3.5).

    Args:
        out_features: ``k``.
        max_period: the longest time scale, in steps.
        amplitude: ``a``; ``√2`` gives an even ``k`` a root mean square of 1.
        device: of ``z``.
        dtype: of ``z``.

    Raises:
        ValueError: ``out_features`` is smaller than 1, or ``max_period`` isn't positive.
    """

    def __init__(
        self,
        out_features: int,
        *,
        max_period: float = 10_000.0,
        amplitude: float = 1.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not max_period > 0:
            raise ValueError(f"Clock: max_period must be positive, got {max_period}")
        self.max_period, self.amplitude = float(max_period), float(amplitude)
        self._start(torch.empty(check_size("Clock", out_features), device=device, dtype=dtype))
        self.reset_parameters()

    def _at(self, steps: range) -> Tensor:
        values = [[self._feature(i, step) for i in range(self.out_features)] for step in steps]
        return torch.tensor(values, dtype=torch.float64, device="cpu")

    def _feature(self, i: int, step: int) -> float:
        angle = step / self.max_period ** (2 * (i // 2) / self.out_features)
        return self.amplitude * (math.cos(angle) if i % 2 else math.sin(angle))


class Stale(Signal):
    """A signal as it was ``lag`` optimiser steps ago; until then, as it was at the start.

    Args:
        signal: the signal to delay, such as `OwnWeights`; it is advanced on its own, before this one, as
            `weight_feedback.advance` does.
        lag: the delay in steps, at least 1.

    Raises:
        ValueError: ``lag`` is smaller than 1.
    """

    step: Tensor
    ring: Tensor

    def __init__(self, signal: Signal, lag: int) -> None:
        super().__init__()
        if lag < 1:
            raise ValueError(f"Stale: lag must be at least 1 step, got {lag}")
        self.signal, self.lag = signal, int(lag)
        self.out_features, self.reads = signal.out_features, signal.reads
        with torch.no_grad():
            z = signal()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=z.device))
        # One slot more than the lag: z of step t - lag must outlive the writing of step t.
        self.register_buffer("ring", z.expand(self.lag + 1, -1).clone())

    def reset_parameters(self) -> None:
        """Go back to step 0, and take the present ``z`` as that of the start."""
        self.step.zero_()
        with torch.no_grad():
            self.ring.copy_(self.signal().expand_as(self.ring))

    def _restore(self, lost: frozenset[str]) -> None:  # noqa: ARG002
        self.step.zero_()
        lose(self.ring)

    def faults(self) -> Iterator[str]:
        """Say if what was heard before is lost."""
        if not is_finite(self.ring):
            yield "the past z of Stale is lost, and no checkpoint had it; call its reset_parameters()"

    @torch.no_grad()
    def advance(self) -> None:
        """Go on to the next step, and remember the present ``z`` for later."""
        self.step.add_(1)
        self.ring.index_copy_(0, self._slot(self.step), self.signal()[None])

    def forward(self) -> Tensor:
        """Return ``z`` of ``lag`` steps ago, shape ``[out_features]``, without gradient."""
        return self.ring.index_select(0, self._slot((self.step - self.lag).clamp_min(0))).squeeze(0)

    def _slot(self, step: Tensor) -> Tensor:
        return (step % (self.lag + 1)).reshape(1)

    def extra_repr(self) -> str:
        """Add the lag to the size."""
        return f"{super().extra_repr()}, lag={self.lag}"


def _check_shape(what: str, z: Tensor, k: int) -> None:
    if z.shape != (k,) or k == 0:
        raise ValueError(f"{what}: z must be a vector of shape [{k or 'k'}], got {list(z.shape)}")
