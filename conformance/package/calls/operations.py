"""Every operation of the package, called in one way by the package's own tests."""

from __future__ import annotations

from typing import Any

import torch

import normkernels
from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.tensors import Arguments
from normkernels.operations.operation import OPERATIONS

Results = tuple[torch.Tensor, ...]

# A form in place is decided as the other one.
FAMILIES = tuple(name for name, operation in OPERATIONS.items() if name == operation.family)


def call(operation: str, **changes: Any) -> Arguments:
    """Return the arguments of a call that kernels take, with ``changes``."""
    if operation in fp8.OPERATIONS:
        return fp8.call(operation, **changes)
    if operation in rms_norm.OPERATIONS:
        return rms_norm.call(**changes)
    return rms_norm_gated.call(**changes) if operation == "rms_norm_gated" else mrope.call(**changes)


def run(operation: str, arguments: Arguments) -> Results:
    """Make the call and return all of its results."""
    results = getattr(normkernels, operation)(**arguments)
    return results if isinstance(results, tuple) else (results,)


def explain(operation: str, arguments: Arguments) -> normkernels.Decision:
    """Return the decision on the call."""
    return normkernels.explain(operation, **arguments)


def assert_right(operation: str, arguments: Arguments, results: Results) -> None:
    """Check results against the contract, and what every path promises of them."""
    if operation in fp8.OPERATIONS:
        fp8.assert_right(operation, arguments, results)
    elif operation in rms_norm.OPERATIONS:
        rms_norm.assert_right(operation, arguments, results)
    elif operation == "rms_norm_gated":
        rms_norm_gated.assert_right(arguments, *results)
    else:
        q, k = results
        mrope.assert_right(arguments, (q, k))
