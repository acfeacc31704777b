"""The comparison of outputs with intervals: the steps of ``comparison.stepwise`` for a block of elements."""

import triton
import triton.language as tl


@triton.jit
def _power(values, EXPONENT: tl.constexpr):
    """Return the power of two of float64 numbers, infinity for NaN."""
    return (values.to(tl.int64, bitcast=True) & EXPONENT).to(tl.float64, bitcast=True)


@triton.jit
def _step(
    values,
    FLOATING: tl.constexpr,
    SMALLEST: tl.constexpr,
    EPS: tl.constexpr,
    EXPONENT: tl.constexpr,
):
    """Return the distance from each value to its neighbour away from zero."""
    if not FLOATING:
        return tl.full(values.shape, 1.0, tl.float64)
    size = tl.abs(values)
    return _power(tl.where(size < SMALLEST, SMALLEST, size), EXPONENT) * EPS


@triton.jit
def _stored(
    values,
    KIND: tl.constexpr,
    LOWEST: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    CARRIER: tl.constexpr,
    EXPONENT: tl.constexpr,
):
    """Return float64 numbers rounded once to a dtype: what ``round_once`` says, signs of zeros apart."""
    if KIND == "float32":
        return values.to(tl.float32).to(tl.float64)
    if KIND != "float":
        # where, because NaN stays what it is
        values = tl.where(values > LARGEST, LARGEST, tl.where(values < LOWEST, LOWEST, values))
    if KIND == "integer":
        carrier = tl.full(values.shape, CARRIER, tl.float64)
    else:
        power = _power(values, EXPONENT)
        carrier = tl.where(power > LARGEST, LARGEST, tl.where(power < SMALLEST, SMALLEST, power)) * CARRIER
    exact = (values + carrier) - carrier
    if KIND == "float":
        exact = tl.where(exact > LARGEST, float("inf"), tl.where(exact < LOWEST, float("-inf"), exact))
    return exact


@triton.jit
def _bins(
    errors,
    inside,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    MANTISSA: tl.constexpr,
    ORIGIN: tl.constexpr,
    ROOM: tl.constexpr,
):
    """Return the number of the power of two of each error, the last one past the end."""
    known = tl.where(errors == errors, errors, MOST)
    known = tl.where(known > MOST, MOST, tl.where(known < LEAST, LEAST, known))
    return tl.where(inside, (known.to(tl.int64, bitcast=True) >> MANTISSA) - ORIGIN, ROOM - 1)


@triton.jit(do_not_specialize=["elements"])
def compare_kernel(
    got_at,
    lo_at,
    hi_at,
    missing_at,
    out_at,
    elements,
    KIND: tl.constexpr,
    FLOATING: tl.constexpr,
    MISSING: tl.constexpr,
    LOWEST: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    EPS: tl.constexpr,
    CARRIER: tl.constexpr,
    NARROW: tl.constexpr,
    EXPONENT: tl.constexpr,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    MANTISSA: tl.constexpr,
    ORIGIN: tl.constexpr,
    RIGHT: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the numbers of a block to ``out``: elements inside, those with one value, the largest share, counts."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < elements
    got = tl.load(got_at + at, mask=there, other=0.0).to(tl.float64)
    lo = tl.load(lo_at + at, mask=there, other=0.0)
    hi = tl.load(hi_at + at, mask=there, other=0.0)
    least = _stored(lo, KIND, LOWEST, LARGEST, SMALLEST, CARRIER, EXPONENT)
    most = _stored(hi, KIND, LOWEST, LARGEST, SMALLEST, CARRIER, EXPONENT)
    inside = (got >= least) & (got <= most)
    one = least == most
    if MISSING:
        missing = tl.load(missing_at + at, mask=there, other=0) != 0
        inside = inside | ((got != got) & missing)
        one = one & (missing == 0)
    # twice the middles, twice the half widths, twice the errors
    both = lo + hi
    width = hi - lo
    error = tl.abs((got + got) - both)
    share = (error - _step(got, FLOATING, SMALLEST, EPS, EXPONENT)) / width
    share = tl.where(share == share, share, 0.0)
    share = tl.where(tl.abs(share) == float("inf"), 0.0, share)
    share = tl.where(width >= tl.abs(both) * NARROW, 0.0, share)
    share = tl.where(there & (share > 0.0), share, 0.0)
    ulp = _step(both * 0.5, FLOATING, SMALLEST, EPS, EXPONENT)
    error = tl.where(error == error, error, 0.0)
    error = tl.where(error == float("inf"), 0.0, error)
    used = error / (width + ulp)
    used = tl.where(used == used, used, 0.0)
    shares = _bins(used, there, LEAST, MOST, MANTISSA, ORIGIN, ROOM)
    # all are counted as right
    shares = tl.where(there & (shares > RIGHT), RIGHT, shares)
    ulps = _bins(error / ulp * 0.5, there, LEAST, MOST, MANTISSA, ORIGIN, ROOM)
    tl.atomic_add(out_at, tl.sum((inside & there).to(tl.int64), 0))
    tl.atomic_add(out_at + 1, tl.sum((one & there).to(tl.int64), 0))
    # the bits of numbers that are not negative are in their order
    tl.atomic_max(out_at + 2, tl.max(share, 0).to(tl.int64, bitcast=True))
    places = tl.arange(0, ROOM)
    tl.atomic_add(out_at + 3 + places, tl.histogram(shares.to(tl.int32), ROOM).to(tl.int64))
    tl.atomic_add(out_at + 3 + ROOM + places, tl.histogram(ulps.to(tl.int32), ROOM).to(tl.int64))
