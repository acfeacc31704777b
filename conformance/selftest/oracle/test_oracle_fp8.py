"""The formula of fp8 outputs is right by fractions, 50 digits, and IEEE 754 at the ends of the range."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.cases.case import Case, TensorSpec
from conformance.operations import OPERATIONS
from conformance.oracle import arithmetic
from conformance.oracle.arithmetic import MAX, Machine, U
from conformance.oracle.comparison import Comparison, compare
from conformance.oracle.contract import Contract, round_once, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import measure
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_fp8 import CorrectFp8

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden"
MACHINE = Machine()
INF, NAN = math.inf, math.nan

# --- rounding to fp8 ----------------------------------------------------------------------------------------

# bias of the exponent, largest number; both have three bits of mantissa
FORMATS = {torch.float8_e4m3fn: (7, 448.0), torch.float8_e4m3fnuz: (8, 240.0)}


def _number(code: int, dtype: torch.dtype) -> Fraction:
    """Return the number of seven bits, by the definition of the formats."""
    bias, _ = FORMATS[dtype]
    exponent, mantissa = code >> 3, code & 7
    if exponent == 0:
        return Fraction(mantissa, 8) * Fraction(2) ** (1 - bias)
    return (1 + Fraction(mantissa, 8)) * Fraction(2) ** (exponent - bias)


def _positive(dtype: torch.dtype) -> list[float]:
    """Return every non-negative number of the type, in order."""
    numbers = [float(_number(code, dtype)) for code in range(128)]
    return [number for number in numbers if number <= FORMATS[dtype][1]]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_numbers_of_the_type_are_those_of_its_definition(dtype: torch.dtype) -> None:
    """PyTorch and the formula decode every code to the same number."""
    numbers = _positive(dtype)
    codes = torch.arange(len(numbers), dtype=torch.uint8)

    assert torch.equal(codes.view(dtype).double(), torch.tensor(numbers, dtype=torch.float64))
    assert FORMATS[dtype][1] == numbers[-1] == torch.finfo(dtype).max


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_midpoints_go_to_even_and_their_neighbours_to_the_nearest(dtype: torch.dtype) -> None:
    """Between two numbers the tie rounds to the even code, and the adjacent float64 to their own sides."""
    numbers = torch.tensor(_positive(dtype), dtype=torch.float64)
    low, high = numbers[:-1], numbers[1:]
    tie = (low + high) / 2
    even = torch.where(torch.arange(len(low)) % 2 == 0, low, high)

    for sign in (1.0, -1.0):
        assert torch.equal(round_once(sign * low, dtype), sign * low)
        assert torch.equal(round_once(sign * tie, dtype), sign * even)
        assert torch.equal(round_once(sign * torch.nextafter(tie, low), dtype), sign * low)
        assert torch.equal(round_once(sign * torch.nextafter(tie, high), dtype), sign * high)


def _nearest_even(value: float, dtype: torch.dtype) -> float:
    """Round by the definition, in fractions: four digits, or multiples of the smallest number."""
    bias, largest = FORMATS[dtype]
    step = Fraction(2) ** max(math.frexp(value)[1] - 4, -2 - bias)
    # Python rounds a fraction's half to even
    return min(float(round(Fraction(value) / step) * step), largest)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rounding_agrees_with_fractions(dtype: torch.dtype) -> None:
    """Random float64 over every binade and below, and short ones that make ties, round by the definition."""
    draw = random.Random(0)  # noqa: S311 - test data
    values = [
        math.ldexp(draw.getrandbits(bits) | 1, draw.randint(-13, 10) - bits)
        for bits in (53, 5, 6)
        for _ in range(2000)
    ]

    rounded_once = round_once(torch.tensor(values, dtype=torch.float64), dtype).tolist()

    assert [_nearest_even(value, dtype) for value in values] == rounded_once


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rounding_saturates_and_keeps_nan(dtype: torch.dtype) -> None:
    """Numbers past the largest round to it, infinity too; NaN stays NaN, zero stays zero."""
    largest = FORMATS[dtype][1]
    values = torch.tensor([largest * 1.01, 1e300, INF, -INF, 0.0, -0.0, 1e-300, NAN], dtype=torch.float64)
    got = round_once(values, dtype)

    assert [largest, largest, largest, -largest, 0.0, 0.0, 0.0] == got[:-1].tolist()
    assert got[-1].isnan()


# --- the machine's steps ------------------------------------------------------------------------------------


def _exact(*values: float) -> Interval:
    return Interval.exactly(torch.tensor(values, dtype=torch.float64))


def test_a_quotient_holds_the_division_and_the_product_with_a_reciprocal() -> None:
    """In fp32 ``a / b`` and ``a * (1 / b)`` are inside, and the interval is at most ten roundings wide."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(4096, generator=draw) * torch.pow(10.0, 12 * torch.rand(4096, generator=draw) - 6)
    b = torch.rand(4096, generator=draw) * torch.pow(10.0, 12 * torch.rand(4096, generator=draw) - 6)
    got = MACHINE.quotient(Interval.exactly(a), Interval.exactly(b))

    for quotient in (a / b, a * (1.0 / b)):
        assert got.contains(quotient.double()).all()
    assert ((got.hi - got.lo) <= 10.01 * U * got.hi.abs()).all()


def test_a_quotient_by_a_power_of_two_is_exact() -> None:
    """There is no choice exactly if float32 represents the quotient."""
    got = MACHINE.quotient(_exact(3.0, 1.5, 2.0**-148, 3.0), _exact(0.25, 2.0**40, 4.0, 3.0))

    assert [True, True, False, False] == (got.lo == got.hi).tolist()
    assert [12.0, 1.5 * 2.0**-40] == got.lo[:2].tolist()


@pytest.mark.parametrize(
    ("a", "b", "number", "nan"),
    [
        (1.0, INF, 0.0, False),
        (INF, INF, None, True),
        (INF, 2.0, INF, False),
        (0.0, 0.0, None, True),
        (NAN, 2.0, None, True),
        (0.0, NAN, None, True),
    ],
)
def test_quotients_of_special_numbers_are_ieee(a: float, b: float, number: float | None, nan: bool) -> None:  # noqa: FBT001
    """Infinity over infinity and zero over zero are NaN, a number over infinity is zero."""
    got = MACHINE.quotient(_exact(a), _exact(b))

    assert nan == bool(got.nan)
    assert bool(got.lo.isnan()) == (number is None)
    assert number is None or number == got.lo.item() == got.hi.item()


def test_the_largest_magnitude_keeps_or_ignores_nan() -> None:
    """NaN is allowed as well as the largest of the numbers; without NaN there is no choice."""
    some = MACHINE.largest(_exact(1.0, -3.0, NAN, 2.0))
    none = MACHINE.largest(_exact(1.0, -3.0, 0.0))

    assert (True, 3.0, 3.0) == (bool(some.nan), some.lo.item(), some.hi.item())
    assert (False, 3.0, 3.0) == (bool(none.nan), none.lo.item(), none.hi.item())
    assert (True, 0.0) == (bool((only := MACHINE.largest(_exact(NAN, NAN))).nan), only.hi.item())


def test_powers_of_two_are_rounded_up() -> None:
    """The result is the least power not below; at a power itself the logarithm's error may give the next one."""
    got = MACHINE.power_of_two(_exact(0.3, 1.01, 2.0**-42 * 0.98, 1e30, INF))

    assert [0.5, 2.0, 2.0**-42, 2.0**100, INF] == got.lo.tolist() == got.hi.tolist()
    assert [0.25, 0.5, INF] == arithmetic._no_less(torch.tensor([0.25, 0.3, INF])).tolist()
    at = MACHINE.power_of_two(_exact(0.25))
    assert (0.25, 0.5) == (at.lo.item(), at.hi.item())


# --- 50 digits ----------------------------------------------------------------------------------------------

ROUNDS = {
    "unrounded": Contract(frozenset({"sum"}), "tile"),
    "rounded": Contract(frozenset({"sum", "unquantised"}), "tile"),
    "power_of_two": Contract(frozenset({"sum", "unquantised", "power_of_two"}), "tile"),
}


def _golden() -> list[Any]:
    text = (GOLDEN / "fp8_outputs_mpmath.json").read_text(encoding="utf-8")
    cases: list[dict[str, Any]] = json.loads(text)["cases"]
    assert cases
    return [pytest.param(case, id=case["id"]) for case in cases]


def _matrix(rows: list[list[str]]) -> torch.Tensor:
    return torch.tensor([[float.fromhex(v) for v in row] for row in rows], dtype=torch.float64)


def _call(golden: dict[str, Any]) -> tuple[Case, dict[str, torch.Tensor]]:
    """Return the case of a golden call, and its tensors."""
    dtype = getattr(torch, golden["dtype"])
    gated = "gate" in golden
    rows = ["x", "gate"] if gated else ["x"]
    given: dict[str, torch.Tensor] = {name: _matrix(golden[name]).to(dtype) for name in rows}
    given["weight"] = _matrix([golden["weight"]])[0].to(dtype)
    names = ("fp8_dtype", "quant_group", *(("group_size", "norm_before_gate", "activation") if gated else ()))
    flags = {name: golden[name] for name in names} | {"eps": float.fromhex(golden["eps"])}
    flags |= {"scale_layout": "row", "also_unquantised": False} | ({} if gated else {"weight_offset": 0.0})
    tensors = tuple((name, TensorSpec(tuple(t.shape), golden["dtype"])) for name, t in given.items())
    name = "rms_norm_gated_fp8" if gated else "rms_norm_fp8"
    return Case(name, tensors, tuple(flags.items())), given


@every("how", ROUNDS)
@every("golden", _golden())
def test_formula_holds_the_quantisation_at_50_digits(golden: dict[str, Any], how: str) -> None:
    """The true scales are in narrow intervals, and the true fp8 numbers are allowed, nearly always alone."""
    case, given = _call(golden)
    allowed = OPERATIONS[case.operation].formula(MACHINE, ROUNDS[how], given, case)
    true = torch.tensor([[float(v) for v in row] for row in golden[how]["scales"]], dtype=torch.float64)
    scales, values = allowed["scales"], rounded(allowed["values"], getattr(torch, case.flag("fp8_dtype")))

    assert scales.contains(true).all()
    assert ((scales.hi - scales.lo) <= 1e-5 * true).all() or how == "power_of_two"
    assert values.contains(_matrix(golden[how]["values"])).all()
    assert (values.lo == values.hi).double().mean() >= 0.85


def test_a_scale_of_other_numbers_is_outside() -> None:
    """Scales of y before and after its rounding differ in most groups of 16-bit types."""
    told, of = 0, 0
    for param in _golden():
        (golden,) = param.values
        if golden["dtype"] == "float32":
            continue
        case, given = _call(golden)
        got = OPERATIONS[case.operation].formula(MACHINE, ROUNDS["unrounded"], given, case)["scales"]
        true = torch.tensor([[float(v) for v in row] for row in golden["rounded"]["scales"]], dtype=torch.float64)
        # the second row is all zero: its scales are the floor's, whatever is rounded
        told += int((~got.contains(true))[0].sum())
        of += true.shape[-1]

    assert told >= 0.8 * of


def test_the_exact_scale_beside_a_tie_is_at_the_end_of_its_bound() -> None:
    """A group's largest y next to a tie of float16 may round either way: 50 digits show it."""
    case = Case.from_json((GOLDEN.parent / "cases" / "dc1db6c49d.json").read_text(encoding="utf-8"))
    given = values_of(case)
    with mpmath.workdps(50):
        x, gate, weight = ([mpmath.mpf(v) for v in given[name].tolist()] for name in ("x", "gate", "weight"))
        gated = [v / (1 + mpmath.exp(-z)) for v, z in zip(x, gate, strict=True)]
        inverse = 1 / mpmath.sqrt(sum(v * v for v in gated) / len(x) + mpmath.mpf(case.flag("eps")))
        y = torch.tensor([float(v * inverse * w) for v, w in zip(gated, weight, strict=True)], dtype=torch.float64)
    stored, width = round_once(y, torch.float16).abs(), case.flag("quant_group")
    largest = [float(stored[first : first + width].max()) for first in range(0, len(stored), width)]
    true = torch.tensor([largest], dtype=torch.float64).div(448.0).float()
    rows = {**given, "x": given["x"].reshape(1, -1), "gate": given["gate"].reshape(1, -1)}
    contract = Contract(frozenset({"unquantised"}), "tile")
    allowed = OPERATIONS[case.operation].formula(MACHINE, contract, rows, case)["scales"]
    compared = compare("scales", true, allowed, tuple(true.shape), 0)

    assert 0 == compared.outside
    assert compared.worst > 0.99


# --- what is given what -------------------------------------------------------------------------------------


def _drawn(dtype: str = "bfloat16", **flags: Any) -> Case:
    tensors = {
        "x": TensorSpec((8, 384), dtype),
        "residual": TensorSpec((8, 384), dtype),
        "weight": TensorSpec((384,), dtype, values="weight"),
    }
    plain: dict[str, Any] = {"eps": 1e-6, "weight_offset": 0.0, "quant_group": 128, "scale_layout": "row"}
    plain |= {"fp8_dtype": "float8_e4m3fn", "also_unquantised": True, **flags}
    return Case("rms_norm_fp8", tuple(tensors.items()), tuple(plain.items()), seed=3)


def _outputs(adapter: CorrectFp8, case: Case, values: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    flags = dict(case.flags) | {"fp8_dtype": getattr(torch, case.flag("fp8_dtype"))}
    return adapter.rms_norm_fp8(values["x"], values["weight"], residual=values["residual"], **flags)


def _compared(outputs: tuple[torch.Tensor, ...], case: Case, values: dict[str, torch.Tensor]) -> Comparison:
    return measure(Subject(CorrectFp8()), CorrectFp8().contract(case.operation), case, values, outputs)


def test_values_are_judged_given_the_scales_returned() -> None:
    """A wrong scale counts as one wrong scale: the values divided by it are right."""
    case = _drawn()
    values = values_of(case)
    right = _outputs(CorrectFp8(), case, values)
    doubled = right[1].clone()
    doubled[2, 1] *= 2.0
    group = (right[2][2, 128:256].float() / doubled[2, 1]).to(torch.float8_e4m3fn)
    codes = right[0].clone()
    codes[2, 128:256] = group
    wrong = _compared((codes, doubled, *right[2:]), case, values)

    assert 0 == _compared(right, case, values).outside
    assert 1 == wrong.outside
    assert wrong.first is not None
    assert ("scales", (2, 1)) == (wrong.first.output, wrong.first.index)


def test_the_output_that_others_follow_from_is_named_first() -> None:
    """A wrong sum is reported before the scales that depend on it."""
    case = _drawn()
    values = values_of(case)
    q, scales, y, s = _outputs(CorrectFp8(), case, values)
    wrong = _compared((q, scales, y, s + 1), case, values)

    assert wrong.first is not None
    assert "s" == wrong.first.output


def test_scales_are_read_through_their_strides() -> None:
    """Column scales, padded or not, equal row scales; the same memory with other strides does not."""
    case = _drawn(scale_layout="column")
    values = values_of(case)
    q, scales, y, s = _outputs(CorrectFp8(), case, values)
    padded = torch.empty(3, 12)[:, :8].t().copy_(scales)
    expected = OPERATIONS[case.operation].outputs(case)[1]

    assert (1, 8) == scales.stride()
    for laid_out in (scales, padded):
        assert "" == expected.misplaced(laid_out, "contiguous", (8, 1))
        assert 0 == _compared((q, laid_out, y, s), case, values).outside
    assert expected.misplaced(scales.contiguous(), "contiguous", (8, 1))
    assert _compared((q, scales.t().reshape(8, 3), y, s), case, values).outside


@pytest.mark.parametrize(
    ("shape", "strides", "fits"),
    [
        ((4,), (1,), True),
        ((4,), (3,), True),
        ((2, 3, 4), (3, 1, 6), True),
        ((2, 3, 4), (3, 1, 8), True),
        ((2, 3, 4), (12, 1, 3), False),
        ((2, 3, 4), (1, 2, 6), False),
        ((2, 3, 4), (12, 4, 1), False),
        ((3, 4), (1, 2), False),
        ((5, 1), (1, 1), True),
        ((5, 1), (2, 1), False),
        ((0, 4), (4, 1), True),
    ],
)
def test_columns_lie_whole_in_memory(shape: tuple[int, ...], strides: tuple[int, ...], fits: bool) -> None:  # noqa: FBT001
    """Leading dimensions are dense from stride 1 on; columns may have gaps between them, and no overlap."""
    output = OPERATIONS["rms_norm_fp8"].outputs(_drawn(scale_layout="column"))[1]

    assert fits == (not output.misplaced(torch.empty(128).as_strided(shape, strides), "contiguous", strides))


# --- contracts told apart -----------------------------------------------------------------------------------


class Following(CorrectFp8):
    """An implementation that rounds at the given points, of ``unquantised`` and ``power_of_two``."""

    def __init__(self, rounds: frozenset[str]) -> None:
        self.rounds = rounds

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round y, or not."""
        return super().unquantised(y, x) if "unquantised" in self.rounds else y

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round scales up, or not."""
        scales = super().scales(amax, largest)
        return torch.exp2(torch.ceil(torch.log2(scales))) if "power_of_two" in self.rounds else scales


CONTRACTS = [frozenset({"sum", *points}) for points in ((), ("unquantised",), ("power_of_two",))]
CONTRACTS.append(frozenset({"sum", "unquantised", "power_of_two"}))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("follows", CONTRACTS, ids=sorted)
def test_contracts_are_told_apart(follows: frozenset[str], dtype: str) -> None:
    """Each choice of ``unquantised`` and ``power_of_two`` is inside its own contract, and no other."""
    case = _drawn(dtype)
    values = values_of(case)
    adapter = Following(follows)
    out = _outputs(adapter, case, values)
    outside = {
        rounds: measure(Subject(adapter), Contract(rounds, "tile"), case, values, out).outside
        for rounds in CONTRACTS
    }

    assert 0 == outside[follows]
    assert [] == [sorted(rounds) for rounds, count in outside.items() if rounds != follows and not count]


# --- where numbers end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignoring", [False, True], ids=["keeps NaN", "ignores NaN"])
def test_either_maximum_of_ieee_754_is_allowed(ignoring: bool) -> None:  # noqa: FBT001
    """A NaN in y is NaN in the values; the scale of its group is NaN, or follows the other numbers."""

    class Maximum(CorrectFp8):
        def amax(self, groups: torch.Tensor) -> torch.Tensor:
            """Return one maximum or the other."""
            return super().amax(torch.where(groups.isnan(), 0.0, groups) if ignoring else groups)

    case = _drawn()
    values = values_of(case)
    values["weight"][5] = NAN
    values["x"][1, 300] = NAN
    values["weight"][200] = INF
    values["residual"][6] = 0.0
    values["x"][6] = 0.0
    out = _outputs(Maximum(), case, values)

    assert 0 == _compared(out, case, values).outside
    assert out[0][:, 5].isnan().all()
    assert out[0][1].isnan().all()
    assert ignoring == bool(out[1][0, 0].isfinite())
    # an infinity divided by an infinite scale is NaN, all other values are zero
    assert out[1][0, 1].isinf()
    assert out[0][0, 200].isnan()
    assert (out[0][0, 128:200].float() == 0).all()


def test_the_floor_is_under_the_magnitude() -> None:
    """A row of zeros, or of numbers below 1e-10, has the scale of 1e-10."""
    case = _drawn()
    values = values_of(case)
    for name in ("x", "residual"):
        values[name][2] = 0.0
        values[name][3] = 1e-15
    out = _outputs(CorrectFp8(), case, values)
    floor = torch.tensor(1e-10) / 448.0

    assert 0 == _compared(out, case, values).outside
    assert torch.equal(out[1][2], floor.expand(3))
    assert MAX > out[1].max()
