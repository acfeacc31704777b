"""The formula of ``quantise_fp8`` is right by fractions, and fails no right implementation."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import BAD
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.cases.values import draw
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import Machine
from conformance.oracle.comparison import Comparison
from conformance.oracle.contract import Contract, rounded
from conformance.properties.measure import measure
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes.correct_quantise_fp8 import RIGHT, CorrectQuantiseFp8
from conformance.selftest.nightly import soaked

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "quantise_fp8_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["quantise_fp8"]
CONTRACTS = {"unrounded": Contract(), "power_of_two": Contract(frozenset({"power_of_two"}))}
CHUNK = soaked(2**19)
# in total over dtypes: 10**7 in a nightly run
ELEMENTS = soaked(3_400_000)
PROPERTIES = ("values", "layout", "specials", "row_independence", "empty", "errors")
# width, group, fp8 type, profile of x
SHAPES = (
    (128, 128, "float8_e4m3fn", "normal"),
    (769, 100, "float8_e4m3fnuz", "rows"),
    (2048, 64, "float8_e4m3fnuz", "blocks"),
    (5120, None, "float8_e4m3fn", "large"),
    (128, 64, "float8_e4m3fn", "fp8_ties"),
)


def _case(dtype: str, n: int, group: int | None, fp8: str, profile: str) -> Case:
    flags = (("fp8_dtype", fp8), ("quant_group", group), ("scale_layout", "row"))
    return Case("quantise_fp8", (("x", TensorSpec((CHUNK // n, n), dtype, values=profile)),), flags)


def _compared(kind: type[CorrectQuantiseFp8], case: Case) -> Comparison:
    values = values_of(case)
    outputs = kind().quantise_fp8(**materialize(case, values, "cpu", POISONS[0]).arguments)
    return measure(Subject(kind()), Contract(), case, values, outputs)


@pytest.mark.parametrize("how", CONTRACTS)
@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in CASES])
def test_formula_holds_the_quantisation_in_fractions(golden: dict[str, Any], how: str) -> None:
    """The true scales are in narrow intervals, and the true fp8 numbers are allowed, nearly always alone."""
    rows = [[float.fromhex(value) for value in row] for row in golden["x"]]
    x = torch.tensor(rows, dtype=torch.float64).to(getattr(torch, golden["dtype"]))
    flags = tuple((name, golden[name]) for name in ("fp8_dtype", "quant_group"))
    case = Case("quantise_fp8", (("x", TensorSpec(tuple(x.shape), golden["dtype"])),), flags)
    allowed = OPERATION.formula(Machine(), CONTRACTS[how], {"x": x}, case)
    scales, values = allowed["scales"], rounded(allowed["values"], getattr(torch, golden["fp8_dtype"]))
    true = torch.tensor([[float(value) for value in row] for row in golden[how]["scales"]], dtype=torch.float64)
    numbers = torch.tensor([[float.fromhex(value) for value in row] for row in golden[how]["values"]])

    assert scales.contains(true).all()
    assert how == "power_of_two" or (scales.hi - scales.lo <= 1e-6 * true).all()
    assert values.contains(numbers.double()).all()
    assert (values.lo == values.hi).double().mean() >= 0.95


def test_ties_have_one_right_value_where_the_scale_is_one() -> None:
    """Halfway between two numbers of e4m3fn the even one is right; its neighbour is not allowed."""
    x = draw("fp8_ties", (64, 128), torch.bfloat16, torch.Generator().manual_seed(3))
    flags = (("fp8_dtype", "float8_e4m3fn"), ("quant_group", 128))
    case = Case("quantise_fp8", (("x", TensorSpec((64, 128), "bfloat16")),), flags)
    given = {"x": x, "scales": torch.ones(64, 1)}
    allowed = rounded(OPERATION.formula(Machine(), Contract(), given, case)["values"], torch.float8_e4m3fn)

    assert (allowed.lo == allowed.hi).all()
    assert torch.equal(allowed.lo, x.to(torch.float8_e4m3fn).double())
    assert (allowed.lo[:, 1::2].abs() > x[:, 1::2].double().abs()).any()
    assert (allowed.lo[:, 1::2].abs() < x[:, 1::2].double().abs()).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_implementation_is_outside(dtype: str) -> None:
    """Over widths, groups, both types and value profiles no element is judged wrong."""
    total = Comparison()
    for kind, shape in itertools.product(RIGHT, SHAPES):
        total += _compared(kind, _case(dtype, *shape))

    assert total.outside == 0, total.first
    assert total.elements >= ELEMENTS


# every implementation in one dtype; the test above covers all of them
@pytest.mark.parametrize(("kind", "dtype"), list(zip(RIGHT, itertools.cycle(DTYPES), strict=False)))
def test_right_implementation_never_fails(kind: type[CorrectQuantiseFp8], dtype: str) -> None:
    """No verdict of the quick profile is against an implementation that follows its declaration."""
    subject = Subject(kind())
    every = items(subject, operations=("quantise_fp8",), properties=PROPERTIES)
    chosen = [item for item in every if item.dtype == dtype]
    verdicts = [verdict for item in chosen for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert verdicts


@pytest.mark.parametrize("dtype", DTYPES)
def test_almost_every_fp8_number_has_one_right_value(dtype: str) -> None:
    """Ties leave a choice, and so do scales, one in 129, which no two ways to divide give alike."""
    comparison = _compared(CorrectQuantiseFp8, _case(dtype, 128, 128, "float8_e4m3fn", "normal"))

    assert comparison.exact / comparison.elements >= 0.98
