"""Interval arithmetic holds every result of its operands' members, whichever fp32 steps compute it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.oracle import exact
from conformance.oracle.arithmetic import MIN_NORMAL, Machine
from conformance.oracle.interval import Interval

COUNT = 12  # intervals at a time, so that few calls of torch judge many
MACHINES = {"plain": Machine(), "flushes": Machine(flushes=True), "fuses": Machine(fuses=True)}
# float32 numbers of every size, signed zeros, subnormals, the largest, infinities
NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=False),
    st.floats(-4, 4, width=32),
    st.sampled_from([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 3.4028234663852886e38, math.inf, -math.inf]),
)
POSITIVE = NUMBERS.map(abs)
Members = tuple[Interval, torch.Tensor]


@st.composite
def members(draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS) -> Members:
    """Draw intervals, exact ones or not, and float32 members of them: ends, and a number in between."""
    lists = st.lists(numbers, min_size=COUNT, max_size=COUNT)
    if draw(st.booleans()):
        values = torch.tensor(draw(lists), dtype=torch.float64)
        return Interval.exactly(values), values
    three = torch.tensor([draw(lists) for _ in range(3)], dtype=torch.float64).sort(0).values
    within = draw(st.lists(st.integers(0, 2), min_size=COUNT, max_size=COUNT))
    nan = torch.zeros(COUNT, dtype=torch.bool)
    return Interval(three[0], three[2], nan), three[torch.tensor(within), torch.arange(COUNT)]


def flushed(values: torch.Tensor) -> torch.Tensor:
    """Return float32 values as a device that has no subnormal results gives them."""
    return torch.where(values.abs() < MIN_NORMAL, torch.zeros_like(values), values)


def assert_inside(interval: Interval, machine: Machine, exact: torch.Tensor, single: torch.Tensor) -> None:
    """Check that results in float64 and in float32 steps are members; where numbers are flushed, zero is too."""
    for results in (exact, single.double(), *([flushed(single).double()] if machine.flushes else ())):
        inside = interval.contains(results)
        # a result that float32 does not hold is an infinity, or is held by more exact arithmetic
        assert bool(inside.all()), (results[~inside], interval.lo[~inside], interval.hi[~inside])


machines = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


@machines
@given(a=members(), b=members())
def test_sums_are_inside(machine: Machine, a: Members, b: Members) -> None:
    """Infinities of both signs give NaN."""
    (left, x), (right, y) = a, b

    assert_inside(machine.add(left, right), machine, x + y, x.float() + y.float())


@machines
@given(a=members(), b=members())
def test_products_of_two_are_inside(machine: Machine, a: Members, b: Members) -> None:
    """Zero times infinity gives NaN."""
    (left, x), (right, y) = a, b

    assert_inside(machine.product(left, right), machine, x * y, x.float() * y.float())


@given(a=members(), b=members())
def test_a_gpu_has_the_same_intervals(a: Members, b: Members) -> None:
    """There no mask is read that only saves work; ends, NaN and what counts as exactly known stay the same."""
    (left, _), (right, _) = a, b
    machine = Machine()

    def computed() -> list[Interval]:
        return [
            machine.product(left, right),
            machine.quotient(left, right),
            machine.add(machine.square(left), right),
        ]

    here = computed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "may_hold", lambda mask: True)
        there = computed()

    for one, other in zip(here, there, strict=True):
        assert one.is_exact == other.is_exact
        for end in ("lo", "hi", "nan"):
            assert torch.equal(*(getattr(each, end).double().nan_to_num(nan=7.5) for each in (one, other))), end


SMALL = st.floats(-(2.0**40), 2.0**40, width=32)


@machines
@given(a=members(SMALL), b=members(SMALL), c=members(SMALL))
def test_products_of_three_are_inside_in_any_order(machine: Machine, a: Members, b: Members, c: Members) -> None:
    """A contract orders only what it rounds; a partial product may underflow."""
    (first, x), (second, y), (third, z) = a, b, c
    interval = machine.product(first, second, third)

    for one, two, last in ((x, y, z), (y, z, x), (x, z, y)):
        steps = one.float() * two.float()
        steps = (flushed(steps) if machine.flushes else steps) * last.float()
        assert_inside(interval, machine, x * y * z, steps)


@machines
@given(a=members())
def test_squares_are_inside(machine: Machine, a: Members) -> None:
    """An interval with numbers of both signs has the square zero."""
    interval, x = a

    assert_inside(machine.square(interval), machine, x * x, x.float() * x.float())


@machines
@given(a=members(), b=members(POSITIVE))
def test_quotients_are_inside_as_a_division_or_a_product(machine: Machine, a: Members, b: Members) -> None:
    """The denominator is not negative, and has a reciprocal that float32 holds."""
    (left, x), (right, y) = a, b
    y = y.abs()
    usual = (y == 0) | ((y >= 2.0**-126) & (y <= 2.0**126)) | y.isinf()
    y = torch.where(usual, y, 1.0)
    right = right.hull(Interval.exactly(y)) if not right.is_exact else Interval.exactly(y)
    interval = machine.quotient(left, right)

    assert_inside(interval, machine, x / y, x.float() / y.float())
    assert_inside(interval, machine, x / y, x.float() * y.float().reciprocal())


ROOTS: dict[str, tuple[Callable[[Machine, Interval], Interval], Callable[[torch.Tensor], torch.Tensor]]] = {
    "root": (Machine.sqrt, torch.sqrt),
    "inverse root": (Machine.rsqrt, torch.rsqrt),
    "reciprocal": (Machine.reciprocal, torch.reciprocal),
}


@machines
@pytest.mark.parametrize("name", ROOTS)
@given(a=members(POSITIVE))
def test_roots_and_reciprocals_are_inside(machine: Machine, name: str, a: Members) -> None:
    """Zero has an infinite inverse, infinity the inverse zero."""
    step, formula = ROOTS[name]
    interval, x = a

    assert_inside(step(machine, interval), machine, formula(x), formula(x.float()))


@given(a=members())
def test_what_is_far_outside_is_no_member(a: Members) -> None:
    """An interval that holds everything would pass everything: sums of known numbers are as narrow as can be."""
    _, x = a
    finite = torch.where(x.isfinite() & (x.abs() < 2.0**100), x, 1.0)
    interval = Machine().add(Interval.exactly(finite), Interval.exactly(finite))
    off = 2 * finite * (1 + 2.0**-22) + torch.where(finite == 0, 1.0, 0.0)

    assert not bool(interval.contains(off)[finite.abs() >= MIN_NORMAL].any())
