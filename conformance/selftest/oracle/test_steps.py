"""Every step of the machine holds what fp32 steps in any allowed order give for members of its arguments."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.oracle.arithmetic import Machine, U
from conformance.oracle.comparison import CACHED, compare, row_chunks
from conformance.oracle.contract import rounded
from conformance.oracle.interval import Interval
from conformance.selftest.oracle import test_arithmetic
from conformance.selftest.oracle.test_arithmetic import POSITIVE, SMALL, Members, flushed, machines, members

ROWS, COLUMNS = 4, 3  # of the members that are drawn at a time
SEEDS = st.integers(0, 2**32)
# what has its property here or in test_arithmetic
TESTED = {
    *("add", "product", "square", "quotient", "sqrt", "rsqrt", "reciprocal"),
    *("widen", "mean", "total", "signed_mean", "deviation", "variance", "largest", "power_of_two"),
    *("exp", "sigmoid", "silu", "one_and_erf", "one_and_tanh"),
}


def assert_holds(interval: Interval, *results: torch.Tensor) -> None:
    """Check that results are members, and that the interval's span says the truth about its ends."""
    for values in results:
        inside = interval.contains(values.double())
        assert bool(inside.all()), (values[~inside], interval.lo[~inside], interval.hi[~inside])
    sizes = interval.ends.abs()
    assert not interval.span.finite or bool(((interval.span.least <= sizes) & (sizes <= interval.span.most)).all())
    assert not interval.span.positive or not bool((interval.ends < 0).any())


def in_rows(a: Members) -> tuple[Interval, torch.Tensor]:
    """Return members in rows."""
    interval, x = a
    return interval.reshape(ROWS, COLUMNS), x.float().reshape(ROWS, COLUMNS)


def summed(values: torch.Tensor, seed: int, machine: Machine) -> tuple[torch.Tensor, int]:
    """Return fp32 sums of rows in a random tree, and the depth of that tree."""
    rng = random.Random(seed)  # noqa: S311 - test data
    parts = [(column, 0) for column in values.unbind(-1)]
    while len(parts) > 1:
        rng.shuffle(parts)
        (a, deep), (b, deeper) = parts.pop(), parts.pop()
        total = a + b
        parts.append((flushed(total) if machine.flushes else total, max(deep, deeper) + 1))
    total, depth = parts[0]
    return total[:, None], depth


def means(total: torch.Tensor, machine: Machine) -> list[torch.Tensor]:
    """Return the two forms of the mean: a quotient, and a product with a reciprocal."""
    found = [total / COLUMNS, total * (torch.tensor(1.0) / COLUMNS)]
    return [*found, *(flushed(each) for each in found if machine.flushes)]


def test_every_step_has_a_property() -> None:
    """A new step needs one."""
    public = {name for name, value in vars(Machine).items() if callable(value) and not name.startswith("_")}

    assert public == TESTED


@machines
@given(a=members(), relative=st.floats(0, 64), share=st.floats(-1, 1))
def test_moved_ends_hold_numbers_that_move_as_far(
    machine: Machine, a: Members, relative: float, share: float
) -> None:
    """A member may move by a part of the bound to either side."""
    interval, x = a

    assert_holds(machine.widen(interval, relative), x, x * (1 + share * relative * U))


@machines
@given(a=members(POSITIVE), seed=SEEDS)
def test_sums_and_means_hold_any_order(machine: Machine, a: Members, seed: int) -> None:
    """Non-negative numbers are added in a random tree, of the depth that the contract allows."""
    interval, x = in_rows(a)
    total, depth = summed(x, seed, machine)
    exact = x.double().sum(-1, keepdim=True)

    assert_holds(machine.total(interval, depth), total, exact)
    assert_holds(machine.mean(interval, depth), *means(total, machine), exact / COLUMNS)


@machines
@given(a=members(), seed=SEEDS)
def test_means_of_both_signs_hold_any_order(machine: Machine, a: Members, seed: int) -> None:
    """Partial sums may cancel, overflow on either side, and subtract infinities."""
    interval, x = in_rows(a)
    total, depth = summed(x, seed, machine)

    assert_holds(machine.signed_mean(interval, depth), *means(total, machine))


@machines
@given(a=members(SMALL), b=members(SMALL), factor=st.floats(2.0**-20, 2.0**20, width=32))
def test_deviations_hold_both_forms(machine: Machine, a: Members, b: Members, factor: float) -> None:
    """The mean is subtracted before the factor, or each is multiplied by it."""
    (interval, x), (centre, mean) = a, b
    r = torch.tensor(factor)
    x, mean = x.float(), mean.float()
    got = machine.product(machine.deviation(interval, centre), Interval.exactly(r))

    assert_holds(got, (x - mean) * r, x * r - mean * r)


NEAR = st.floats(-(2.0**30), 2.0**30, width=32)
# numbers that differ in their last bits: the mean that is subtracted from them is rounded by as much
ALIKE = st.builds(lambda step: 1.1 * (1 + step * 2.0**-23), st.integers(0, 3))


@pytest.mark.parametrize("running", [False, True])
@given(
    numbers=st.one_of(
        *(st.lists(each, min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS) for each in (NEAR, ALIKE))
    ),
    seed=SEEDS,
)
def test_variances_hold_two_passes_and_updates(numbers: list[float], seed: int, *, running: bool) -> None:
    """Differences from an fp32 mean are squared and summed; or a running mean is updated, where it is declared."""
    machine, x = Machine(running_variance=running), torch.tensor(numbers).reshape(ROWS, COLUMNS)
    total, depth = summed(x, seed, machine)
    known = Interval.exactly(x)
    got = machine.variance(known, machine.signed_mean(known, depth), COLUMNS - 1)
    for mean in means(total, machine):
        squares, _ = summed((x - mean).square(), seed, machine)
        assert_holds(got, squares / COLUMNS)
    if running:
        mean, squares = torch.zeros(ROWS, 1), torch.zeros(ROWS, 1)
        for count, column in enumerate(x.unbind(-1), 1):
            apart = column[:, None] - mean
            mean = mean + apart / count
            squares = squares + apart * (column[:, None] - mean)
        assert_holds(got, squares / COLUMNS)


@given(a=members(), nan=st.lists(st.booleans(), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS))
def test_the_largest_magnitude_keeps_nan_or_ignores_it(a: Members, nan: list[bool]) -> None:
    """IEEE 754 has ``maximum`` and ``maximumNumber``."""
    interval, x = a
    missing = torch.tensor(nan)
    interval, x = in_rows((Interval.of(interval.ends, missing), torch.where(missing, math.nan, x)))
    got = Machine().largest(interval)

    assert_holds(got, x.abs().amax(-1, keepdim=True), x.abs().nan_to_num(nan=0.0, posinf=math.inf).amax(-1, True))


APPROXIMATE = 2.0**-22  # the error of lg2.approx
NEXT_TO_POWERS = st.builds(
    lambda power, step: 2.0**power * (1 + step * 2.0**-23), st.integers(-100, 100), st.integers(-2, 3)
)


@given(a=members(st.one_of(NEXT_TO_POWERS, st.floats(2.0**-100, 2.0**100, width=32))))
def test_powers_of_two_hold_the_rounded_logarithm(a: Members) -> None:
    """The logarithm may be an approximation, and err to the next integer on either side of a power of two."""
    interval, x = a
    got = Machine().power_of_two(interval)

    for error in (-APPROXIMATE, 0.0, APPROXIMATE):
        assert_holds(got, (x.log2() + error).float().ceil().exp2())


def powers(x: torch.Tensor) -> list[torch.Tensor]:
    """Return exp in fp32, by itself and as a power of two."""
    return [x.exp(), (x * math.log2(math.e)).exp2()]


def sigmoids(x: torch.Tensor) -> list[torch.Tensor]:
    """Return the sigmoid in fp32: torch's, the formula, and with a division that gives 0 for large numbers."""
    denominators = [1 + power for power in powers(-x)]
    fast = [torch.where(each > 2.0**126, 0.0, 1 / each) for each in denominators]
    return [x.sigmoid(), *(1 / each for each in denominators), *fast]


CURVES: dict[str, tuple[Callable[[torch.Tensor], list[torch.Tensor]], Callable[[torch.Tensor], torch.Tensor]]] = {
    "exp": (powers, torch.exp),
    "sigmoid": (sigmoids, torch.sigmoid),
    "silu": (lambda x: [x * each for each in sigmoids(x)], lambda x: x * torch.sigmoid(x)),
    "one_and_erf": (lambda x: [1 + torch.erf(x), torch.special.erfc(-x)], lambda x: torch.special.erfc(-x)),
    "one_and_tanh": (
        lambda x: [1 + torch.tanh(x), 2 * torch.sigmoid(2 * x), (2 * torch.sigmoid(2 * x) - 1) + 1],
        lambda x: 2 * torch.sigmoid(2 * x),
    ),
}


# where exp(-z) is about the largest denominator, and the largest number
LARGE_POWERS = st.floats(-89, -87, width=32)


@machines
@pytest.mark.parametrize("name", CURVES)
@given(a=members(st.one_of(test_arithmetic.NUMBERS, st.floats(-128, 128, width=32), LARGE_POWERS)))
def test_curves_hold_their_common_forms(machine: Machine, name: str, a: Members) -> None:
    """The exponential function may be a power of two; the sigmoid is a reciprocal."""
    forms, exact = CURVES[name]
    interval, x = a
    single = forms(x.float())
    results = [*single, *(flushed(each) for each in single if machine.flushes)]

    assert_holds(getattr(machine, name)(interval), exact(x), *results)


@given(rows=st.integers(0, 5000), n=st.integers(0, 5000), device=st.sampled_from(["cpu", "cuda"]))
def test_chunks_hold_every_row_once(rows: int, n: int, device: str) -> None:
    """Their rows follow each other, and fit a CPU's cache where one row does."""
    slices = list(row_chunks(rows, n, device))

    assert [row for each in slices for row in range(rows)[each]] == list(range(rows))
    assert device != "cpu" or all((each.stop - each.start) * n <= max(CACHED, n) for each in slices)


def test_a_chunk_has_the_same_comparison_as_its_rows() -> None:
    """Counts and the worst share do not depend on how many rows are looked at together."""
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(0))
    output = (x * 3.0).bfloat16()

    def compared(rows: slice) -> tuple[int, int, int, float]:
        y = Machine().product(Interval.exactly(x[rows]), Interval.exactly(torch.tensor(3.0)))
        found = compare("y", output[rows], y, tuple(output.shape), rows.start)
        return found.elements, found.outside, found.exact, found.worst

    parts = [compared(slice(start, start + 16)) for start in range(0, 64, 16)]

    assert compared(slice(0, 64)) == (
        *(sum(part[i] for part in parts) for i in range(3)),
        max(p[3] for p in parts),
    )


@machines
@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize(("exponent", "most"), [(-104.0, 2.0**-149), (-744.0, 2.0**-149), (-1e4, 0.0)])
def test_small_powers_are_the_same_wherever_they_are_judged(
    machine: Machine, exponent: float, most: float, *, flushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At -744 float64 has a subnormal on one machine, and zero on another."""
    if flushed:
        exp = torch.Tensor.exp
        monkeypatch.setattr(torch.Tensor, "exp", lambda x: torch.where(exp(x) < 2.0**-1022, 0.0, exp(x)))
    power = machine.exp(Interval.exactly(torch.tensor([exponent, 1.0])))

    assert power.lo[0] == 0.0
    assert rounded(power, torch.float32).hi[0] == most
