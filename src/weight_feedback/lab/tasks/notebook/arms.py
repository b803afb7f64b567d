"""The arms of a controlled study: one architecture, and signals that differ in one thing each.

All arms of a seed share ``W`` and ``b`` (the plain network's), the projection ``P``, and, but for ``none``, the
initial ``V``: uniform ``±1/√(fan_in + k)``. They differ in what fc1 hears.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from weight_feedback.attach import attach
from weight_feedback.lab.tasks.notebook.networks import ConvNet, build, initial_values
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Pooled, SignalName, Sketched, Summarised
from weight_feedback.registry import SUMMARIES
from weight_feedback.signals import (
    Clock,
    Constant,
    Noise,
    OwnWeights,
    Permuted,
    Read,
    Received,
    Signal,
    Stale,
    Zeros,
)
from weight_feedback.summaries import DenseProjection, MaxPool, Summary

#: Added to a trial's seed it gives the donor's: outside the range of counted seeds, and never shared by two trials.
DONOR_SEEDS = 2**31
#: Added once for each unit of salt to the seed of the projection and of V: beyond counted seeds and donors.
SALTS = 2**33


def reads(model: ConvNet) -> list[Read]:
    """Return what own weights are in these studies: the weights of both fully connected layers.

    Args:
        model: a network.
    """
    return [Read(model.fc1, "weight", "fc1.weight"), Read(model.fc2, "weight", "fc2.weight")]


def summary(settings: Summarised, seed: int) -> Summary:
    """Return the summary of a seed, the same in all of its arms.

    Args:
        settings: what kind, and how large.
        seed: of the projection.
    """
    if isinstance(settings, Pooled):
        return MaxPool(settings.kernels, settings.k, fill=1.0, transpose=(False, True))
    if isinstance(settings, Sketched):
        return SUMMARIES[settings.sketch](settings.k, scale=settings.scale, seed=seed)
    return DenseProjection(settings.k, distribution=settings.distribution, scale=settings.scale, seed=seed)


def make_signal(name: SignalName, model: ConvNet, settings: Summarised, seed: int, epoch_steps: int) -> Signal:
    """Make what fc1 hears in an arm.

    Args:
        name: of the signal.
        model: the network with its initial weights.
        settings: of the summary.
        seed: of the projection, the permutation and the noise.
        epoch_steps: optimiser steps in an epoch, the lag of ``stale``.

    Returns:
        The signal, not yet attached.
    """
    if name == "permuted":
        return Permuted(reads(model), summary(settings, seed), seed=seed)
    own = OwnWeights(reads(model), summary(settings, seed), detach=name != "own-gradient")
    k, z = own.out_features, own().detach()
    made: dict[SignalName, Callable[[], Signal]] = {
        "zeros": lambda: Zeros(k),
        "constant": lambda: Constant(z),
        "noise": lambda: Noise(z, padding=own.summary.padding, redraw=True, seed=seed),
        # √2 gives sines and cosines a mean square of 1, that of a calibrated z.
        "clock": lambda: Clock(k, amplitude=math.sqrt(2)),
        "stale": lambda: Stale(own, epoch_steps),
        "yoked": lambda: Received(k),
        "own": lambda: own,
        "own-gradient": lambda: own,
    }
    return made[name]()


def build_arm(settings: NetworkTrial, epoch_steps: int) -> ConvNet:
    """Build the counted network of some settings.

    Args:
        settings: of the network.
        epoch_steps: optimiser steps in an epoch.

    Returns:
        The network, on the CPU, in float32; for the signal ``yoked`` it has yet to be told anything.

    Raises:
        ValueError: there is no such network, or it has feedback of its own.
    """
    model = build(settings.model, settings.seed)
    if settings.signal is None:
        return model
    # W, b and the data order are those of the seed alone.
    seed = settings.seed + SALTS * settings.salt
    if settings.training.subspace:  # before its subspace is drawn: V moves in it too
        k = settings.training.subspace.dimensions
        signal: Signal = Zeros(k) if settings.signal == "zeros" else Received(k)
    else:
        assert settings.summary is not None
        signal = make_signal(settings.signal, model, settings.summary, seed, epoch_steps)
    attach(model, "fc1", signal=signal, conditioning=settings.conditioning)
    with torch.no_grad():
        v = model.get_parameter("fc1.feedback_weight")
        v.copy_(initial_values("fc1.feedback_weight", v.shape, model.fc1.in_features + v.shape[1], seed))
    return model


def build_donor(settings: NetworkTrial, model: ConvNet, epoch_steps: int) -> tuple[ConvNet, int, Summary | None]:
    """Build the donor of a yoked trial: a network that hears its own weights, of a seed that nobody counts.

    Args:
        settings: of the counted network, which is yoked.
        model: its counted network, with its initial weights.
        epoch_steps: optimiser steps in an epoch.

    Returns:
        The donor, its seed, and the summary by which ``model`` hears it: that which ``model`` would have of its
        own weights, calibrated on them; all on the CPU. In a subspace there is no summary.
    """
    seed = DONOR_SEEDS + settings.seed
    donor = build_arm(settings.model_copy(update={"seed": seed, "signal": "own"}), epoch_steps)
    if settings.summary is None:
        return donor, seed, None
    listener = summary(settings.summary, settings.seed + SALTS * settings.salt)
    return donor, seed, OwnWeights(reads(model), listener).summary


@torch.no_grad()
def tell(donor: ConvNet, listener: Summary, model: ConvNet) -> None:
    """Let the counted network of a yoked trial hear the donor's present weights.

    Args:
        donor: whose weights are summarised.
        listener: the summary.
        model: the counted network.
    """
    assert isinstance(model.fc1.signal, Received)
    model.fc1.signal.receive(listener(*(read.tensor() for read in reads(donor))))
