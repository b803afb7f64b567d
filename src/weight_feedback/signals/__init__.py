"""Signals: what a feedback layer hears. Its own weights, or a control in their place.

``forward()`` takes nothing, returns ``z`` of shape ``[out_features]``, and is pure: evaluation, a checkpoint's
second forward or gradient accumulation never move time. `Signal.advance`, called through
``weight_feedback.advance(model)`` once after each optimiser step, does.
"""

from weight_feedback.signals.base import Read, Signal
from weight_feedback.signals.controls import Clock, Constant, Noise, Received, Stale, Zeros
from weight_feedback.signals.own import OwnWeights, Permuted

__all__ = [
    "Clock",
    "Constant",
    "Noise",
    "OwnWeights",
    "Permuted",
    "Read",
    "Received",
    "Signal",
    "Stale",
    "Zeros",
]
