"""The suite never fails a right implementation, and its bounds are tight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import reduce
from operator import add

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.oracle.comparison import Comparison, compare
from conformance.oracle.contract import Contract
from conformance.properties.measure import intervals, measure
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.summation import RIGHT
from conformance.selftest.nightly import soaked

# in total over dtypes: 10**8 in a nightly run
ELEMENTS = soaked(34_000_000)
CHUNK = soaked(2**18)
PROPERTIES = ("values", "layout", "specials", "contract", "row_independence", "in_place", "empty", "errors")


def _case(dtype: str, n: int, profile: str, *, gate_last: bool, elements: int = CHUNK, seed: int = 0) -> Case:
    shape = (elements // n, n)
    tensors = (
        ("x", TensorSpec(shape, dtype, values=profile)),
        ("gate", TensorSpec(shape, dtype, values="gate")),
        ("weight", TensorSpec((n,), dtype, values="weight")),
    )
    flags = (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", gate_last))
    return Case("rms_norm_gated", tensors, flags, seed)


def _run(adapter: Correct, case: Case, values: dict[str, torch.Tensor]) -> torch.Tensor:
    return adapter.rms_norm_gated(values["x"], values["gate"], values["weight"], **dict(case.flags))  # type: ignore[arg-type]


def _compared(case: Case) -> Iterator[Comparison]:
    """Compare every right implementation on a case; those that declare the same sums share the interval."""
    values = values_of(case)
    n = case.tensors[0][1].shape[-1]
    allowed = {}
    for kind in RIGHT:
        adapter = kind()
        contract = adapter.contract(case.operation)
        depth = contract.additions(n)
        if depth not in allowed:
            allowed[depth] = intervals(Subject(adapter), contract, case, values, slice(0, case.rows))["y"]
        yield compare(kind.__name__, _run(adapter, case, values), allowed[depth], case.tensors[0][1].shape, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_implementation_is_outside(dtype: str) -> None:
    """Over widths, value profiles and both gate orders no element is judged wrong."""
    drawn = itertools.product((3, 128, 769, 5120), ("normal", "rows", "constant", "large"), (True, False))
    cases = [_case(dtype, n, profile, gate_last=last) for n, profile, last in drawn]
    total = reduce(add, (comparison for case in cases for comparison in _compared(case)))

    assert total.outside == 0, total.first
    assert total.elements >= ELEMENTS


def test_a_soak_compares_a_tenth_in_every_run() -> None:
    """The part that a run compares is no way to compare nothing."""
    assert len(DTYPES) * ELEMENTS >= 10**7


@pytest.mark.parametrize("kind", RIGHT)
def test_right_implementation_never_fails(kind: type[Correct]) -> None:
    """No verdict of the quick profile is against an implementation that follows its declaration."""
    subject = Subject(kind())
    chosen = items(subject, properties=PROPERTIES)
    verdicts = [verdict for item in chosen for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert set(PROPERTIES) <= {verdict.property for verdict in verdicts if verdict.status is Status.PASSED}


NARROW = (1, 2, 3, 7, 16, 33, 100, 128, 256)
WIDE = (257, 512, 769, 1024, 2048, 4096, 5120)


@pytest.mark.parametrize(("widths", "share"), [(NARROW, 0.999), (WIDE, 0.998)], ids=["narrow", "wide"])
@pytest.mark.parametrize("gate_last", [True, False], ids=["gate last", "gate first"])
def test_almost_every_bfloat16_element_has_one_right_value(
    widths: tuple[int, ...],
    share: float,
    gate_last: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The contract of one rounding leaves a choice for one element in a thousand; wide rows, for two."""
    adapter, total = Correct(), Comparison()
    contract = Contract(depth="tile")
    for n, profile in itertools.product(widths, ("normal", "rows")):
        case = _case("bfloat16", n, profile, gate_last=gate_last, elements=2**17)
        values = values_of(case)
        total += measure(Subject(adapter), contract, case, values, (_run(adapter, case, values),))

    assert total.outside == 0, total.first
    assert total.exact / total.elements >= share
