"""The operations that the suite can judge, by name. A new operation adds a file here, and a line below."""

from conformance.operations.gemma_rms_norm import GEMMA_RMS_NORM
from conformance.operations.mrope import MROPE
from conformance.operations.operation import Arguments, Operation, Output, Scaling, flags_of, telling_cases
from conformance.operations.rms_norm import RMS_NORM
from conformance.operations.rms_norm_fp8 import RMS_NORM_FP8
from conformance.operations.rms_norm_gated import RMS_NORM_GATED
from conformance.operations.rms_norm_gated_fp8 import RMS_NORM_GATED_FP8
from conformance.operations.term import Term

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (RMS_NORM, GEMMA_RMS_NORM, RMS_NORM_GATED, MROPE, RMS_NORM_FP8, RMS_NORM_GATED_FP8)
}

__all__ = ["OPERATIONS", "Arguments", "Operation", "Output", "Scaling", "Term", "flags_of", "telling_cases"]
