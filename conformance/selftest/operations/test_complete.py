"""Each operation has what the tests of all operations need; a failure names the file to write."""

from __future__ import annotations

import pytest

from conformance.adapter import load
from conformance.cases.corpus import fixtures, model_shapes, saved_cases
from conformance.operations import OPERATIONS
from conformance.selftest.fakes import right

# operations that quantise the result of another have golden values of the quantisation; Gemma's norm is a module's
GOLDEN = {"rms_norm_fp8": "fp8_outputs", "rms_norm_gated_fp8": "fp8_outputs"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_a_right_implementation(operation: str) -> None:
    """Its fakes are made of this class, which implements it and says so."""
    assert operation in right(operation).operations


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_golden_values(operation: str) -> None:
    """The formula is compared with the arithmetic of others."""
    stem = GOLDEN.get(operation, operation)
    files = [file.name for file in (fixtures() / "golden").iterdir() if file.name.startswith(f"{stem}_")]

    assert files, (
        f"{operation} has no golden values: add a function to conformance/selftest/make_golden.py that writes "
        f"fixtures/golden/{stem}_mpmath.json, and conformance/selftest/oracle/test_oracle_{stem}.py"
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_a_native_form(operation: str) -> None:
    """The native adapter implements it in plain PyTorch."""
    native = load("native")

    assert hasattr(native, operation), (
        f"{operation} has no native form: write it in conformance/adapters/native.py"
    )
    assert operation in native.contracts


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_called_by_a_real_model(operation: str) -> None:
    """Every run judges the calls of a model."""
    assert any(shape.operation == operation for shape in model_shapes()), (
        f"{operation} has no call of a real model: add a table [[{operation}]] to a file of fixtures/models"
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_saved_cases(operation: str) -> None:
    """Every run judges the calls that came nearest to their bounds."""
    assert any(case.operation == operation for case in saved_cases()), (
        f"{operation} has no saved case: run python -m conformance.selftest.find_worst native --op {operation}"
    )
