"""Comparison of outputs with intervals, as numbers. This module does not judge."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from conformance.oracle.contract import EXPONENT, rounded
from conformance.oracle.histogram import NO_SIZES, Sizes, counted, of_counts, sizes
from conformance.oracle.interval import Interval, read
from conformance.oracle.places import Places, places

CHUNK = 2**24  # elements worked on at once on a GPU
CACHED = 2**17  # on a CPU: the steps of one chunk stay in its cache
NARROW = 2.0**-10  # relative half widths that come from rounding alone


@dataclass(frozen=True, slots=True)
class BadElement:
    """One element outside its allowed set. ``ulps``: steps of the output dtype to the nearest allowed value.

    ``nan``: whether NaN was allowed as well.
    """

    output: str
    index: tuple[int, ...]
    got: float
    lo: float
    hi: float
    ulps: float
    nan: bool = False

    def __str__(self) -> str:
        place = f"{self.output}[{', '.join(map(str, self.index))}] = {self.got:.9g}"
        if math.isnan(self.lo):
            return f"{place}, must be NaN"
        if self.lo == self.hi:
            return f"{place}, must be exactly {self.lo:.9g}{self._steps()}"
        return f"{place}, must lie in [{self.lo:.9g}, {self.hi:.9g}]{self._steps()}"

    def _steps(self) -> str:
        return f" ({self.ulps:.4g} ulp off)" if math.isfinite(self.ulps) else ""


@dataclass(frozen=True, slots=True)
class Errors:
    """Signed errors of outputs from the middles of their intervals before the store, added up, in ulp.

    ``up``: towards infinity; ``away``: away from zero; ``half``: the half widths of the intervals. The sums are
    over ``count`` elements, those that are ordinary numbers.
    """

    up: float = 0.0
    away: float = 0.0
    half: float = 0.0
    count: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.up + other.up, self.away + other.away, self.half + other.half, self.count + other.count)


NO_ERRORS = Errors()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Counts over the elements of outputs.

    ``exact``: elements with one allowed value. ``worst``: the largest fraction of the error bound before the store
    that any output used; 0 where the exact result rounds to the output. ``errors``: given if asked for.
    ``sizes``: of all errors. ``places``: of the wrong elements of an output.
    """

    elements: int = 0
    outside: int = 0
    exact: int = 0
    worst: float = 0.0
    first: BadElement | None = None
    errors: Errors = NO_ERRORS
    sizes: Sizes = NO_SIZES
    places: Places | None = None

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.elements + other.elements,
            self.outside + other.outside,
            self.exact + other.exact,
            max(self.worst, other.worst),
            self.first or other.first,
            self.errors + other.errors,
            self.sizes + other.sizes,
            self.places + other.places if self.places and other.places else self.places or other.places,
        )


NOTHING = Comparison()


def row_chunks(rows: int, n: int, device: str) -> Iterator[slice]:
    """Yield slices of rows that hold as many elements as a device works on at once."""
    step = max(1, (CACHED if device == "cpu" else CHUNK) // max(n, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def compare(
    name: str,
    output: torch.Tensor,
    before_store: Interval,
    shape: tuple[int, ...],
    row: int,
    *,
    signed: bool = False,
) -> Comparison:
    """Compare ``(rows, n)`` of an output with its interval before the store; ``row`` is the first row's number.

    ``shape`` is the output's full shape, for the index of a bad element. ``signed``: compute the signed errors
    too, which takes as long again.
    """
    if not output.numel():
        return NOTHING
    errors = _errors(output.double(), before_store, output.dtype) if signed else NO_ERRORS
    within, exact, worst, *counts = numbers(output, before_store)
    found = Comparison(
        elements=output.numel(),
        exact=int(exact),
        worst=worst,
        errors=errors,
        sizes=of_counts(counts, right=True),
    )
    if within == output.numel():
        return found
    got, allowed = output.double(), rounded(before_store, output.dtype)
    inside = allowed.contains(got)
    error, both, width = _distances(got, before_store)
    ulp = _ulp(both.mul_(0.5), output.dtype)
    return replace(
        found,
        outside=output.numel() - int(within),
        first=_first(name, got, allowed, inside, shape, row, output.dtype),
        sizes=sizes(error, width.add_(ulp), ulp, inside),
        places=places(name, ~inside, math.prod(shape) // got.shape[-1], row),
    )


def numbers(output: torch.Tensor, before_store: Interval) -> list[float]:
    """Return the elements inside the interval, those with one value, the largest share of the bound, and counts.

    The counts are those of ``histogram.counted``, as if all elements were right.
    """
    if output.is_cuda and fusible(output.dtype):
        from conformance.oracle import fused  # here, because the oracle also works without triton

        return fused.numbers(output, before_store, NARROW)
    return stepwise(output, before_store)


@functools.cache
def fusible(dtype: torch.dtype) -> bool:
    """Return whether one kernel compares outputs of a dtype: float32 must hold it, and triton must be there."""
    held = dtype.itemsize == 1 or (dtype.is_floating_point and dtype.itemsize <= torch.float32.itemsize)
    return held and find_spec("triton") is not None


def stepwise(output: torch.Tensor, before_store: Interval) -> list[float]:
    """Return ``numbers``, step by step."""
    got, allowed = output.double(), rounded(before_store, output.dtype)
    one_value = allowed.lo == allowed.hi
    if allowed.missing is not None:
        one_value &= ~allowed.missing
    error, both, width = _distances(got, before_store)
    share = _needed_share(got, both, width, error, output.dtype)
    ulp = _ulp(both.mul_(0.5), output.dtype)
    found = allowed.contains(got).count_nonzero(), one_value.count_nonzero(), share
    within, exact, needed, *counts = read(*found, counted(error, width.add_(ulp), ulp, right=True))
    return [within, exact, max(needed, 0.0), *counts]


def _distances(got: torch.Tensor, before_store: Interval) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return twice the errors, twice the middles of the intervals, and twice their half widths."""
    lo, hi = before_store.lo, before_store.hi
    both = lo + hi
    return (got + got).sub_(both).abs_(), both, hi - lo


def _needed_share(
    got: torch.Tensor, both: torch.Tensor, width: torch.Tensor, error: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return the largest fraction of the half width needed before half an ulp of the store explains an output.

    It is negative where half an ulp explains all of them.
    """
    # A fraction close to 1 says nothing either where a step before the store rounds to 16 bits, as y does before
    # it is quantised, and a tie is inside the bound: the two numbers next to the tie are the interval's ends, and
    # every right kernel gives one of them.
    missing = _ulp(got, dtype).neg_().add_(error)
    # no width has no fraction, nor have infinities
    share = missing.div_(width).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    # a number that may also be flushed to zero says nothing about the bound, nor does one that overflows
    return share.masked_fill_(width >= both.abs().mul_(NARROW), 0.0).max()


def _errors(got: torch.Tensor, before_store: Interval, dtype: torch.dtype) -> Errors:
    """Return the signed errors, over elements whose output and interval are finite and normal."""
    middle, half = (before_store.lo + before_store.hi) / 2, (before_store.hi - before_store.lo) / 2
    size = middle.abs()
    ordinary = got.isfinite() & half.isfinite() & (size >= torch.finfo(dtype).smallest_normal)
    per_ulp = torch.where(ordinary, 1.0 / _ulp(middle, dtype), 0.0)
    error = torch.where(ordinary, (got - middle) * per_ulp, 0.0)
    away = (error * middle.sign()).nansum()
    widths = torch.where(ordinary, half * per_ulp, 0.0)
    return Errors(float(error.sum()), float(away), float(widths.sum()), int(ordinary.sum()))


def _ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the distance from each value to its neighbour away from zero."""
    if not dtype.is_floating_point:
        return torch.ones_like(values)
    info = torch.finfo(dtype)
    size = values.abs().clamp_(min=info.smallest_normal)
    return size.view(torch.int64).bitwise_and_(EXPONENT).view(torch.float64).mul_(info.eps)


def _first(
    name: str,
    got: torch.Tensor,
    allowed: Interval,
    inside: torch.Tensor,
    shape: tuple[int, ...],
    row: int,
    dtype: torch.dtype,
) -> BadElement:
    flat = int((~inside).flatten().to(torch.uint8).argmax())
    value, lo, hi = (float(t.flatten()[flat]) for t in (got, allowed.lo, allowed.hi))
    nearest = lo if value < lo else hi
    step = float(_ulp(torch.tensor([nearest], dtype=torch.float64), dtype)[0]) if math.isfinite(nearest) else 1.0
    place = flat + row * got.shape[-1]
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape)) if shape else ()
    return BadElement(name, index, value, lo, hi, abs(value - nearest) / step, bool(allowed.nan.flatten()[flat]))
