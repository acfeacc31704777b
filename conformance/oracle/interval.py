"""Sets of real numbers, one per element, as two float64 ends and whether NaN belongs to the set."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch


class Span(NamedTuple):
    """Bounds of the magnitudes of all ends of an interval, as Python numbers: loose ones, which only save work.

    A step leaves out what it would do about zeros, overflow or infinities where the span shows that there are
    none. ``positive``: no end is below zero. Where nothing is known, all work is done.
    """

    least: float = 0.0
    most: float = math.inf
    positive: bool = False

    @classmethod
    def of(cls, values: torch.Tensor) -> Span:
        """Return the span of float64 numbers; it says nothing where one is not finite."""
        if not values.numel():
            return cls()
        low, high = (values.item(),) * 2 if values.numel() == 1 else read(*values.aminmax())
        if low >= 0.0 and high < math.inf:
            return cls(low, high, positive=True)
        most = max(-low, high)
        return cls(read(values.abs().amin())[0], most) if most < math.inf else cls()

    @property
    def finite(self) -> bool:
        """Return whether all ends are known to be finite numbers."""
        return self.most < math.inf

    def loose(self) -> Span:
        """Return bounds twice as far apart as these, for what rounds by less."""
        return Span(self.least / 2, self.most * 2, self.positive)

    def hull(self, other: Span) -> Span:
        """Return the bounds of both."""
        return Span(min(self.least, other.least), max(self.most, other.most), self.positive and other.positive)

    def plus(self, other: Span) -> Span:
        """Return the bounds of a sum: numbers of unlike signs may cancel."""
        positive = self.positive and other.positive
        return Span(self.least + other.least if positive else 0.0, self.most + other.most, positive)

    def times(self, other: Span) -> Span:
        """Return the bounds of a product."""
        if not self.finite or not other.finite:
            return Span(positive=self.positive and other.positive)
        return Span(self.least * other.least, self.most * other.most, self.positive and other.positive)

    def over(self, other: Span) -> Span:
        """Return the bounds of a quotient."""
        if not self.finite or not other.finite or other.least == 0.0:
            return Span(positive=self.positive and other.positive)
        return Span(self.least / other.most, self.most / other.least, self.positive and other.positive)


def read(*numbers: torch.Tensor) -> list[float]:
    """Return the numbers in tensors, one after the other: from a GPU in one transfer, as each waits for it."""
    if numbers[0].is_cuda and len(numbers) > 1:
        together: list[float] = torch.cat([number.double().flatten() for number in numbers]).tolist()
        return together
    return [number for tensor in numbers for number in tensor.flatten().tolist()]


class Interval:
    """Element-wise ``[lo, hi]``; where ``nan`` holds, NaN is allowed as well. It is never changed.

    A value that *must* be NaN has NaN for both ends: then no number is inside. Both ends are one tensor,
    ``ends``, in one step of which both are computed; where every element is one known number there is one end.
    ``missing`` is where NaN is allowed, None for nowhere. ``span`` bounds the magnitudes of the ends: it follows
    from the steps that made them, or is read from them once.
    """

    __slots__ = ("_span", "ends", "missing")

    ends: torch.Tensor
    missing: torch.Tensor | None
    _span: Span | None

    def __init__(self, lo: torch.Tensor, hi: torch.Tensor, nan: torch.Tensor) -> None:
        """Take two ends, or one twice for known numbers."""
        self.ends = lo[None] if lo is hi else torch.stack((lo, hi))
        self.missing, self._span = nan, None

    @classmethod
    def of(cls, ends: torch.Tensor, missing: torch.Tensor | None, span: Span | None = None) -> Interval:
        """Return the sets with these ends, one or two along the first dimension."""
        made = cls.__new__(cls)
        made.ends, made.missing, made._span = ends, missing, span  # noqa: SLF001 - this class's own
        return made

    @classmethod
    def exactly(cls, values: torch.Tensor) -> Interval:
        """Return the one-element sets of given values, NaN included."""
        exact = values.double()
        span = Span.of(exact)
        return cls.of(exact[None], None if span.finite else exact.isnan(), span)

    @staticmethod
    def number(value: float, device: torch.device) -> Interval:
        """Return the set of one finite number, as one element; kept, because a copy to a GPU waits for it."""
        return _number(value, math.copysign(1.0, value), device)

    @staticmethod
    def single(value: float, device: torch.device) -> Interval:
        """Return ``number`` of a value that is rounded to float32 once, as kernels take numbers."""
        return Interval.number(torch.tensor(value, dtype=torch.float32).item(), device)

    @property
    def span(self) -> Span:
        """Return the bounds of the magnitudes of all ends."""
        if self._span is None:
            self._span = Span.of(self.ends)
        return self._span

    @property
    def lo(self) -> torch.Tensor:
        """Return the lower ends."""
        return self.ends[0]

    @property
    def hi(self) -> torch.Tensor:
        """Return the upper ends."""
        return self.ends[-1]

    @property
    def nan(self) -> torch.Tensor:
        """Return where NaN is allowed."""
        nowhere = self.ends.new_zeros((), dtype=torch.bool)
        return (nowhere if self.missing is None else self.missing).expand(self.ends.shape[1:])

    @property
    def is_exact(self) -> bool:
        """Return whether every element is one known number."""
        return self.ends.size(0) == 1

    def hull(self, other: Interval) -> Interval:
        """Return the smallest interval that holds both; a side that must be NaN only adds NaN."""
        lo, hi = torch.fmin(self.lo, other.lo), torch.fmax(self.hi, other.hi)
        return Interval.of(torch.stack((lo, hi)), either(self.missing, other.missing), self.span.hull(other.span))

    def reshape(self, *shape: int) -> Interval:
        """Return the same elements in another shape."""
        missing = None if self.missing is None else self.nan.reshape(shape)
        return Interval.of(self.ends.reshape(self.ends.size(0), *shape), missing, self._span)

    def __neg__(self) -> Interval:
        """Return the sets of the opposite numbers: negation loses nothing."""
        ends = -self.ends if self.is_exact else -self.ends.flip(0)
        return Interval.of(ends, self.missing, self.span._replace(positive=False))

    def contains(self, values: torch.Tensor) -> torch.Tensor:
        """Return which float64 ``values`` are members. NaN is a member only where the set says so."""
        inside = values.clamp(self.lo, self.hi) == values
        return inside if self.missing is None else inside | (values.isnan() & self.missing)


@functools.lru_cache(maxsize=2**10)
def _number(value: float, sign: float, device: torch.device) -> Interval:
    """Return the set of one number; its sign tells zeros apart, which are equal."""
    return Interval.exactly(torch.tensor(value, dtype=torch.float64, device=device))


def either(*missing: torch.Tensor | None) -> torch.Tensor | None:
    """Return where one of these masks holds; None holds nowhere."""
    found = [mask for mask in missing if mask is not None]
    if not found:
        return None
    first, *others = found
    for mask in others:
        first = first | mask
    return first
