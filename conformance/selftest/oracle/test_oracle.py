"""The oracle is right by fractions, 50 digits and third-party code."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation

from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.cases.case import Case, TensorSpec
from conformance.operations import OPERATIONS
from conformance.oracle.arithmetic import MAX, MIN_NORMAL, TINY, Machine, U
from conformance.oracle.comparison import Comparison
from conformance.oracle.contract import NAMED, Contract, contracts, round_once, rounded
from conformance.oracle.interval import Interval
from conformance.properties.measure import measure
from conformance.selftest.every import every
from conformance.selftest.fakes.correct import Correct

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden"
OPERATION = OPERATIONS["rms_norm_gated"]
HALVES = (torch.bfloat16, torch.float16)
INF, NAN = math.inf, math.nan

# --- rounding once ------------------------------------------------------------------------------------------

# digits of the significand, exponent of the smallest subnormal
FORMATS = {torch.bfloat16: (8, -133), torch.float16: (11, -24), torch.float32: (24, -149)}
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def _codes(dtype: torch.dtype) -> torch.Tensor:
    """Return bit patterns of positive finite numbers: all of a 16-bit type, every binade of float32."""
    if dtype != torch.float32:
        return torch.arange(int(torch.tensor(INF, dtype=dtype).view(torch.int16)), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    inside = torch.randint(2**23, (255, 64), generator=generator)
    inside[:, :4] = torch.tensor([0, 1, 2**23 - 2, 2**23 - 1])
    return (torch.arange(255)[:, None] * 2**23 + inside).flatten()


def _number(codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers of bit patterns; infinity counts as the number that would come next."""
    numbers = codes.to(BITS[dtype]).view(dtype).double()
    digits, _ = FORMATS[dtype]
    return torch.where(numbers.isinf(), 2.0 ** math.frexp(torch.finfo(dtype).max)[1] * (digits > 0), numbers)


def _nearest_even(value: float, dtype: torch.dtype) -> float:
    """Round by the definition, in fractions."""
    digits, smallest = FORMATS[dtype]
    exact = Fraction(value)
    if not exact:
        return value
    exponent = math.frexp(value)[1]
    step = Fraction(2) ** max(exponent - digits, smallest)
    # Python rounds a fraction's half to even
    nearest = round(exact / step) * step
    return math.copysign(float(nearest) if abs(nearest) <= torch.finfo(dtype).max else INF, value)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_midpoints_go_to_even_and_their_neighbours_to_the_nearest(dtype: torch.dtype) -> None:
    """Between two numbers the tie rounds to even, and the adjacent float64 numbers round to their own sides."""
    codes = _codes(dtype)
    low, high = _number(codes, dtype), _number(codes + 1, dtype)
    tie = (low + high) / 2
    over = high > torch.finfo(dtype).max
    above = torch.where(over, INF, high)
    even = torch.where(codes % 2 == 0, low, above)

    for sign in (1.0, -1.0):
        assert torch.equal(round_once(sign * low, dtype), sign * low)
        assert torch.equal(round_once(sign * tie, dtype), sign * even)
        assert torch.equal(round_once(sign * torch.nextafter(tie, low), dtype), sign * low)
        assert torch.equal(round_once(sign * torch.nextafter(tie, high), dtype), sign * above)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rounding_agrees_with_fractions(dtype: torch.dtype) -> None:
    """Random float64 over every binade, and short ones that make ties, round by the definition."""
    draw = random.Random(0)  # noqa: S311 - test data
    digits, smallest = FORMATS[dtype]
    top = math.frexp(torch.finfo(dtype).max)[1]
    values = [
        math.copysign(math.ldexp(draw.getrandbits(bits) | 1, draw.randint(smallest - 3, top + 1) - bits), sign)
        for bits in (53, digits + 1, digits + 2)
        for sign in (1.0, -1.0)
        for _ in range(2000)
    ]

    rounded_once = round_once(torch.tensor(values, dtype=torch.float64), dtype).tolist()

    assert [_nearest_even(value, dtype) for value in values] == rounded_once


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_zeros_infinities_and_nan_keep_what_they_are(dtype: torch.dtype) -> None:
    """The sign of zero, infinities and NaN survive the rounding."""
    specials = torch.tensor([0.0, -0.0, INF, -INF, 1e300, -1e300, 1e-300, -1e-300], dtype=torch.float64)
    expected = torch.tensor([0.0, -0.0, INF, -INF, INF, -INF, 0.0, -0.0], dtype=torch.float64)
    given = round_once(specials, dtype)

    assert torch.equal(given, expected)
    assert torch.equal(given.signbit(), expected.signbit())
    assert round_once(torch.tensor([NAN], dtype=torch.float64), dtype).isnan().all()


def test_a_plain_cast_rounds_twice() -> None:
    """``.to(bfloat16)`` is wrong next to a midpoint: it goes through float32, where it becomes the midpoint."""
    codes = torch.arange(0, 0x7F00, 2)
    low, high = _number(codes, torch.bfloat16), _number(codes + 1, torch.bfloat16)
    beside = torch.nextafter((low + high) / 2, high)

    assert torch.equal(round_once(beside, torch.bfloat16), high)
    assert torch.equal(beside.to(torch.bfloat16).double()[1:], low[1:])


# --- the machine's steps ------------------------------------------------------------------------------------

MACHINE = Machine()
# every binade of float32, its subnormals, and the ends of its range
EDGES = (0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 2.0**-126, 3.0, MAX, -MAX, 1 + 2.0**-23, 1 - 2.0**-24)


def _operands(low: float, high: float, count: int, seed: int) -> list[float]:
    """Return float32 numbers with magnitudes between powers of ten, of both signs, and the edges."""
    draw = random.Random(seed)  # noqa: S311 - test data
    drawn = [draw.choice((-1, 1)) * 10 ** draw.uniform(low, high) for _ in range(count)]
    return [float(value) for value in torch.tensor([*EDGES, *drawn], dtype=torch.float32)]


def _exact(*columns: list[float]) -> list[Interval]:
    return [Interval.exactly(torch.tensor(column, dtype=torch.float64)) for column in columns]


def _assert_holds(got: Interval, expected: list[Any], error: Callable[[int], float] | None) -> None:
    """Check that each interval contains the true value and its float32, within ``error(place)`` U on each side."""
    for place, true in enumerate(expected):
        lo, hi = float(got.lo[place]), float(got.hi[place])
        single = _single(true)
        assert lo <= true <= hi, (place, lo, true, hi)
        assert lo <= single <= hi, (place, lo, single, hi)
        if error is not None and abs(true) < MAX / 2:
            assert hi - lo <= 2.02 * (error(place) * U * abs(true) + TINY), (place, lo, true, hi)


def _single(true: Any) -> float:
    """Return a real number in float32, rounded once."""
    if abs(true) < MIN_NORMAL:
        return float(mpmath.nint(true * 2**149)) * 2.0**-149
    with mpmath.workprec(24):
        value = float(+true)
    return value if abs(value) <= MAX else math.copysign(INF, value)


@pytest.fixture(autouse=True)
def _digits() -> None:
    mpmath.mp.dps = 50


def _pairs(low: float, high: float) -> tuple[list[float], list[float]]:
    a, b = _operands(low, high, 40, 1), _operands(low, high, 40, 2)
    left, right = zip(*product(a, b), strict=True)
    return list(left), list(right)


def test_sums_hold_the_true_sum() -> None:
    """``a + b`` is inside, and the interval is half an ulp wide on each side."""
    a, b = _pairs(-38, 38)
    true = [mpmath.mpf(x) + mpmath.mpf(y) for x, y in zip(a, b, strict=True)]

    _assert_holds(MACHINE.add(*_exact(a, b)), true, lambda place: 1.0)


def test_products_hold_the_true_product() -> None:
    """Products of two and three factors are inside, also with underflow and overflow."""
    a, b = _pairs(-38, 38)
    two = [mpmath.mpf(x) * mpmath.mpf(y) for x, y in zip(a, b, strict=True)]
    c = list(reversed(a))
    three = [xy * mpmath.mpf(z) for xy, z in zip(two, c, strict=True)]
    ordinary_a, ordinary_b = _pairs(-6, 6)
    ordinary_a, ordinary_b = (
        [value if 1e-6 < abs(value) < 1e6 else 1.5 for value in values] for values in (ordinary_a, ordinary_b)
    )
    thrice = [mpmath.mpf(x) * mpmath.mpf(y) ** 2 for x, y in zip(ordinary_a, ordinary_b, strict=True)]
    got = MACHINE.product(*_exact(ordinary_a, ordinary_b, ordinary_b))
    x, y = (torch.tensor(values, dtype=torch.float32) for values in (ordinary_a, ordinary_b))

    _assert_holds(MACHINE.product(*_exact(a, b)), two, lambda place: 1.0)
    _assert_holds(MACHINE.product(*_exact(a, b, c)), three, None)
    _assert_holds(got, thrice, lambda place: 2.0)
    assert got.contains((x * y * y).double()).all()
    assert got.contains((x * (y * y)).double()).all()


def test_squares_hold_the_true_square() -> None:
    """``x * x`` is inside."""
    x = _operands(-30, 30, 2000, 3)

    _assert_holds(MACHINE.square(*_exact(x)), [mpmath.mpf(v) ** 2 for v in x], lambda place: 1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 257])
def test_means_hold_the_true_mean_and_a_serial_sum(n: int) -> None:
    """The mean of squares is inside, and so is the worst order that the depth allows."""
    generator = torch.Generator().manual_seed(n)
    squares = (torch.randn((200, n), generator=generator) * 10).square()
    got = MACHINE.mean(Interval.exactly(squares), max(n - 1, 1))
    running = torch.zeros(200)
    for column in squares.unbind(1):
        running = running + column
    serial = (running / n).double()[:, None]
    true = [mpmath.fsum(map(mpmath.mpf, row)) / n for row in squares.double().tolist()]

    flat = Interval(got.lo.flatten(), got.hi.flatten(), got.nan.flatten())
    _assert_holds(flat, true, lambda place: max(n - 1, 1) + 4)
    assert got.contains(serial).all()


STEPS: dict[str, tuple[Callable[[Interval], Interval], Callable[[Any], Any], float]] = {
    "rsqrt": (MACHINE.rsqrt, lambda v: 1 / mpmath.sqrt(v), 6.0),
    "sqrt": (MACHINE.sqrt, mpmath.sqrt, 2.0),
    "reciprocal": (MACHINE.reciprocal, lambda v: 1 / v, 4.0),
}


@pytest.mark.parametrize("step", STEPS)
def test_roots_and_reciprocals_hold_the_true_value(step: str) -> None:
    """The true value and torch's own are inside for every positive float32, also subnormal ones."""
    machine, true, error = STEPS[step]
    values = [abs(v) for v in _operands(-44, 38, 2000, 4) if v]
    got = machine(*_exact(values))

    _assert_holds(got, [true(mpmath.mpf(v)) for v in values], lambda place: error)
    by_torch = getattr(torch, step)(torch.tensor(values, dtype=torch.float32))
    assert got.contains(by_torch.double()).all()


@pytest.mark.parametrize("name", ["sigmoid", "silu"])
def test_activations_hold_the_true_value(name: str) -> None:
    """From -200 to 200 the true value and torch's are inside; within 16 the interval is narrow."""
    draw = random.Random(5)  # noqa: S311 - test data
    drawn = [draw.uniform(-200, 200) for _ in range(1000)] + [draw.gauss(0, 3) for _ in range(1000)]
    z = [float(v) for v in torch.tensor([*drawn, *EDGES[:8], *_operands(-30, 2, 100, 6)], dtype=torch.float32)]
    z = [v for v in z if abs(v) < 1e4]
    sigmoid = [1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in z]
    true = sigmoid if name == "sigmoid" else [mpmath.mpf(v) * s for v, s in zip(z, sigmoid, strict=True)]
    got = getattr(MACHINE, name)(*_exact(z))
    single = torch.tensor(z, dtype=torch.float32)
    by_torch = getattr(F, name)(single)
    # as in kernels: a power of two, whose argument is rounded
    by_exp2 = 1 / (1 + torch.exp2(-single * math.log2(math.e)))
    by_exp2 = by_exp2 if name == "sigmoid" else single * by_exp2

    _assert_holds(got, true, lambda place: 10.5 + 1.25 * abs(z[place]) if abs(z[place]) <= 16 else INF)
    assert got.contains(by_torch.double()).all()
    assert got.contains(by_exp2.double()).all()


def _set(lo: float, hi: float | None = None, *, nan: bool = False) -> Interval:
    ends = (torch.tensor([lo], dtype=torch.float64), torch.tensor([lo if hi is None else hi], dtype=torch.float64))
    return Interval.exactly(ends[0]) if hi is None else Interval(*ends, torch.tensor([nan]))


# step, operands, numbers that must be members, numbers that must not; NaN is a number here
RULES: list[tuple[str, tuple[Interval, ...], tuple[float, ...], tuple[float, ...]]] = [
    ("product", (_set(0.0), _set(INF)), (NAN,), (0.0, INF)),
    ("product", (_set(0.0, 1.0), _set(INF)), (NAN, INF), (-1.0, -INF)),
    ("product", (_set(0.0), _set(1.0, 2.0)), (0.0,), (NAN, 2.0**-149)),
    ("product", (_set(-1.0, 2.0), _set(-3.0, 1.0)), (-6.0, 3.0, 0.0), (NAN, -7.0, 4.0)),
    ("product", (_set(-INF), _set(2.0)), (-INF,), (NAN, -MAX, INF)),
    ("product", (_set(MAX), _set(2.0)), (INF,), (NAN, 0.0)),
    ("product", (_set(2.0**-149), _set(0.25)), (0.0,), (NAN, -(2.0**-152), 2.0**-148)),
    ("product", (_set(1.5), _set(2.0)), (3.0,), (3.0000002384185791, 2.9999997615814209)),
    ("product", (_set(NAN), _set(0.0)), (NAN,), (0.0,)),
    ("product", (_set(2.0, 3.0, nan=True), _set(1.0)), (NAN, 2.0, 3.0), (1.9, 3.1)),
    ("add", (_set(INF), _set(-INF)), (NAN,), (0.0, INF)),
    ("add", (_set(INF), _set(1.0)), (INF,), (NAN, MAX)),
    ("add", (_set(1.0), _set(NAN)), (NAN,), (1.0,)),
    ("add", (_set(MAX), _set(MAX)), (INF,), (NAN, 1.0)),
    ("add", (_set(1.0), _set(-1.0)), (0.0,), (NAN, 1e-7)),
    ("square", (_set(-2.0, 1.0),), (0.0, 4.0), (-1e-3, 5.0, NAN)),
    ("square", (_set(-INF),), (INF,), (MAX, NAN)),
    ("square", (_set(NAN),), (NAN,), (0.0, INF)),
    ("square", (_set(3e38),), (INF,), (1.0, NAN)),
    ("square", (_set(0.0),), (0.0,), (NAN, 2.0**-126)),
    ("rsqrt", (_set(0.0),), (INF,), (NAN, 1.0)),
    ("rsqrt", (_set(INF),), (0.0,), (NAN, 2.0**-126)),
    ("rsqrt", (_set(4.0, INF),), (0.0, 0.5), (NAN, 0.6, -1.0)),
    ("rsqrt", (_set(NAN),), (NAN,), (0.0, INF)),
    ("sigmoid", (_set(INF),), (1.0,), (NAN, 0.9, 1.1)),
    ("sigmoid", (_set(-INF),), (0.0,), (NAN, 1e-30)),
    ("sigmoid", (_set(NAN),), (NAN,), (0.0, 1.0)),
    ("sigmoid", (_set(-87.0),), (1.6458114333e-38,), (0.0, NAN)),
    ("sigmoid", (_set(-88.5),), (0.0, 3.6723e-39), (NAN, -1e-45, 1e-38)),
    ("sigmoid", (_set(-90.0),), (0.0, 8.194012623990515e-40), (NAN, -1e-45, 1e-38)),
    ("silu", (_set(INF),), (INF,), (NAN, 0.0)),
    ("silu", (_set(-INF),), (NAN, 0.0), (-1.0, -INF)),
    ("silu", (_set(NAN),), (NAN,), (0.0,)),
    ("silu", (_set(0.0),), (0.0,), (NAN, 1e-30)),
]


@every(("step", "operands", "members", "others"), RULES)
def test_zeros_infinities_and_nan_follow_ieee(
    step: str, operands: tuple[Interval, ...], members: tuple[float, ...], others: tuple[float, ...]
) -> None:
    """Each rule lists required and forbidden members."""
    got = getattr(MACHINE, step)(*operands)

    for values, inside in ((members, True), (others, False)):
        for value in values:
            assert inside is bool(got.contains(torch.tensor([value], dtype=torch.float64))), (value, got)


# ends of intervals and members: both infinities, zero, small, large, and numbers whose sums and products overflow
ENDS = torch.tensor([-INF, -MAX, -2.5, -1.0, -TINY, 0.0, TINY, 1.0, 2.5, MAX, INF], dtype=torch.float64)
EXACTLY = {
    "add": lambda a, b: a + b,
    "product": lambda a, b: a * b,
    "quotient": lambda a, b: a / b,
}


@pytest.mark.parametrize("exact", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("step", EXACTLY)
def test_an_interval_holds_every_result_of_its_members_and_nan_where_one_is_nan(
    step: str,
    exact: tuple[bool, bool],
) -> None:
    """The result contains every result of two members, and NaN exactly if one result is NaN."""
    pairs = [(lo, hi) for lo in ENDS for hi in ENDS if lo <= hi]
    sides = [[(e, e) for e in ENDS] if point else pairs for point in exact]
    if step == "quotient":
        sides[1] = [(lo, hi) for lo, hi in sides[1] if lo >= 0]
    both = torch.tensor(list(product(*sides)), dtype=torch.float64)
    lows, highs = both[..., 0], both[..., 1]
    none = torch.zeros(len(both), dtype=torch.bool)
    a, b = (
        Interval.exactly(lows[:, side]) if exact[side] else Interval(lows[:, side], highs[:, side], none)
        for side in (0, 1)
    )
    result = getattr(Machine(), step)(a, b)
    some = none.clone()
    for x, y in product(ENDS, ENDS):
        member = (a.lo <= x) & (x <= a.hi) & (b.lo <= y) & (y <= b.hi)
        value = EXACTLY[step](x, y).expand(len(both))
        some |= member & value.isnan()

        assert not (member & ~result.contains(value)).any(), (x, y)
    assert torch.equal(some, result.nan)


@pytest.mark.parametrize("step", ["product", "square", "add"])
def test_only_a_flushing_machine_may_return_zero_for_a_subnormal(step: str) -> None:
    """Below 2**-126 zero is allowed if the device flushes, and otherwise not."""
    operands = {
        "product": _exact([2.0**-70], [2.0**-70]),
        "square": _exact([2.0**-70]),
        "add": _exact([2.0**-140], [2.0**-141]),
    }[step]
    zero = torch.zeros(1, dtype=torch.float64)

    assert not getattr(Machine(flushes=False), step)(*operands).contains(zero).any()
    assert getattr(Machine(flushes=True), step)(*operands).contains(zero).all()


def test_a_rounding_point_keeps_every_member() -> None:
    """Rounding both ends of an interval gives an interval with every rounded member."""
    generator = torch.Generator().manual_seed(0)
    lo = torch.randn(2000, generator=generator, dtype=torch.float64)
    hi = lo + torch.rand(2000, generator=generator, dtype=torch.float64) * 2.0**-7
    inside = lo + (hi - lo) * torch.rand(2000, generator=generator, dtype=torch.float64)
    for dtype in FORMATS:
        got = rounded(Interval(lo, hi, torch.zeros(2000, dtype=torch.bool)), dtype)

        assert got.contains(round_once(inside, dtype)).all()
        assert (round_once(got.lo, dtype) == got.lo).all()


# --- the formula, against golden values ---------------------------------------------------------------------


def _golden(name: str) -> list[Any]:
    cases = json.loads((GOLDEN / name).read_text(encoding="utf-8"))["cases"]
    assert cases
    return [pytest.param(case, id=case["id"]) for case in cases]


def _interval(contract: Contract, given: dict[str, torch.Tensor], golden: dict[str, Any]) -> Interval:
    tensors = tuple((name, TensorSpec(tuple(t.shape), str(t.dtype).split(".")[1])) for name, t in given.items())
    eps = golden["eps"]
    flags = {name: golden[name] for name in ("group_size", "norm_before_gate", "activation")}
    case = Case(OPERATION.name, tensors, (*flags.items(), ("eps", float.fromhex(eps))))
    return OPERATION.formula(MACHINE, contract, given, case)["y"]


def _numbers(rows: Any, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows[0], list):
        return torch.stack([_numbers(row, dtype) for row in rows])
    return torch.tensor([float.fromhex(value) for value in rows], dtype=torch.float64).to(dtype)


@every("golden", _golden("rms_norm_gated_mpmath.json"))
def test_formula_holds_the_value_at_50_digits(golden: dict[str, Any]) -> None:
    """The true result is inside the narrow unrounded interval of a single rounding."""
    dtype = getattr(torch, golden["dtype"])
    given = {name: _numbers(golden[name], dtype) for name in ("x", "gate", "weight") if golden[name] is not None}
    got = _interval(Contract(depth="tile"), given, golden)
    true = [mpmath.mpf(value) for row in golden["out"] for value in row]

    for lo, value, hi in zip(got.lo.flatten().tolist(), true, got.hi.flatten().tolist(), strict=True):
        assert lo <= value <= hi
        assert hi - lo <= 2e-5 * abs(value) + 2.0**-126


def _from_bits(rows: list[str] | str, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(rows, list):
        return torch.stack([_from_bits(row, dtype) for row in rows])
    size = 8 * dtype.itemsize
    codes = [int(code, 16) for code in rows.split()]
    signed = [code - (1 << size) if code >> (size - 1) else code for code in codes]
    return torch.tensor(signed, dtype=BITS[dtype]).view(dtype)


def _qwen(golden: dict[str, Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    dtype, weight_dtype = getattr(torch, golden["dtype"]), getattr(torch, golden["weight_dtype"])
    given = {name: _from_bits(golden[name], dtype) for name in ("x", "gate")}
    return {**given, "weight": _from_bits(golden["weight"], weight_dtype)}, _from_bits(golden["out"], dtype)


QWEN = _golden("rms_norm_gated_qwen3_next.json")


@every("golden", QWEN)
def test_hugging_face_follows_hf(golden: dict[str, Any]) -> None:
    """Every bit of ``Qwen3NextRMSNormGated`` is inside the contract named after it."""
    given, out = _qwen(golden)
    allowed = rounded(_interval(Contract(NAMED["hf"]), given, golden), out.dtype)

    assert allowed.contains(out.double()).all()


LOW = [golden for golden in QWEN if golden.values[0]["dtype"] != "float32"]


@every("golden", LOW)
def test_hugging_face_does_not_follow_fp32(golden: dict[str, Any]) -> None:
    """One rounding instead of three forbids at least a tenth of its elements."""
    given, out = _qwen(golden)
    allowed = rounded(_interval(Contract(NAMED["fp32"]), given, golden), out.dtype)
    forbidden = ~allowed.contains(out.double())

    assert forbidden.double().mean() >= 0.1


# --- contracts told apart -----------------------------------------------------------------------------------


class Hf(Correct):
    """A norm that rounds the normalised and the weighted values."""

    def normalise(self, stream: torch.Tensor, group: int, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Convert to x's dtype."""
        return super().normalise(stream, group, eps, x).to(x.dtype)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply in the operands' dtype."""
        return (y * weight).float()


class TwoStep(Correct):
    """A norm of three steps: torch's norm, torch's activation, and their product."""

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Run the three operations."""
        assert gate is not None
        return F.rms_norm(x, x.shape[-1:], weight, flags["eps"]) * F.silu(gate)


class Eager(Correct):
    """The formula as users write it."""

    def rms_norm_gated(
        self, x: torch.Tensor, gate: torch.Tensor | None, weight: torch.Tensor, **flags: Any
    ) -> torch.Tensor:
        """Compute every step in the tensors' dtype."""
        assert gate is not None
        dtype = x.dtype
        if not flags["norm_before_gate"]:
            x = x * F.silu(gate)
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + flags["eps"]) * weight
        return (y * F.silu(gate) if flags["norm_before_gate"] else y).to(dtype)


FOLLOWS: dict[str, Any] = {"fp32": Correct(), "hf": Hf(), "two_step": TwoStep(), "eager": Eager()}


def _case(shape: tuple[int, int], dtype: torch.dtype, profile: str = "normal") -> Case:
    """Return an ordinary call: one dtype, no groups, the gate last."""
    name = str(dtype).split(".")[1]
    tensors = {
        "x": TensorSpec(shape, name, values=profile),
        "gate": TensorSpec(shape, name, values="gate"),
        "weight": TensorSpec(shape[1:], name, values="weight"),
    }
    flags = (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True))
    return Case(OPERATION.name, tuple(tensors.items()), flags, seed=shape[1])


def _judged(follows: str, declares: str, case: Case) -> Comparison:
    """Compare an implementation of one contract with another contract."""
    values = values_of(case)
    adapter = FOLLOWS[follows]
    out = adapter.rms_norm_gated(*(values[name] for name in OPERATION.positional), **dict(case.flags))
    rounds = contracts(OPERATION.rounds)[declares]
    return measure(Subject(adapter), Contract(rounds, "lanes"), case, values, (out,))


@every("dtype", HALVES)
@every("n", [16, 128, 769])
@every(("follows", "declares"), list(permutations(FOLLOWS, 2)))
def test_contracts_are_told_apart(follows: str, declares: str, n: int, dtype: torch.dtype) -> None:
    """An implementation of another contract has an element outside, in rows of 16 and more."""
    assert _judged(follows, declares, _case((4, n), dtype)).outside > 0


@every("dtype", HALVES)
@every("profile", ["normal", "rows", "constant"])
@every("n", [1, 3, 16, 128, 769, 5120])
@every("name", FOLLOWS)
def test_who_follows_a_contract_is_inside(name: str, n: int, profile: str, dtype: torch.dtype) -> None:
    """Each implementation is inside its own contract; eager and two_step are torch's own operations."""
    found = _judged(name, name, _case((max(8, 2**15 // n), n), dtype, profile))

    assert found.outside == 0, found.first


@every("gate_dtype", ["bfloat16", "float16", "float32"])
@every("dtype", FORMATS)
@every("n", [3, 128, 769])
@every("name", ["fp32", "eager"])
def test_a_gate_before_the_norm_is_inside(name: str, n: int, dtype: torch.dtype, gate_dtype: str) -> None:
    """The same holds with the gate first, where its product rounds to the promoted dtype."""
    case = _case((2**15 // n, n), dtype).with_flag("norm_before_gate", value=False)
    gate = TensorSpec((2**15 // n, n), gate_dtype, values="gate")
    found = _judged(name, name, case.with_tensor("gate", gate))

    assert found.outside == 0, found.first


def test_a_running_variance_overflows_early_and_only_where_declared() -> None:
    """A mean from a quarter of the largest number on may be infinite or NaN, and no other may."""
    squares = torch.tensor([[1.0, 4.0], [torch.inf, 1.0], [3e38, 3e38], [5e37, 5e37]], dtype=torch.float64)
    plain = Machine().mean(Interval.exactly(squares), 2)
    running = Machine(running_variance=True).mean(Interval.exactly(squares), 2)

    assert [False, False, False, False] == plain.nan.flatten().tolist()
    assert [False, True, True, False] == plain.hi.isinf().flatten().tolist()
    assert [False, True, True, True] == running.nan.flatten().tolist()
    assert [False, True, True, True] == running.hi.isinf().flatten().tolist()
