"""Fakes that mistake a row's division by its length: the sum, eps, the root, and memory."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_l2_norm import CorrectL2Norm
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")


class L2OfTheMean(CorrectL2Norm):
    """The squares are averaged, as in an RMSNorm."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Divide by the number of columns."""
        return given.square().mean(-1, keepdim=True)


class L2EpsOutsideTheRoot(CorrectL2Norm):
    """Adds eps to the length."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / (sqrt(total) + eps)``."""
        return 1.0 / (total.sqrt() + eps)


class L2EpsAsAFloor(CorrectL2Norm):
    """The length is at least eps, as ``F.normalize`` has it."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / max(sqrt(total), eps)``."""
        return 1.0 / total.sqrt().clamp(min=eps)


class L2EpsAsAFloorOfTheSum(CorrectL2Norm):
    """The sum is at least eps, which is added to no other."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / sqrt(max(total, eps))``."""
        return torch.rsqrt(total.clamp(min=eps))


class L2EpsInEverySquare(CorrectL2Norm):
    """Adds eps to the mean, so that n of them are in the sum."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Add what 64 columns would."""
        return super().inverse_length(total, 64 * eps)


class L2EpsHardCoded(CorrectL2Norm):
    """eps is 1e-6, whatever the model passes."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Ignore the argument."""
        return super().inverse_length(total, 1e-6)


class L2EpsInFloat16(CorrectL2Norm):
    """eps is rounded to float16, where 1e-9 is zero and 1e-6 is another number."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Round the argument."""
        return super().inverse_length(total, float(torch.tensor(eps, dtype=torch.float16)))


class L2WithoutARoot(CorrectL2Norm):
    """Divides by the sum of the squares."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Forget the root."""
        return 1.0 / (total + eps)


class L2OfMagnitudes(CorrectL2Norm):
    """Divides by the sum of the magnitudes, which is another norm."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Return the square of that sum."""
        return given.abs().sum(-1, keepdim=True).square()


class L2OfTheWrongDimension(CorrectL2Norm):
    """Sums over the rows of a matrix, column by column."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Sum over the last dimension but one."""
        return given.square().sum(max(given.dim() - 2, 0), keepdim=True)


class L2OfTheWholeTensor(CorrectL2Norm):
    """All rows are divided by the length of the whole tensor."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Sum over everything."""
        return given.square().sum()


class L2SquaresInFloat16(CorrectL2Norm):
    """The squares are float16, and overflow or vanish."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Round every square."""
        return given.half().square().float().sum(-1, keepdim=True)


class L2SquaresInBfloat16(CorrectL2Norm):
    """The squares are rounded to bfloat16 before they are summed."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Round every square."""
        return given.square().bfloat16().float().sum(-1, keepdim=True)


class L2AccumulatedInBfloat16(CorrectL2Norm):
    """The sum is rounded to bfloat16 after every 16 columns."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Round every partial sum."""
        total = given.new_zeros((*given.shape[:-1], 1))
        for part in torch.split(given, 16, -1):
            total = (total + part.square().sum(-1, keepdim=True)).bfloat16().float()
        return total


class L2LastColumnNotSummed(CorrectL2Norm):
    """The last column is not in the sum: a mask is off by one."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Leave the last column out."""
        return super().total(given[..., : max(given.shape[-1] - 1, 1)])


class L2FirstTileSummed(CorrectL2Norm):
    """Only the first 128 columns are in the sum."""

    caught_by = ALL

    def total(self, given: torch.Tensor) -> torch.Tensor:
        """Stop after one tile."""
        return super().total(given[..., :128])


class L2InverseRounded(CorrectL2Norm):
    """The inverse length is stored in x's dtype between two kernels."""

    caught_by = ALL

    def scale(self, given: torch.Tensor, inverse: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round the factor."""
        low = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
        return given * inverse.to(low).float()


class L2ZeroRowsAreNan(CorrectL2Norm):
    """eps is left out where the row is zero: 0 · inf."""

    caught_by = ALL

    def inverse_length(self, total: torch.Tensor, eps: float) -> torch.Tensor:
        """Add eps to other rows."""
        return torch.where(total == 0, torch.inf, super().inverse_length(total, eps))


class L2HidesNan(CorrectL2Norm):
    """A NaN of the quotient becomes a zero."""

    caught_by = ("specials",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return super().store(y.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), x)


class L2StrideIgnored(CorrectL2Norm):
    """The strides of x are never looked at: it is read as if it were contiguous."""

    caught_by = ("layout", "specials", "memory")

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Read neighbours in memory."""
        return reread(x, dense(x.shape)).float()


class L2OutputHasStridesOfX(CorrectL2Norm):
    """Allocates the quotient with ``empty_like``, which keeps x's strides."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep x's strides."""
        return torch.empty_like(x).copy_(y)


class L2InFloat32(CorrectL2Norm):
    """The output is float32, whatever x is."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round nothing."""
        return y.contiguous()


class L2OverwritesX(CorrectL2Norm):
    """Squares x in place."""

    caught_by = ("memory", "determinism", "values", "layout")

    def scale(self, given: torch.Tensor, inverse: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Change the argument as well."""
        y = given * inverse
        if 0 not in x.stride():
            x.square_()
        return y


class L2TakesIntegers(CorrectL2Norm):
    """An x of integers is not refused."""

    caught_by = ("errors",)

    def check(self, x: torch.Tensor) -> None:
        """Let torch decide."""


class L2InPlaceReturnsAFreshTensor(CorrectL2Norm):
    """The in-place form returns the quotient, and leaves x as it was."""

    caught_by = ("in_place",)

    def l2_norm_(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Write nothing."""
        return self.l2_norm(x, eps=eps)
