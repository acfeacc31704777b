"""Sizes of the errors of many elements as a few numbers: counts by powers of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

# powers of two that are told apart: smaller and larger errors, infinite ones and NaN, count in the outermost bins
LEAST, MOST = -10, 25
BINS = MOST - LEAST + 1
MANTISSA, BIAS = 52, 1023  # of float64
RIGHT = 1.0 - 2.0**-MANTISSA  # the largest share of an element that is right


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of errors: the first from ``2**least`` up to twice that, the others from each next power of two.

    ``counts`` neither begins nor ends with 0.
    """

    least: int = 0
    counts: tuple[int, ...] = ()

    def __add__(self, other: Histogram) -> Histogram:
        """Return the counts of both."""
        if not self.counts or not other.counts:
            return self if self.counts else other
        least = min(self.least, other.least)
        most = max(each.least + len(each.counts) for each in (self, other))
        return Histogram(least, tuple(self.at(power) + other.at(power) for power in range(least, most)))

    def at(self, power: int) -> int:
        """Return the count of errors from a power of two up to the next."""
        place = power - self.least
        return self.counts[place] if 0 <= place < len(self.counts) else 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Errors of outputs from the middle of what is allowed, in two measures.

    ``share``: of the allowed error, the rounding of the store included; from 1 on are the elements that are wrong.
    ``ulps``: steps of the output's dtype; ``wrong``: those of the wrong elements alone.
    """

    share: Histogram = Histogram()
    ulps: Histogram = Histogram()
    wrong: Histogram = Histogram()

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.share + other.share, self.ulps + other.ulps, self.wrong + other.wrong)


NO_SIZES = Sizes()


def sizes(error: torch.Tensor, allowed: torch.Tensor, ulp: torch.Tensor, inside: torch.Tensor) -> Sizes:
    """Return the sizes of errors, given as twice the error and twice the allowed one.

    ``ulp`` are the steps of the output's dtype; ``inside`` is where an output is right.
    """
    parts = ((inside, True), (~inside, False))
    return sum(
        (of_counts(counted(error[at], allowed[at], ulp[at], right=right), right=right) for at, right in parts),
        NO_SIZES,
    )


def counted(error: torch.Tensor, allowed: torch.Tensor, ulp: torch.Tensor, *, right: bool) -> torch.Tensor:
    """Return the counts of the sizes of errors of which all are right, or none is: shares, then ulps.

    ``error`` and ``allowed`` are twice the errors; ``error`` is overwritten.
    """
    if right:
        # an infinity or NaN that is allowed has no error
        error.nan_to_num_(nan=0.0, posinf=0.0)
    both = error.new_empty((2, *error.shape))
    share = torch.div(error, allowed, out=both[0])
    # what may be flushed to zero is far away, and still right
    _ = share.nan_to_num_(nan=0.0).clamp_(max=RIGHT) if right else share.clamp_(min=1.0)
    torch.div(error, ulp, out=both[1]).mul_(0.5)
    known = both.nan_to_num_(nan=math.inf, posinf=math.inf).clamp_(2.0**LEAST, 2.0**MOST)
    powers = known.view(torch.int64).bitwise_right_shift_(MANTISSA).sub_(BIAS + LEAST)
    powers[1] += BINS
    return torch.bincount(powers.flatten(), minlength=2 * BINS)


def of_counts(counts: torch.Tensor | Sequence[float], *, right: bool) -> Sizes:
    """Return the sizes whose counts these are."""
    numbers = [int(count) for count in counts]
    share, ulps = _histogram(numbers[:BINS]), _histogram(numbers[BINS:])
    return Sizes(share, ulps, Histogram() if right else ulps)


def _histogram(counts: list[int]) -> Histogram:
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return Histogram()
    return Histogram(LEAST + filled[0], tuple(counts[filled[0] : filled[-1] + 1]))
