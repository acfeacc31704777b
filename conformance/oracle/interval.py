"""Sets of real numbers, one per element, as two float64 ends and whether NaN belongs to the set."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Element-wise ``[lo, hi]``; where ``nan`` holds, NaN is allowed as well.

    A value that *must* be NaN has NaN for both ends: then no number is inside. ``lo is hi`` marks a set of
    exactly known numbers.
    """

    lo: torch.Tensor
    hi: torch.Tensor
    nan: torch.Tensor

    @classmethod
    def exactly(cls, values: torch.Tensor) -> Interval:
        """Return the one-element sets of given values, NaN included."""
        exact = values.double()
        return cls(exact, exact, exact.isnan())

    @property
    def is_exact(self) -> bool:
        """Return whether every element is one known number."""
        return self.lo is self.hi

    def hull(self, other: Interval) -> Interval:
        """Return the smallest interval that holds both; a side that must be NaN only adds NaN."""
        return Interval(torch.fmin(self.lo, other.lo), torch.fmax(self.hi, other.hi), self.nan | other.nan)

    def reshape(self, *shape: int) -> Interval:
        """Return the same elements in another shape."""
        lo = self.lo.reshape(shape)
        hi = lo if self.is_exact else self.hi.reshape(shape)
        return Interval(lo, hi, self.nan.reshape(shape))

    def __neg__(self) -> Interval:
        """Return the sets of the opposite numbers: negation loses nothing."""
        lo = -self.hi
        return Interval(lo, lo if self.is_exact else -self.lo, self.nan)

    def contains(self, values: torch.Tensor) -> torch.Tensor:
        """Return which float64 ``values`` are members. NaN is a member only where the set says so."""
        return ((self.lo <= values) & (values <= self.hi)) | (values.isnan() & self.nan)
