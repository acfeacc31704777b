"""Fakes that mistake the norms before a rotary embedding: their statistics, weights, offset and roundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_rope import CorrectRope, EagerRope, ModelsRope, Norm, Pair
from conformance.selftest.fakes.memory import writable
from conformance.selftest.fakes.memory_views import reread

ALL: tuple[str, ...] = ("values", "layout", "specials")
ONLY: tuple[str, ...] = ("qk_norm_rope",)
Places = tuple[slice, slice]


class NormOfTheWholeToken(CorrectRope):
    """One mean over all heads of a token, as in models that normalise q before it is cut."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Share the factor."""
        return super().inv_rms(given.flatten(1), norm, x)[..., None]


class NormOfTheRotatedPart(CorrectRope):
    """The mean is that of the rotated numbers."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Remember how many are rotated."""
        self.rotary = 2 * cos.shape[-1]
        return super().angles(cos, sin, index, q)

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Cut the head."""
        return super().inv_rms(given[..., : self.rotary], norm, x)


class NormOfTheFirstHead(CorrectRope):
    """A warp reduces its first head alone, and all heads get that factor."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Broadcast one head's factor."""
        return super().inv_rms(given[:, :1], norm, x)


class MeanOverABlock(CorrectRope):
    """The sum is divided by the padded size of a head."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Divide by the next power of two."""
        n = given.shape[-1]
        return torch.rsqrt(given.square().sum(-1, keepdim=True) / (1 << (n - 1).bit_length()) + norm.eps)


class SumForTheMean(CorrectRope):
    """A head is divided by its length, as in l2_norm."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Forget the division."""
        return torch.rsqrt(given.square().sum(-1, keepdim=True) + norm.eps)


class LastNumberNotCounted(CorrectRope):
    """The mask of the sum ends one number early."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Leave the last square out."""
        squares = given[..., :-1].square().sum(-1, keepdim=True)
        return torch.rsqrt(squares / given.shape[-1] + norm.eps)


class MeanSubtracted(CorrectRope):
    """The variance is that about the mean, as in LayerNorm."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Centre the squares."""
        return torch.rsqrt(given.var(-1, keepdim=True, correction=0) + norm.eps)


class QkEpsForgotten(CorrectRope):
    """No eps is added."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Divide zero heads by zero."""
        return super().inv_rms(given, replace(norm, eps=0.0), x)


class QkEpsOfTheModule(CorrectRope):
    """The eps of the call is not passed on: the kernel has 1e-6 of its own."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Take the default."""
        return super().inv_rms(given, replace(norm, eps=1e-6), x)


class QkEpsBesideTheRoot(CorrectRope):
    """eps is added to the root."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Add later."""
        return 1 / (given.square().mean(-1, keepdim=True).sqrt() + norm.eps)


class SquaresInXs(CorrectRope):
    """Squares are stored in x's dtype, where those of large numbers overflow."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Round every square."""
        squares = given.square().to(x.dtype).float()
        return torch.rsqrt(squares.mean(-1, keepdim=True) + norm.eps)


class OneWeightForBoth(CorrectRope):
    """k is weighted like q."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def norms(
        self, q_weight: torch.Tensor, k_weight: torch.Tensor, offset: float, eps: float
    ) -> tuple[Norm, Norm]:
        """Pass q's weight twice."""
        return super().norms(q_weight, q_weight, offset, eps)


class WeightsExchanged(CorrectRope):
    """q has k's weight, and k has q's."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def norms(
        self, q_weight: torch.Tensor, k_weight: torch.Tensor, offset: float, eps: float
    ) -> tuple[Norm, Norm]:
        """Swap the weights."""
        return super().norms(k_weight, q_weight, offset, eps)


class OffsetLeftOut(CorrectRope):
    """Llama's norm for every model: the offset is never added."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def scale(self, norm: Norm) -> torch.Tensor:
        """Return the weight."""
        return norm.weight.float()


class OffsetIsOne(CorrectRope):
    """Gemma's norm for every model: one is added, whatever the offset."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def scale(self, norm: Norm) -> torch.Tensor:
        """Add one."""
        return 1 + norm.weight.float()


class OffsetAddedInLow(CorrectRope):
    """The offset is added in the weight's dtype, undeclared."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def scale(self, norm: Norm) -> torch.Tensor:
        """Add before the cast."""
        return (norm.offset + norm.weight).float()


class WeightOfTheFirstHalf(CorrectRope):
    """Both numbers of a pair get the weight of the first."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def weigh(self, normalised: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Repeat the first half of the weight."""
        half = scale.shape[-1] // 2
        return normalised * torch.cat((scale[:half], scale[:half], scale[2 * half :]), -1)


class WeightAfterTheRotation(CorrectRope):
    """The weight is multiplied after the rotation, which it does not commute with."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def weigh(self, normalised: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep the weight for later."""
        self.later = scale
        return normalised

    def store(self, heads: torch.Tensor, rotated: Pair, places: Places, x: torch.Tensor) -> torch.Tensor:
        """Multiply before the store."""
        first, second = (part * self.later[place] for part, place in zip(rotated, places, strict=True))
        return super().store(heads * self.later, (first, second), places, x)


class RestNotNormalised(CorrectRope):
    """Numbers that are not rotated are copied, as a rotation alone does."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def heads(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Remember the numbers."""
        self.given = super().heads(x, size)
        return self.given

    def store(self, heads: torch.Tensor, rotated: Pair, places: Places, x: torch.Tensor) -> torch.Tensor:
        """Copy from the argument."""
        return super().store(self.given, rotated, places, x)


class RestNotWeighted(CorrectRope):
    """The weight is multiplied in the loop over the pairs, so that the rest of a head has none."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def angles(self, cos: torch.Tensor, sin: torch.Tensor, index: torch.Tensor, q: torch.Tensor) -> Pair:
        """Remember how many numbers are in pairs."""
        self.rotary = 2 * cos.shape[-1]
        return super().angles(cos, sin, index, q)

    def weigh(self, normalised: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Weigh the rest with ones."""
        return normalised * torch.cat((scale[: self.rotary], torch.ones_like(scale[self.rotary :])), -1)


class NormAfterTheRotation(CorrectRope):
    """q and k are rotated first: the mean is the same, and the weight falls on other numbers."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def turn(self, x: torch.Tensor, size: int, angles: Pair, pairs: str, norm: Norm | None = None) -> torch.Tensor:
        """Exchange both steps."""
        turned = super().turn(x.float(), size, angles, pairs)
        heads = self.heads(turned, size)
        assert norm is not None
        return torch.empty(x.shape, dtype=x.dtype).copy_(self.normalise(heads, norm, x).reshape(x.shape))


class KWithoutNorm(CorrectRope):
    """k is rotated as it is: the model has no norm of k, it was thought."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def norms(
        self, q_weight: torch.Tensor, k_weight: torch.Tensor, offset: float, eps: float
    ) -> tuple[Norm, Norm]:
        """Remember which norm is q's."""
        self.of_q, of_k = super().norms(q_weight, k_weight, offset, eps)
        return self.of_q, of_k

    def normalise(self, heads: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Leave k."""
        return super().normalise(heads, norm, x) if norm is self.of_q else heads.float()


class FactorOfQForK(CorrectRope):
    """k is divided by the root of q's first head, which is still in the register."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def __init__(self) -> None:
        self.kept: torch.Tensor | None = None

    def inv_rms(self, given: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Keep every second call's factor."""
        if self.kept is None:
            factor = super().inv_rms(given, norm, x)
            self.kept = factor[:, :1]
            return factor
        kept, self.kept = self.kept, None
        return kept


class RoundedBetweenNormAndRotation(CorrectRope):
    """The norm is rounded to x's dtype before the rotation, undeclared."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def weigh(self, normalised: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round once more."""
        return super().weigh(normalised, scale, x).to(x.dtype).float()


class OneRoundingDeclaredTwo(CorrectRope):
    """Rounds once, and declares a rounding between norm and rotation."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    contracts: ClassVar[Mapping[str, str | Contract]] = {"qk_norm_rope": Contract(frozenset({"normed"}), "tile")}
    caught_by = ALL


class ModelsOrderUndeclared(ModelsRope):
    """Rounds before the weight, and declares the roundings after it alone."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    contracts: ClassVar[Mapping[str, str | Contract]] = EagerRope.contracts
    caught_by = ALL


class WeightInOtherStrides(CorrectRope):
    """Weights are read one number after the other, whatever their stride."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ("layout", "memory", "specials")

    def scale(self, norm: Norm) -> torch.Tensor:
        """Read in storage order."""
        return super().scale(replace(norm, weight=reread(norm.weight, (1,))))


class WeightBytesReadAsXs(CorrectRope):
    """The bytes of fp32 weights are read in q's dtype."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ALL

    def normalise(self, heads: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Reinterpret the first bytes."""
        read = norm.weight.contiguous().view(x.dtype)[: len(norm.weight)]
        return super().normalise(heads, replace(norm, weight=read), x)


class NormedInPlace(CorrectRope):
    """The norms are written over the projection, which the values share."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ("memory",)

    def normalise(self, heads: torch.Tensor, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """Leave the norm in the argument as well."""
        normed = super().normalise(heads, norm, x)
        if writable(x):
            x.copy_(normed.reshape(x.shape))
        return normed


class ScaleKept(CorrectRope):
    """The weight with its offset is computed once an address, and kept when another checkpoint is loaded."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ("state", "kept_results", *ALL)

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def scale(self, norm: Norm) -> torch.Tensor:
        """Look the weight up."""
        key = (norm.weight.data_ptr(), norm.weight.shape, norm.weight.dtype, norm.offset)
        return self.kept.setdefault(key, super().scale(norm))


class WeightsTooLong(CorrectRope):
    """Weights are not checked: what is too long is cut, and one number is taken for all."""

    operations: ClassVar[tuple[str, ...]] = ONLY
    caught_by = ("errors",)

    def check_weights(self, q: torch.Tensor, size: int, *weights: torch.Tensor) -> None:
        """Check nothing."""
        self.size = size

    def scale(self, norm: Norm) -> torch.Tensor:
        """Cut the weight."""
        return super().scale(norm).flatten()[: self.size]
