"""Interval arithmetic in float64, without the errors of float32 steps: signs, zeros, infinities, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, reduce

import torch

from conformance.oracle.interval import Interval, either

# the next number below zero: all that is above it is not negative
BELOW_ZERO = -math.ulp(0.0)
# the next number below the lowest float32
BELOW_LOWEST = math.nextafter(-float(torch.finfo(torch.float32).max), -math.inf)


@lru_cache(maxsize=1024)
def outward(step: float, dims: int, device: torch.device) -> torch.Tensor:
    """Return a step down for lower ends and up for upper ends, for ends of so many dimensions."""
    return torch.tensor([-step, step], dtype=torch.float64, device=device).reshape(2, *(1,) * (dims - 1))


def directed(step: float | torch.Tensor, ends: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return ``step * scale``, by which ends move apart: one for all elements, or one for each."""
    if isinstance(step, float):
        return outward(step * scale, ends.dim(), ends.device)
    return step * outward(scale, ends.dim(), ends.device)


def aligned(a: Interval, b: Interval) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ends of both, of one number of dimensions, so that the ends' dimension is the same."""
    x, y = a.ends, b.ends
    if x.dim() == y.dim():
        return x, y
    dims = max(x.dim(), y.dim())
    x, y = (ends.reshape(ends.size(0), *(1,) * (dims - ends.dim()), *ends.shape[1:]) for ends in (x, y))
    return x, y


def may_hold(mask: torch.Tensor) -> bool:
    """Return whether a mask holds anywhere; on a GPU True, as work is done sooner there than an answer read."""
    return mask.is_cuda or bool(mask.any())


def non_negative(x: Interval) -> None:
    """Check that no number is below zero."""
    assert x.span.positive or not bool((x.lo < 0).any()), "of non-negative numbers only"


def times(a: Interval, b: Interval) -> Interval:
    """Return the exact product of two intervals, with NaN where they can give 0 · inf."""
    span = a.span.times(b.span)
    x, y = aligned(a, b)
    exact = a.is_exact and b.is_exact
    if span.finite:
        return Interval.of(_products(a, b, x, y), either(a.missing, b.missing), span)
    if exact:
        product = x * y
        return Interval.of(product, either(product[0].isnan(), a.missing, b.missing), span)
    results = _pairs(x, y, torch.mul)
    invalid = (has_zero(a) & has_infinity(b)) | (has_infinity(a) & has_zero(b))
    return Interval.of(_spanned(results, a, b), either(invalid, a.missing, b.missing), span)


def _products(a: Interval, b: Interval, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the ends of the product of finite numbers."""
    if not a.is_exact and not b.is_exact and not (a.span.positive and b.span.positive):
        four = (x[:, None] * y[None]).flatten(0, 1)
        return torch.stack((four.amin(0), four.amax(0)))
    ends = x * y
    known, other = (a, b) if a.is_exact else (b, a)
    # numbers that are not negative keep the order of ends
    return ends if other.is_exact or known.span.positive else ordered(ends)


def quotients(a: Interval, b: Interval) -> Interval:
    """Return the exact quotient of two intervals, with NaN where they can give 0 / 0 or inf / inf."""
    span = a.span.over(b.span)
    x, y = aligned(a, b)
    missing = either(a.missing, b.missing)
    if span.finite and b.is_exact:
        ends = x / y
        return Interval.of(ends if a.is_exact or b.span.positive else ordered(ends), missing, span)
    if span.finite and a.span.positive and b.span.positive:
        return Interval.of(x / y.flip(0), missing, span)
    results = _pairs(x, y, torch.div)
    if not span.finite:
        invalid = (has_zero(a) & has_zero(b)) | (has_infinity(a) & has_infinity(b))
        missing = either(invalid, missing)
    return Interval.of(_spanned(results, a, b), missing, span)


def ordered(ends: torch.Tensor) -> torch.Tensor:
    """Return pairs of finite numbers with the lower one first."""
    one, other = ends.unbind()
    sorted_ends = torch.empty_like(ends)
    low, high = sorted_ends.unbind()
    torch.minimum(one, other, out=low)
    torch.maximum(one, other, out=high)
    return sorted_ends


def _pairs(
    x: torch.Tensor, y: torch.Tensor, step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Return the results of a step for each end of one interval and each of another."""
    return [step(one, other) for one in x for other in y]


def _spanned(results: list[torch.Tensor], a: Interval, b: Interval) -> torch.Tensor:
    """Return the ends that hold the results for all ends of two intervals, which may be NaN."""
    if len(results) == 1:
        return results[0][None]
    ends = torch.stack((reduce(torch.fmin, results), reduce(torch.fmax, results)))
    missing = ends[0].isnan()
    if may_hold(missing):
        # every result is 0 · inf (or inf / inf), and a number between the infinities gives zero
        numbers = ~a.lo.isnan() & ~b.lo.isnan() & ((a.lo < a.hi) | (b.lo < b.hi))
        ends.masked_fill_(missing & numbers, 0.0)
    return ends


def has_zero(x: Interval) -> torch.Tensor:
    """Return which sets have a zero."""
    return x.lo == 0 if x.is_exact else (x.lo <= 0) & (x.hi >= 0)


def has_infinity(x: Interval) -> torch.Tensor:
    """Return which sets have an infinity."""
    infinite = x.ends.isinf()
    return infinite[0] if x.is_exact else infinite[0] | infinite[1]


def sums(a: Interval, b: Interval) -> Interval:
    """Return the exact sum of two intervals, with NaN where they can give inf - inf."""
    x, y = aligned(a, b)
    ends, missing, span = x + y, either(a.missing, b.missing), a.span.plus(b.span)
    if not span.finite:
        opposite = ((a.lo == -math.inf) & (b.hi == math.inf)) | ((b.lo == -math.inf) & (a.hi == math.inf))
        # where one end is inf - inf, every number of the sum is the other end
        ends, missing = torch.where(ends.isnan(), ends.flip(0), ends), either(missing, opposite)
    return Interval.of(ends, missing, span)


def known_sums(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ``x + y`` in float64, and the two float64 numbers, or the one, between which the exact sum is."""
    total = x + y
    part = total - x
    # what float64 lost, exactly (Knuth's two-sum)
    lost = (x - (total - part)).add_(y - part)
    if not may_hold(lost):
        return total, total, total
    infinity = total.new_full((), math.inf)
    low = torch.where(lost < 0, total.nextafter(-infinity), total)
    return total, low, torch.where(lost > 0, total.nextafter(infinity), total)


def squares(x: Interval) -> Interval:
    """Return the exact squares."""
    ends, span = x.ends * x.ends, x.span.times(x.span)._replace(positive=True)
    if not x.is_exact and not x.span.positive:
        crosses = (x.lo < 0) & (x.hi > 0)
        low, high = ends.unbind()
        ends = torch.stack((torch.where(crosses, 0.0, torch.minimum(low, high)), torch.maximum(low, high)))
        span = span._replace(least=0.0)
    return Interval.of(ends, x.missing, span)


def magnitude(x: Interval) -> torch.Tensor:
    """Return the largest magnitude of each set."""
    if x.span.positive:
        return x.hi
    sizes = x.ends.abs()
    return sizes[0] if x.is_exact else torch.fmax(*sizes.unbind())


def smallest(x: Interval) -> torch.Tensor:
    """Return the smallest magnitude of each set."""
    if x.is_exact:
        return x.lo.abs()
    if x.span.positive:
        return x.lo
    crosses = (x.lo < 0) & (x.hi > 0)
    return torch.where(crosses, 0.0, torch.fmin(*x.ends.abs().unbind()))


def with_zero(interval: Interval, where: torch.Tensor) -> Interval:
    """Return the sets, with zero and what is between where a mask holds."""
    low, high = interval.lo, interval.hi
    ends = torch.where(where, low.clamp(max=0.0), low), torch.where(where, high.clamp(min=0.0), high)
    return Interval.of(torch.stack(ends), interval.missing, interval.span._replace(least=0.0))
