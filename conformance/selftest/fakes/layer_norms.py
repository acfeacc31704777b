"""Fakes that mistake a LayerNorm: its two statistics, eps, weight and bias, and memory."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class LayerMeanNotSubtracted(CorrectLayerNorm):
    """The mean is subtracted for the variance, and forgotten in the result."""

    caught_by = ALL

    def centre(self, given: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Keep the mean."""
        return given


class LayerMeanNotSubtractedInTheTail(CorrectLayerNorm):
    """The columns after the last whole vector of eight keep their mean."""

    caught_by = ALL

    def centre(self, given: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Subtract the mean from whole vectors alone."""
        whole = given.shape[-1] // 8 * 8
        return torch.cat([given[..., :whole] - mean, given[..., whole:]], -1)


class LayerVarianceAboutZero(CorrectLayerNorm):
    """The variance is an RMSNorm's: about zero."""

    caught_by = ALL

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Return the mean of the squares."""
        return given.square().mean(-1, keepdim=True)


class LayerOnePass(CorrectLayerNorm):
    """One pass over the row: the variance is E[x²] - E[x]², which cancels where the mean is large."""

    caught_by = ALL

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Return the difference of two means, which is never negative."""
        return (given.square().mean(-1, keepdim=True) - given.mean(-1, keepdim=True).square()).clamp(min=0.0)


class LayerOnePassUnclamped(CorrectLayerNorm):
    """One pass, and a difference below zero becomes NaN."""

    caught_by = ALL

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Return the difference of two means."""
        return given.square().mean(-1, keepdim=True) - given.mean(-1, keepdim=True).square()


class LayerOnePassOfRoundedSquares(CorrectLayerNorm):
    """One pass whose two means are rounded to x's dtype before they are subtracted."""

    caught_by = ALL

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round both means."""
        mean = given.mean(-1, keepdim=True)
        rounded = (part.to(torch.bfloat16).float() for part in (given.square().mean(-1, keepdim=True), mean))
        squares, low = rounded
        return (given - mean) * torch.rsqrt((squares - low.square()).clamp(min=0.0) + eps)


class LayerUnbiased(CorrectLayerNorm):
    """The variance is over n - 1, as ``torch.var`` has it."""

    caught_by = ALL

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Divide by one less."""
        n = given.shape[-1]
        return super().variance(given) * (n / max(n - 1, 1))


class LayerEpsOutsideTheRoot(CorrectLayerNorm):
    """Adds eps to the standard deviation."""

    caught_by = ALL

    def inverse_deviation(self, given: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / (sqrt(variance) + eps)``."""
        return 1.0 / (self.variance(given).sqrt() + eps)


class LayerEpsHardCoded(CorrectLayerNorm):
    """eps is PyTorch's default of 1e-5, whatever the model passes."""

    caught_by = ALL

    def inverse_deviation(self, given: torch.Tensor, eps: float) -> torch.Tensor:
        """Ignore the argument."""
        return super().inverse_deviation(given, 1e-5)


class LayerEpsInTheSum(CorrectLayerNorm):
    """Adds eps to the sum of the squared deviations, before it is divided by n."""

    caught_by = ALL

    def inverse_deviation(self, given: torch.Tensor, eps: float) -> torch.Tensor:
        """Divide eps by n as well."""
        return super().inverse_deviation(given, eps / given.shape[-1])


class LayerBiasBeforeWeight(CorrectLayerNorm):
    """Adds the bias, then multiplies the sum by the weight."""

    caught_by = ALL

    def affine(self, y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Swap both steps."""
        shifted = self.shift(y, bias)
        return shifted if weight is None else shifted * weight.float()


class LayerBiasDropped(CorrectLayerNorm):
    """The bias is never added."""

    caught_by = ALL

    def shift(self, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Leave the bias out."""
        return y


class LayerBiasOnlyWithAWeight(CorrectLayerNorm):
    """One flag says whether there is a weight and a bias: without a weight the bias is not added."""

    caught_by = ALL

    def affine(self, y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Look at the weight alone."""
        return super().affine(y, weight, None if weight is None else bias)


class LayerStatisticsOverAllRows(CorrectLayerNorm):
    """The statistics are those of the last two dimensions, as if the normalised shape had both."""

    caught_by = ALL

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Return one mean of all rows of a matrix."""
        return given.mean(tuple(range(max(given.dim() - 2, 0), given.dim())), keepdim=True)

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Return the variance about that mean."""
        return self.mean((given - self.mean(given)).square())


class LayerMeanRounded(CorrectLayerNorm):
    """The mean is stored in x's dtype between two kernels, and so is only as exact as x."""

    caught_by = ALL

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round the mean that is subtracted."""
        low = self.mean(given).to(torch.float16 if x.dtype == torch.float32 else x.dtype)
        return (given - low.float()) * self.inverse_deviation(given, eps)


class LayerPaddingInTheVariance(CorrectLayerNorm):
    """Rows are padded to a power of two: after the mean is subtracted the padding is no longer zero."""

    caught_by = ALL

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Add the square of the mean for every padded column."""
        n = given.shape[-1]
        padded = (1 << (n - 1).bit_length()) - n
        return super().variance(given) + self.mean(given).square() * (padded / n)


class LayerLastColumnNotSummed(CorrectLayerNorm):
    """The last column is not in the sum of the mean: a mask is off by one."""

    caught_by = ALL

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Leave the last column out."""
        n = given.shape[-1]
        return given[..., : max(n - 1, 1)].sum(-1, keepdim=True) / n


class LayerMeanOfBlocks(CorrectLayerNorm):
    """The mean is that of the means of blocks of 64 columns, though the last block is shorter."""

    caught_by = ALL

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Weigh a short block like a whole one."""
        means = [block.mean(-1, keepdim=True) for block in torch.split(given, 64, -1)]
        return torch.cat(means, -1).mean(-1, keepdim=True)


class LayerNormalisedRounded(CorrectLayerNorm):
    """The normalised value is rounded to x's dtype before the weight, which the contract does not say."""

    caught_by = ALL

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round once more."""
        return super().normalise(given, eps, x).to(x.dtype).float()


class LayerWeightStrideIgnored(CorrectLayerNorm):
    """The weight is read as if it were contiguous."""

    caught_by = WRONG_MEMORY

    def affine(self, y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Read neighbours in memory."""
        return super().affine(y, None if weight is None else reread(weight, dense(weight.shape)), bias)


class LayerBiasStrideIgnored(CorrectLayerNorm):
    """The bias is read as if it were contiguous."""

    caught_by = WRONG_MEMORY

    def shift(self, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Read neighbours in memory."""
        return super().shift(y, None if bias is None else reread(bias, dense(bias.shape)))


class LayerHidesNan(CorrectLayerNorm):
    """A NaN becomes a zero, as in a kernel that selects with a comparison."""

    caught_by = ("specials",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Replace NaN."""
        return super().store(y.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), x)


class LayerOutputHasStridesOfX(CorrectLayerNorm):
    """Allocates the output with ``empty_like``, which keeps x's strides."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep x's strides."""
        return torch.empty_like(x).copy_(y)


class LayerOverwritesX(CorrectLayerNorm):
    """Subtracts the mean in x itself."""

    caught_by = ("memory", "determinism", "values", "layout")

    def normalise(self, given: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Change the argument as well."""
        y = super().normalise(given, eps, x)
        if 0 not in x.stride():
            x.copy_(self.centre(given, self.mean(given)))
        return y


class LayerTakesAnyBias(CorrectLayerNorm):
    """A bias of another length is not refused."""

    caught_by = ("errors",)

    def check(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        """Look at the weight alone."""
        super().check(x, weight, None)

    def shift(self, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Use as much of it as there is."""
        fits = bias is None or (bias.dim() == 1 and bias.shape[-1] == y.shape[-1])
        return super().shift(y, bias) if fits else y


class LayerInPlaceReturnsAFreshTensor(CorrectLayerNorm):
    """The in-place form returns its result, and leaves x as it was."""

    caught_by = ("in_place",)

    def layer_norm_(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Write nothing."""
        return self.layer_norm(x, weight, bias, eps=eps)
