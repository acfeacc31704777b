"""Gated RMSNorm, quantised to fp8: ``values, scales[, y]``. Groups of the two steps are independent."""

from conformance.operations.fp8_outputs import fp8_operation
from conformance.operations.rms_norm_gated import RMS_NORM_GATED

RMS_NORM_GATED_FP8 = fp8_operation("rms_norm_gated_fp8", RMS_NORM_GATED)
