"""Fused normalisation kernels for LLM inference, each with a native form and a reason for its path."""

from normkernels.counterparts import from_module, swap
from normkernels.dispatch import Decision, Path, Reason, Rejection
from normkernels.errors import InvalidCall, PathUnavailable
from normkernels.modules import GemmaRMSNorm, RMSNorm, RMSNormGated
from normkernels.ops import gemma_rms_norm, rms_norm, rms_norm_gated
from normkernels.ops_fp8 import rms_norm_fp8, rms_norm_gated_fp8
from normkernels.ops_mrope import apply_rotary_pos_emb, mrope, mrope_
from normkernels.routes import explain

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
    "apply_rotary_pos_emb",
    "explain",
    "from_module",
    "gemma_rms_norm",
    "mrope",
    "mrope_",
    "rms_norm",
    "rms_norm_fp8",
    "rms_norm_gated",
    "rms_norm_gated_fp8",
    "swap",
]
