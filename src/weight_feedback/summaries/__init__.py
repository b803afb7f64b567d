"""Summaries: functions from weight tensors to a vector ``z`` of ``k`` numbers."""

from weight_feedback.summaries.base import Summary
from weight_feedback.summaries.moments import Moments
from weight_feedback.summaries.pooling import AvgPool, Match, MaxPool, match_dimensions
from weight_feedback.summaries.projections import DenseProjection, KroneckerProjection, Projection
from weight_feedback.summaries.sketches import CountSketch

__all__ = [
    "AvgPool",
    "CountSketch",
    "DenseProjection",
    "KroneckerProjection",
    "Match",
    "MaxPool",
    "Moments",
    "Projection",
    "Summary",
    "match_dimensions",
]
