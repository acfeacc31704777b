"""Fakes that mistake a softmax: its maximum, its powers, its sum, masks, and memory."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_softmax import CorrectSoftmax
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")


class SoftmaxMaxNotSubtracted(CorrectSoftmax):
    """No maximum is subtracted: powers overflow."""

    caught_by = ALL

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Subtract nothing."""
        return torch.zeros_like(given[..., :1])


class SoftmaxMaxStartsAtZero(CorrectSoftmax):
    """The running maximum starts at zero: rows far below it have powers of zero alone."""

    caught_by = ALL

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Return zero for a row of negative numbers."""
        return super().largest(given).clamp(min=0.0)


class SoftmaxMaxOfMagnitudes(CorrectSoftmax):
    """The largest magnitude is subtracted."""

    caught_by = ALL

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Forget the sign."""
        return super().largest(given.abs())


class SoftmaxMaxOfTheWholeTensor(CorrectSoftmax):
    """One maximum is subtracted from all rows."""

    caught_by = ALL

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Return the maximum of everything."""
        return given.max()


class SoftmaxMaxOfTheFirstTile(CorrectSoftmax):
    """The maximum is that of the first 64 columns, and never updated."""

    caught_by = ALL

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Stop after one tile."""
        return super().largest(given[..., :64])


class SoftmaxMaxIsTheMean(CorrectSoftmax):
    """The mean is subtracted, which centres a row, and bounds nothing."""

    caught_by = ALL

    def largest(self, given: torch.Tensor) -> torch.Tensor:
        """Return the mean of each row."""
        return given.mean(-1, keepdim=True)


class SoftmaxOnlineWithoutRescaling(CorrectSoftmax):
    """One pass over tiles of 64 columns: the sum so far is not scaled down when the maximum grows."""

    caught_by = ALL

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """Add up powers of different maxima."""
        so_far, total = torch.full_like(scores[..., :1], -torch.inf), torch.zeros_like(scores[..., :1])
        for tile in torch.split(scores, 64, -1):
            so_far = torch.maximum(so_far, self.largest(tile))
            total = total + self.total(self.power(tile - so_far))
        return self.divide(self.power(scores - so_far), total)


class SoftmaxOfBaseTwo(CorrectSoftmax):
    """The powers are of two, without the factor log2(e)."""

    caught_by = ALL

    def power(self, difference: torch.Tensor) -> torch.Tensor:
        """Return other powers."""
        return torch.exp2(difference)


class SoftmaxFactorRounded(CorrectSoftmax):
    """log2(e) is written with three decimals."""

    caught_by = ALL

    def power(self, difference: torch.Tensor) -> torch.Tensor:
        """Return powers of nearly e."""
        return torch.exp2(difference * 1.443)


class SoftmaxDifferenceInBfloat16(CorrectSoftmax):
    """The difference from the maximum is rounded to bfloat16."""

    caught_by = ALL

    def power(self, difference: torch.Tensor) -> torch.Tensor:
        """Round what is large."""
        return super().power(difference.bfloat16().float())


class SoftmaxPowersInBfloat16(CorrectSoftmax):
    """The powers are rounded to bfloat16 before they are summed."""

    caught_by = ALL

    def power(self, difference: torch.Tensor) -> torch.Tensor:
        """Round every power."""
        return super().power(difference).bfloat16().float()


class SoftmaxSumInFloat16(CorrectSoftmax):
    """The sum is kept in float16, to which every 16 columns are added."""

    caught_by = ALL

    def total(self, powers: torch.Tensor) -> torch.Tensor:
        """Round every partial sum."""
        total = powers.new_zeros((*powers.shape[:-1], 1))
        for part in torch.split(powers, 16, -1):
            total = (total + part.sum(-1, keepdim=True)).half().float()
        return total


class SoftmaxPaddingInTheSum(CorrectSoftmax):
    """Rows are padded with zeros to a power of two, and their powers are in the sum."""

    caught_by = ALL

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """Pad with zero in place of minus infinity."""
        n = scores.shape[-1]
        wide = torch.nn.functional.pad(scores, (0, (1 << (n - 1).bit_length()) - n))
        return super().shares(wide)[..., :n]


class SoftmaxLastColumnNotSummed(CorrectSoftmax):
    """The last column is not in the sum: its mask is off by one."""

    caught_by = ALL

    def total(self, powers: torch.Tensor) -> torch.Tensor:
        """Leave the last column out."""
        return super().total(powers[..., : max(powers.shape[-1] - 1, 1)])


class SoftmaxOfTheWrongDimension(CorrectSoftmax):
    """The sum is over the rows of a matrix."""

    caught_by = ALL

    def total(self, powers: torch.Tensor) -> torch.Tensor:
        """Sum over the last dimension but one."""
        return powers.sum(max(powers.dim() - 2, 0), keepdim=True)


class SoftmaxNotDivided(CorrectSoftmax):
    """The powers are returned as they are."""

    caught_by = ALL

    def divide(self, powers: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Forget the sum."""
        return powers


class SoftmaxWithAnEps(CorrectSoftmax):
    """A thousandth is added to the sum, so that nothing is divided by zero."""

    caught_by = ALL

    def divide(self, powers: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Add what no sum needs: it is never below one."""
        return powers / (total + 1e-3)


class SoftmaxIsItsLogarithm(CorrectSoftmax):
    """The result is a log_softmax."""

    caught_by = ALL

    def divide(self, powers: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Return logarithms."""
        return torch.log(powers / total)


class SoftmaxOfMaskedRowsIsZero(CorrectSoftmax):
    """A row of minus infinity alone gives zeros."""

    caught_by = ("specials", "values")

    def divide(self, powers: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return (powers / total).nan_to_num(nan=0.0)


class SoftmaxInfinitiesAreOne(CorrectSoftmax):
    """An infinity takes all of its row, as if it were a very large number."""

    caught_by = ("specials",)

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Cut infinities off."""
        return x.float().clamp(max=torch.finfo(torch.float32).max)


class SoftmaxStrideIgnored(CorrectSoftmax):
    """The strides of the scores are never looked at: they are read as if they were contiguous."""

    caught_by = ("layout", "specials", "memory")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Read neighbours in memory."""
        return reread(x, dense(x.shape)).float()


class SoftmaxOutputHasStridesOfX(CorrectSoftmax):
    """Allocates the probabilities with ``empty_like``, which keeps x's strides."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep x's strides."""
        return torch.empty_like(x).copy_(y)


class SoftmaxInFloat32(CorrectSoftmax):
    """The probabilities are float32, whatever x is."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round nothing."""
        return y.contiguous()


class SoftmaxOverwritesX(CorrectSoftmax):
    """Leaves the probabilities in x as well."""

    caught_by = ("memory", "determinism", "values", "layout")

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Change the argument."""
        out = super().store(y, x)
        if 0 not in x.stride():
            x.copy_(out)
        return out


class SoftmaxTakesIntegers(CorrectSoftmax):
    """Scores of integers are not refused."""

    caught_by = ("errors",)

    def check(self, x: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Let torch decide."""


class SoftmaxInPlaceReturnsAFreshTensor(CorrectSoftmax):
    """The in-place form returns the probabilities, and leaves x as it was."""

    caught_by = ("in_place",)

    def softmax_(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Write nothing."""
        return self.softmax(x, mask=mask, scale=scale)
