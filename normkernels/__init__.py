"""Fused normalisation kernels for LLM inference, each with a native form and a reason for its path."""

from normkernels.dispatch import Decision, Path, Reason, Rejection
from normkernels.errors import InvalidCall, PathUnavailable
from normkernels.modules import RMSNormGated, from_module
from normkernels.ops import explain, rms_norm_gated

__all__ = [
    "Decision",
    "InvalidCall",
    "Path",
    "PathUnavailable",
    "RMSNormGated",
    "Reason",
    "Rejection",
    "explain",
    "from_module",
    "rms_norm_gated",
]
