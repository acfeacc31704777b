"""RMSNorm with a residual, quantised to fp8: ``values, scales[, y][, s]``; with an offset of one, Gemma's."""

from conformance.operations.fp8_outputs import fp8_operation
from conformance.operations.rms_norm import RMS_NORM

RMS_NORM_FP8 = fp8_operation("rms_norm_fp8", RMS_NORM)
