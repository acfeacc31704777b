"""The formula of ``rms_norm_int8`` is right by 50 digits and fractions, and fails no right implementation."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import BAD
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import Machine
from conformance.oracle.comparison import Comparison, compare
from conformance.oracle.contract import Contract, round_once, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import measure
from conformance.properties.parity import assert_alike
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes.correct_int8_norm import RIGHT, CorrectInt8Norm
from conformance.selftest.nightly import soaked

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden" / "rms_norm_int8_mpmath.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
OPERATION = OPERATIONS["rms_norm_int8"]
CONTRACT = Contract(frozenset({"sum", "unquantised"}), "tile")
INF, NAN = math.inf, math.nan
CHUNK = soaked(2**18)
# in total over dtypes: 10**7 in a nightly run
ELEMENTS = soaked(3_400_000)
PROPERTIES = ("values", "layout", "specials", "contract", "row_independence", "in_place", "empty", "errors")


def _case(dtype: str, n: int, level: str, eps: float = 1e-6) -> Case:
    profiles = {"int8_ties": ("signs", "zeros", "int8_ties"), "large_residual": ("normal", "large", "weight")}
    x, residual, weight = profiles.get(level, (level, level, "weight"))
    tensors = (
        ("x", TensorSpec((CHUNK // n, n), dtype, values=x)),
        ("residual", TensorSpec((CHUNK // n, n), dtype, values=residual)),
        ("weight", TensorSpec((n,), dtype, values=weight)),
    )
    return Case("rms_norm_int8", tensors, (("eps", eps),), seed=3)


def _outputs(kind: type[CorrectInt8Norm], case: Case, values: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    x, residual, weight = (values[name] for name in ("x", "residual", "weight"))
    return kind().rms_norm_int8(x, weight, residual=residual, eps=case.flag("eps"))


def _compared(kind: type[CorrectInt8Norm], case: Case) -> Comparison:
    values = values_of(case)
    return measure(Subject(kind()), CONTRACT, case, values, _outputs(kind, case, values))


def _allowed(y: list[float], scale: float) -> Interval:
    """Return the integers that are allowed for rows of weights, whose norm is y, given a scale."""
    weight = torch.tensor(y)
    tensors = (("x", TensorSpec((1, len(y)), "float32")), ("weight", TensorSpec((len(y),), "float32")))
    given = {"x": torch.ones(1, len(y)), "weight": weight, "scales": torch.tensor([[scale]])}
    case = Case("rms_norm_int8", tensors, (("eps", 0.0),))
    return rounded(OPERATION.formula(Machine(), CONTRACT, given, case)["values"], torch.int8)


@pytest.mark.parametrize("golden", [pytest.param(case, id=case["id"]) for case in CASES])
def test_formula_holds_the_quantisation_at_50_digits(golden: dict[str, Any]) -> None:
    """The true scales are in narrow intervals, and the true integers are allowed, most of them alone."""

    def matrix(rows: list[list[str]]) -> torch.Tensor:
        numbers = [[float.fromhex(value) for value in row] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, golden["dtype"]))

    given = {name: matrix(golden[name]) for name in ("x", "residual") if golden[name]}
    given |= {"weight": matrix([golden["weight"]])[0]} if golden["weight"] else {}
    specs = tuple((name, TensorSpec(tuple(tensor.shape), golden["dtype"])) for name, tensor in given.items())
    case = Case("rms_norm_int8", specs, (("eps", float.fromhex(golden["eps"])),))
    allowed = OPERATION.formula(Machine(), CONTRACT, given, case)
    true = torch.tensor([[float(value)] for value in golden["scales"]], dtype=torch.float64)
    scales, values = allowed["scales"], rounded(allowed["values"], torch.int8)

    assert scales.contains(true).all()
    assert values.contains(torch.tensor(golden["values"]).double()).all()
    assert golden["dtype"] != "float32" or (scales.hi - scales.lo <= 1e-5 * true).all()
    assert (values.hi - values.lo).max() <= 1
    assert (values.lo == values.hi).double().mean() >= 0.5


def test_integers_are_rounded_half_to_even_and_saturate() -> None:
    """Rounding to int8 knows its ends, and keeps NaN apart."""
    values = torch.tensor([0.5, 1.5, -0.5, -2.5, 126.5, 127.4, 1e9, -INF, NAN], dtype=torch.float64)
    got = round_once(values, torch.int8)

    assert got[:-1].tolist() == [0.0, 2.0, 0.0, -2.0, 126.0, 127.0, 127.0, -128.0]
    assert got[-1].isnan()


def test_steps_of_integers_are_one() -> None:
    """A value that is off is said to be off by as many steps."""
    exact = Interval.exactly(torch.tensor([[3.0, 100.0]]))
    wrong = compare("values", torch.tensor([[3, 97]], dtype=torch.int8), exact, (1, 2), 0)

    assert wrong.outside == 1
    assert wrong.first is not None
    assert wrong.first.ulps == 3.0


def test_integers_agree_within_one() -> None:
    """Two paths may round to neighbours, across zero too, and no further."""
    numbers = torch.tensor([-127, -1, 0, 126], dtype=torch.int8)

    assert_alike((numbers,), (numbers + 1,), torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_alike((numbers[:3],), (numbers[:3] + 2,), torch.bfloat16)


def test_ties_have_one_right_integer_where_the_scale_is_one() -> None:
    """Halfway between two integers the even one is right alone; nothing passes 127."""
    got = _allowed([127.0, 2.5, 3.5, -2.5, -3.5, 0.5, -0.5], 1.0)
    beyond = _allowed([127.0, -127.0], 0.99)

    # the norm of float32 is not known to the last bit: of 16 bits it is, as they round it
    tied = _compared(CorrectInt8Norm, _case("bfloat16", 128, "int8_ties"))
    assert got.contains(torch.tensor([[127.0, 2.0, 4.0, -2.0, -4.0, 0.0, 0.0]], dtype=torch.float64)).all()
    assert [127.0, -127.0] == beyond.lo[0].tolist() == beyond.hi[0].tolist()
    assert tied.outside == 0
    assert tied.exact / tied.elements >= 0.99


@pytest.mark.parametrize("scale", [INF, NAN])
def test_no_integer_is_wrong_where_a_quotient_is_nan(scale: float) -> None:
    """A row whose scale is no number has any integers; of an infinite one finite numbers are zero."""
    got = _allowed([1.0, INF], scale)
    some = torch.tensor([[0.0 if scale == INF else 5.0, -128.0]], dtype=torch.float64)

    assert got.contains(some).all()
    assert (got.lo[0, 0] == got.hi[0, 0]) == (scale == INF)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_of_a_right_implementation_is_outside(dtype: str) -> None:
    """Over widths and value profiles no element is judged wrong."""
    levels = ("normal", "rows", "large", "large_residual", "int8_ties")
    total = Comparison()
    for kind, n, level in itertools.product(RIGHT, (128, 769), levels):
        total += _compared(kind, _case(dtype, n, level))

    assert total.outside == 0, total.first
    assert total.elements >= ELEMENTS


# every implementation in one dtype; the test above covers all of them
@pytest.mark.parametrize(("kind", "dtype"), list(zip(RIGHT, itertools.cycle(DTYPES), strict=False)))
def test_right_implementation_never_fails(kind: type[CorrectInt8Norm], dtype: str) -> None:
    """No verdict of the quick profile is against an implementation that follows its declaration."""
    subject = Subject(kind())
    every = items(subject, operations=("rms_norm_int8",), properties=PROPERTIES)
    chosen = [item for item in every if item.dtype == dtype]
    verdicts = [verdict for item in chosen for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert verdicts


@pytest.mark.parametrize("dtype", DTYPES)
def test_almost_every_integer_has_one_right_value(dtype: str) -> None:
    """Where y is next to a tie of its dtype, both of its neighbours are allowed, and so may be two integers."""
    comparison = _compared(CorrectInt8Norm, _case(dtype, 128, "normal"))

    # of 257 outputs one is a scale, in fp32 and never determined to the last bit
    assert comparison.exact / comparison.elements >= 0.995
