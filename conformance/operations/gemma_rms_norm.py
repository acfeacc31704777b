"""Gemma's RMSNorm: ``rms_norm`` with one added to the weight, in float32, every time."""

from conformance.operations.rms_norm import norm_operation

GEMMA_RMS_NORM = norm_operation("gemma_rms_norm", ("same", "float32"))
