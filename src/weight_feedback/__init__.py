"""Give any PyTorch module a view of its own weights, cheaply, and take it away again exactly."""

from typing import TYPE_CHECKING

from weight_feedback.lazy import hand_on as _hand_on

if TYPE_CHECKING:
    # For type checkers and editors: the same names as below.
    from weight_feedback.attach import advance as advance
    from weight_feedback.attach import attach as attach
    from weight_feedback.attach import feedback_layers as feedback_layers
    from weight_feedback.attach import feedback_parameters as feedback_parameters
    from weight_feedback.attach import precompute as precompute
    from weight_feedback.attach import refresh as refresh
    from weight_feedback.attach import remove as remove
    from weight_feedback.attach import signals as signals
    from weight_feedback.check import Check as Check
    from weight_feedback.check import CheckError as CheckError
    from weight_feedback.check import LayerCheck as LayerCheck
    from weight_feedback.check import check as check
    from weight_feedback.diagnose import Diagnosis as Diagnosis
    from weight_feedback.diagnose import LayerDiagnosis as LayerDiagnosis
    from weight_feedback.diagnose import diagnose as diagnose
    from weight_feedback.fold import fold as fold
    from weight_feedback.layers import FeedbackConv1d as FeedbackConv1d
    from weight_feedback.layers import FeedbackConv2d as FeedbackConv2d
    from weight_feedback.layers import FeedbackConv3d as FeedbackConv3d
    from weight_feedback.layers import FeedbackLayer as FeedbackLayer
    from weight_feedback.layers import FeedbackLinear as FeedbackLinear
    from weight_feedback.pretrained import PretrainedError as PretrainedError
    from weight_feedback.pretrained import load_pretrained as load_pretrained
    from weight_feedback.pretrained import save_pretrained as save_pretrained
    from weight_feedback.signals import Clock as Clock
    from weight_feedback.signals import Constant as Constant
    from weight_feedback.signals import Noise as Noise
    from weight_feedback.signals import OwnWeights as OwnWeights
    from weight_feedback.signals import Permuted as Permuted
    from weight_feedback.signals import Read as Read
    from weight_feedback.signals import Received as Received
    from weight_feedback.signals import Signal as Signal
    from weight_feedback.signals import Stale as Stale
    from weight_feedback.signals import Zeros as Zeros
    from weight_feedback.streams import stream as stream
    from weight_feedback.subspace import Coordinates as Coordinates
    from weight_feedback.subspace import Subspace as Subspace
    from weight_feedback.summaries import AvgPool as AvgPool
    from weight_feedback.summaries import CountSketch as CountSketch
    from weight_feedback.summaries import DenseProjection as DenseProjection
    from weight_feedback.summaries import KroneckerProjection as KroneckerProjection
    from weight_feedback.summaries import Match as Match
    from weight_feedback.summaries import MaxPool as MaxPool
    from weight_feedback.summaries import Moments as Moments
    from weight_feedback.summaries import Projection as Projection
    from weight_feedback.summaries import Summary as Summary
    from weight_feedback.summaries import match_dimensions as match_dimensions

__version__ = "0.1.0"

__all__ = _hand_on(
    __name__,
    {
        "attach": [
            "advance",
            "attach",
            "feedback_layers",
            "feedback_parameters",
            "precompute",
            "refresh",
            "remove",
            "signals",
        ],
        "check": ["Check", "CheckError", "LayerCheck", "check"],
        "diagnose": ["Diagnosis", "LayerDiagnosis", "diagnose"],
        "fold": ["fold"],
        "layers": ["FeedbackConv1d", "FeedbackConv2d", "FeedbackConv3d", "FeedbackLayer", "FeedbackLinear"],
        "pretrained": ["PretrainedError", "load_pretrained", "save_pretrained"],
        "signals": [
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
        ],
        "streams": ["stream"],
        "subspace": ["Coordinates", "Subspace"],
        "summaries": [
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
        ],
    },
)
