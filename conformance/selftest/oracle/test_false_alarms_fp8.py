"""The suite never fails a right implementation of fp8 outputs, and its bounds are tight."""

from __future__ import annotations

import itertools

import pytest

from conformance.calls.call import Subject
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.oracle.comparison import Comparison
from conformance.properties.measure import measure
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.quantisation import RIGHT, PowersOfTwo
from conformance.selftest.nightly import soaked

LOW = ("bfloat16", "float16")
CHUNK = 2**17
# in total over dtypes and operations: 10**7 in a nightly run
ELEMENTS = soaked(1_700_000)
PROPERTIES = ("values", "layout", "specials", "contract", "row_independence", "empty", "errors")
# width, group, fp8 type, profile of x
SHAPES = (
    (128, 128, "float8_e4m3fn", "normal"),
    (769, 100, "float8_e4m3fnuz", "rows"),
    (2048, 64, "float8_e4m3fnuz", "blocks"),
    (5120, None, "float8_e4m3fn", "large"),
)


def _case(
    operation: str, dtype: str, n: int, group: int | None, fp8: str, profile: str, elements: int = CHUNK
) -> Case:
    shape = (elements // n, n)
    gated = operation == "rms_norm_gated_fp8"
    tensors = (
        ("x", TensorSpec(shape, dtype, values=profile)),
        ("gate" if gated else "residual", TensorSpec(shape, dtype, values="gate" if gated else "normal")),
        ("weight", TensorSpec((n,), dtype, values="weight")),
    )
    flags = {"eps": 1e-6, "quant_group": group, "fp8_dtype": fp8, "scale_layout": "row", "also_unquantised": False}
    flags |= (
        {"activation": "silu", "group_size": None, "norm_before_gate": True} if gated else {"weight_offset": 1.0}
    )
    return Case(operation, tensors, tuple(flags.items()))


def _compared(kind: type[CorrectFp8], case: Case) -> Comparison:
    adapter = kind()
    values = values_of(case)
    arguments = materialize(case, values, "cpu", POISONS[0]).arguments
    outputs = getattr(adapter, case.operation)(**arguments)
    return measure(Subject(adapter), adapter.contract(case.operation), case, values, outputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", CorrectFp8.operations)
def test_no_element_of_a_right_implementation_is_outside(operation: str, dtype: str) -> None:
    """Over widths, groups, both types and value profiles no element is judged wrong."""
    total = Comparison()
    for kind, shape in itertools.product(RIGHT, SHAPES):
        total += _compared(kind, _case(operation, dtype, *shape, soaked(CHUNK)))

    assert total.outside == 0, total.first
    assert total.elements >= ELEMENTS


# every implementation as one operation in one dtype; the test above covers all of them
JUDGED = list(zip(RIGHT, itertools.cycle(CorrectFp8.operations), itertools.cycle(LOW[:1] + LOW), strict=False))


@pytest.mark.parametrize(("kind", "operation", "dtype"), JUDGED)
def test_right_implementation_never_fails(kind: type[CorrectFp8], operation: str, dtype: str) -> None:
    """No verdict of the quick profile is against an implementation that follows its declaration."""
    subject = Subject(kind())
    every = items(subject, operations=(operation,), properties=PROPERTIES)
    chosen = [item for item in every if item.dtype == dtype]
    verdicts = [verdict for item in chosen for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert set(PROPERTIES) <= {verdict.property for verdict in verdicts if verdict.status is Status.PASSED}


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("operation", CorrectFp8.operations)
def test_almost_every_fp8_number_has_one_right_value(operation: str, dtype: str) -> None:
    """In two of a hundred a neighbour is allowed too, because of scales and ties."""
    for fp8, profile in itertools.product(("float8_e4m3fn", "float8_e4m3fnuz"), ("normal", "rows")):
        comparison = _compared(CorrectFp8, _case(operation, dtype, 128, 128, fp8, profile))

        # one output of 129 is a scale, in fp32 and never determined to the last bit
        assert comparison.exact / comparison.elements >= 0.98


def test_powers_of_two_leave_less_choice() -> None:
    """A quotient by a power of two is exact, so ties of bf16 numbers have one right value too."""
    comparison = _compared(PowersOfTwo, _case("rms_norm_fp8", "bfloat16", 128, 128, "float8_e4m3fn", "normal"))

    assert comparison.exact / comparison.elements >= 0.998


def test_elements_are_of_three_outputs() -> None:
    """The elements counted above are values, scales and sums."""
    case = _case("rms_norm_fp8", "float32", 128, 64, "float8_e4m3fn", "normal")

    assert case.rows * (128 + 2 + 128) == _compared(CorrectFp8, case).elements
