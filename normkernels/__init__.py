"""Fused normalisation kernels for LLM inference, each with a native form and a reason for its path."""

from normkernels.dispatch import Decision, Path, Reason, Rejection
from normkernels.errors import InvalidCall, PathUnavailable
from normkernels.modules import GemmaRMSNorm, RMSNorm, RMSNormGated, from_module
from normkernels.ops import explain, gemma_rms_norm, mrope, mrope_, rms_norm, rms_norm_gated

__all__ = [
    "Decision",
    "GemmaRMSNorm",
    "InvalidCall",
    "Path",
    "PathUnavailable",
    "RMSNorm",
    "RMSNormGated",
    "Reason",
    "Rejection",
    "explain",
    "from_module",
    "gemma_rms_norm",
    "mrope",
    "mrope_",
    "rms_norm",
    "rms_norm_gated",
]
