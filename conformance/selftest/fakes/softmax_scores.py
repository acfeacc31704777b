"""Fakes that mistake the scale or the mask of a softmax."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_softmax import CorrectSoftmax
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
TILE = 64  # columns


class SoftmaxScaleForgotten(CorrectSoftmax):
    """The scale is taken, and not used."""

    caught_by = ALL

    def scaled(self, given: torch.Tensor, scale: float | None) -> torch.Tensor:
        """Return the rows as they are."""
        return given


class SoftmaxScaledTwice(CorrectSoftmax):
    """The scale is applied to the scores, and again to what came of them."""

    caught_by = ALL

    def scaled(self, given: torch.Tensor, scale: float | None) -> torch.Tensor:
        """Multiply once more."""
        return super().scaled(super().scaled(given, scale), scale)


class SoftmaxScaleDivides(CorrectSoftmax):
    """The rows are divided by the scale: it was meant to be the root of a head's size."""

    caught_by = ALL

    def scaled(self, given: torch.Tensor, scale: float | None) -> torch.Tensor:
        """Return quotients."""
        return given if scale is None else given / scale


class SoftmaxScaleInBfloat16(CorrectSoftmax):
    """The scale is rounded to bfloat16, which has every power of two."""

    caught_by = ALL

    def scaled(self, given: torch.Tensor, scale: float | None) -> torch.Tensor:
        """Round the factor."""
        return given if scale is None else given * torch.tensor(scale).bfloat16().float()


class SoftmaxMaskScaledAsWell(CorrectSoftmax):
    """The scale is applied to the sum of rows and mask: masks of zero and minus infinity do not show it."""

    caught_by = ALL

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Scale a float mask in advance."""
        wide = mask if mask is None or mask.dtype == torch.bool or scale is None else mask.float() * scale
        return super().softmax(x, mask=wide, scale=scale)


class SoftmaxMaskForgotten(CorrectSoftmax):
    """The mask is taken, and not used."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the rows as they are."""
        return given


class SoftmaxMaskInverted(CorrectSoftmax):
    """Bools of a mask are True where scores are masked."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Keep what is masked."""
        return super().masked(given, ~mask if mask is not None and mask.dtype == torch.bool else mask)


class SoftmaxMaskedToZero(CorrectSoftmax):
    """Scores that bools mask are zero, and their powers are in the sum."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Multiply by the mask."""
        return given * mask if mask is not None and mask.dtype == torch.bool else super().masked(given, mask)


class SoftmaxMaskedAfterTheSum(CorrectSoftmax):
    """Masked probabilities are made zero after they were computed: the others do not add up to one."""

    caught_by = ALL

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Forget the mask, and multiply by its power at the end."""
        if mask is None or x.numel() == 0:
            return super().softmax(x, mask=mask, scale=scale)
        self.check(x, mask)
        kept = mask.float() if mask.dtype == torch.bool else torch.exp(mask.float())
        return self.store(self.shares(self.scaled(self.load(x), scale)) * kept, x)


class SoftmaxMaskAddedToThePowers(CorrectSoftmax):
    """A float mask is added to the powers in place of the scores."""

    caught_by = ALL

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Add late, and keep the powers above zero."""
        if mask is None or mask.dtype == torch.bool or x.numel() == 0:
            return super().softmax(x, mask=mask, scale=scale)
        self.check(x, mask)
        given = self.scaled(self.load(x), scale)
        powers = (self.power(given - self.largest(given)) + mask.float()).clamp(min=0.0)
        return self.store(self.divide(powers, self.total(powers)), x)


class SoftmaxMaskOfTheFirstRow(CorrectSoftmax):
    """The mask's first row is used for all rows, as if it were a mask of columns."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Broadcast one row."""
        return super().masked(given, mask if mask is None else mask.flatten(0, -2)[0] if mask.dim() > 1 else mask)


class SoftmaxMaskOfTheFirstBatch(CorrectSoftmax):
    """The mask is taken to be that of the first element of a batch, for all of them."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Broadcast over the wrong dimension."""
        return super().masked(given, mask[:1] if mask is not None and mask.dim() > 2 else mask)


class SoftmaxMaskStrideIgnored(CorrectSoftmax):
    """The strides of the mask are never looked at: one that is expanded is read past its end."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Read neighbours in memory."""
        return super().masked(given, mask if mask is None else reread(mask, dense(mask.shape)))


class SoftmaxMaskInBfloat16(CorrectSoftmax):
    """The mask is rounded to bfloat16, as if it had only zeros and minus infinities."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Round what is added."""
        rounded = mask if mask is None or mask.dtype == torch.bool else mask.bfloat16()
        return super().masked(given, rounded)


class SoftmaxMaxBeforeTheMask(CorrectSoftmax):
    """The maximum is that of all scores, masked ones too: far above the others it leaves powers of zero alone."""

    caught_by = ALL

    def softmax(self, x: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
        """Take the maximum first."""
        self.check(x, mask)
        if x.numel() == 0:
            return x.new_empty(x.shape)
        given = self.scaled(self.load(x), scale)
        powers = self.power(self.masked(given - self.largest(given), mask))
        return self.store(self.divide(powers, self.total(powers)), x)


class SoftmaxOfMaskedTilesIsNan(CorrectSoftmax):
    """One pass over tiles: as long as all was masked, the old maximum less the new one is inf - inf."""

    caught_by = ALL

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """Rescale by a power of NaN."""
        so_far, total = torch.full_like(scores[..., :1], -torch.inf), torch.zeros_like(scores[..., :1])
        for tile in torch.split(scores, TILE, -1):
            new = torch.maximum(so_far, self.largest(tile))
            total = total * self.power(so_far - new) + self.total(self.power(tile - new))
            so_far = new
        return self.divide(self.power(scores - so_far), total)


class SoftmaxMaskOfTheLastTileLost(CorrectSoftmax):
    """The mask is applied to whole tiles of columns alone: the last columns of a row are kept."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Stop at the last whole tile."""
        whole = given.shape[-1] // TILE * TILE
        return torch.cat((super().masked(given, mask)[..., :whole], given[..., whole:]), -1)


class SoftmaxMaskNotLowEnough(CorrectSoftmax):
    """Bools put -10 in the place of masked scores, whose power is small, and in the sum."""

    caught_by = ALL

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Fill with a small number."""
        if mask is None or mask.dtype != torch.bool:
            return super().masked(given, mask)
        return torch.where(mask, given, -10.0)


class SoftmaxOfNothingIsZero(CorrectSoftmax):
    """A row that its mask leaves nothing of gives zeros, which the contract does not promise."""

    caught_by = ("specials", "values")

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """Replace NaN where every score is minus infinity."""
        nothing = (scores == -torch.inf).all(-1, keepdim=True)
        return torch.where(nothing, 0.0, super().shares(scores))


class SoftmaxOfNothingIsEqualShares(CorrectSoftmax):
    """Bools put the lowest number in the place of masked scores: a row of nothing else gives equal shares."""

    caught_by = ("specials", "values")

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Fill with a number that is finite, and low enough everywhere else."""
        if mask is None or mask.dtype != torch.bool:
            return super().masked(given, mask)
        return torch.where(mask, given, torch.finfo(torch.float32).min)


class SoftmaxOverwritesTheMask(CorrectSoftmax):
    """The scores are written over a float mask."""

    caught_by = ("memory", "determinism", "values", "layout")

    def masked(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Use the mask's memory."""
        scores = super().masked(given, mask)
        if mask is not None and mask.dtype != torch.bool and 0 not in mask.stride():
            mask.copy_(scores)
        return scores


class SoftmaxTakesAnyMask(CorrectSoftmax):
    """A mask of another shape or of integers is not refused."""

    caught_by = ("errors",)

    def check(self, x: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Look at the scores alone."""
        super().check(x, None)
