"""The operations that the suite can judge, by name.

An operation of this repository adds a file here, and its name below; others come from outside.
"""

from conformance.cases.case import in_order
from conformance.cases.values import PROFILES
from conformance.operations.gelu_and_mul import GELU_AND_MUL
from conformance.operations.gemma_rms_norm import GEMMA_RMS_NORM
from conformance.operations.l2_norm import L2_NORM
from conformance.operations.layer_norm import LAYER_NORM
from conformance.operations.mrope import MROPE
from conformance.operations.operation import Arguments, Operation, Output, Scaling, flags_of, telling_cases
from conformance.operations.qk_norm_rope import QK_NORM_ROPE
from conformance.operations.quantise_fp8 import QUANTISE_FP8
from conformance.operations.rms_norm import RMS_NORM
from conformance.operations.rms_norm_fp8 import RMS_NORM_FP8
from conformance.operations.rms_norm_gated import RMS_NORM_GATED
from conformance.operations.rms_norm_gated_fp8 import RMS_NORM_GATED_FP8
from conformance.operations.rms_norm_int8 import RMS_NORM_INT8
from conformance.operations.rope import ROPE
from conformance.operations.silu_and_mul import SILU_AND_MUL
from conformance.operations.softmax import SOFTMAX
from conformance.operations.term import Term

OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> None:
    """Add an operation, and the value profiles of its own.

    Raises ``ValueError`` where one of their names exists already, or where cases would sort its tensors otherwise.
    """
    if operation.name in OPERATIONS:
        message = f"operation {operation.name!r} exists already, give it another name"
        raise ValueError(message)
    taken = sorted(set(operation.profiles) & set(PROFILES))
    if taken:
        message = f"operation {operation.name!r}: profile {taken[0]!r} exists already, give it another name"
        raise ValueError(message)
    first = operation.positional[0]
    tensors = {*operation.positional, *operation.keywords}
    if in_order(tensors)[0] != first:
        message = (
            f"operation {operation.name!r}: cases would name {in_order(tensors)[0]!r} before the first tensor, "
            f"rename {first!r}, such as to 'x'"
        )
        raise ValueError(message)
    PROFILES.update(operation.profiles)
    OPERATIONS[operation.name] = operation


for _operation in (
    RMS_NORM,
    GEMMA_RMS_NORM,
    RMS_NORM_GATED,
    MROPE,
    RMS_NORM_FP8,
    RMS_NORM_GATED_FP8,
    LAYER_NORM,
    SILU_AND_MUL,
    L2_NORM,
    SOFTMAX,
    ROPE,
    GELU_AND_MUL,
    QUANTISE_FP8,
    QK_NORM_ROPE,
    RMS_NORM_INT8,
):
    register(_operation)

__all__ = [
    "OPERATIONS",
    "Arguments",
    "Operation",
    "Output",
    "Scaling",
    "Term",
    "flags_of",
    "register",
    "telling_cases",
]
