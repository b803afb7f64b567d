"""Give any PyTorch module a view of its own weights, cheaply, and take it away again exactly."""

from weight_feedback.attach import (
    advance,
    attach,
    feedback_layers,
    feedback_parameters,
    precompute,
    refresh,
    remove,
    signals,
)
from weight_feedback.check import Check, CheckError, LayerCheck, check
from weight_feedback.diagnose import Diagnosis, LayerDiagnosis, diagnose
from weight_feedback.fold import fold
from weight_feedback.layers import FeedbackConv1d, FeedbackConv2d, FeedbackConv3d, FeedbackLayer, FeedbackLinear
from weight_feedback.pretrained import PretrainedError, load_pretrained, save_pretrained
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
from weight_feedback.streams import stream
from weight_feedback.subspace import Coordinates, Subspace
from weight_feedback.summaries import (
    AvgPool,
    CountSketch,
    DenseProjection,
    KroneckerProjection,
    Match,
    MaxPool,
    Moments,
    Projection,
    Summary,
    match_dimensions,
)

__version__ = "0.1.0"

__all__ = [
    "AvgPool",
    "Check",
    "CheckError",
    "Clock",
    "Constant",
    "Coordinates",
    "CountSketch",
    "DenseProjection",
    "Diagnosis",
    "FeedbackConv1d",
    "FeedbackConv2d",
    "FeedbackConv3d",
    "FeedbackLayer",
    "FeedbackLinear",
    "KroneckerProjection",
    "LayerCheck",
    "LayerDiagnosis",
    "Match",
    "MaxPool",
    "Moments",
    "Noise",
    "OwnWeights",
    "Permuted",
    "PretrainedError",
    "Projection",
    "Read",
    "Received",
    "Signal",
    "Stale",
    "Subspace",
    "Summary",
    "Zeros",
    "advance",
    "attach",
    "check",
    "diagnose",
    "feedback_layers",
    "feedback_parameters",
    "fold",
    "load_pretrained",
    "match_dimensions",
    "precompute",
    "refresh",
    "remove",
    "save_pretrained",
    "signals",
    "stream",
]
