"""The operations that the suite can judge, by name. Adding one adds a file here, and a line below."""

from conformance.operations.gemma_rms_norm import GEMMA_RMS_NORM
from conformance.operations.operation import Arguments, Operation, Output, Scaling
from conformance.operations.rms_norm import RMS_NORM
from conformance.operations.rms_norm_gated import RMS_NORM_GATED
from conformance.operations.term import Term

OPERATIONS: dict[str, Operation] = {
    operation.name: operation for operation in (RMS_NORM, GEMMA_RMS_NORM, RMS_NORM_GATED)
}

__all__ = ["OPERATIONS", "Arguments", "Operation", "Output", "Scaling", "Term"]
