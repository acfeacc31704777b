"""Fakes that mistake the rest of a norm: statistics, eps, masks, strides of x, the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.memory_views import dense, reread
from conformance.selftest.fakes.summation import serial

ALL: tuple[str, ...] = ("values", "layout", "specials")
WRONG_MEMORY: tuple[str, ...] = ("layout", "specials", "memory")


class NormEpsOutsideTheRoot(CorrectNorm):
    """Adds eps to the root of the mean: seen on small rows alone."""

    caught_by = ALL

    def inverse_rms(self, stream: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``1 / (sqrt(mean) + eps)``."""
        return 1.0 / (self.mean_square(stream).sqrt() + eps)


class NormEpsHardCoded(CorrectNorm):
    """eps is the kernel's own 1e-6, whatever the model passes."""

    caught_by = ALL

    def inverse_rms(self, stream: torch.Tensor, eps: float) -> torch.Tensor:
        """Ignore the argument."""
        return super().inverse_rms(stream, 1e-6)


class NormEpsInTheSum(CorrectNorm):
    """Adds eps to the sum of the squares, before it is divided by n."""

    caught_by = ALL

    def inverse_rms(self, stream: torch.Tensor, eps: float) -> torch.Tensor:
        """Divide eps by n as well."""
        return super().inverse_rms(stream, eps / stream.shape[-1])


class NormOneLess(CorrectNorm):
    """Divides the squares by n - 1, as an unbiased variance would."""

    caught_by = ALL

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the sum over one less than the columns."""
        return stream.pow(2).sum(-1, keepdim=True) / max(stream.shape[-1] - 1, 1)


class NormMeanSubtracted(CorrectNorm):
    """The variance is a LayerNorm's: about the mean."""

    caught_by = ALL

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the variance."""
        return stream.var(-1, keepdim=True, unbiased=False)


class NormLastColumnNotSummed(CorrectNorm):
    """The last column of a wide row has no square in the sum: a mask is off by one."""

    caught_by = ALL

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Leave the last column out."""
        n = stream.shape[-1]
        return stream[..., : max(n - 1, 1)].pow(2).sum(-1, keepdim=True) / n


class NormLastColumnNotWritten(CorrectNorm):
    """The last column of an odd width is never stored."""

    caught_by = ("written", *ALL)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Store pairs of columns."""
        out = torch.empty(x.shape, dtype=x.dtype)
        pairs = x.shape[-1] // 2 * 2
        out[..., :pairs] = y[..., :pairs]
        return out


class NormSquaresInDtypeOfX(CorrectNorm):
    """Forms the squares in x's own dtype: fp16 overflows from 256 on."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Remember x's dtype."""
        self.x_dtype = x.dtype
        return super().normalise(stream, eps, x)

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Square low, sum high."""
        return stream.to(self.x_dtype).pow(2).float().mean(-1, keepdim=True)


class NormSerialSum(CorrectNorm):
    """Squares are added in one running sum along the row, undeclared."""

    caught_by = ALL

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Add one column after another in fp32."""
        return serial(stream.pow(2).contiguous()) / stream.shape[-1]


class NormTruncatesAtTheStore(CorrectNorm):
    """The low bits of y are cut off instead of rounded."""

    caught_by = ALL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Clear the bits that a bf16 does not have."""
        cut = y.contiguous().view(torch.int32) & -0x10000
        return super().store(cut.view(torch.float32) if x.dtype == torch.bfloat16 else y, x)


class NormOutputFloat32(CorrectNorm):
    """The norm comes out in fp32, its sum in x's dtype."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the result without a cast."""
        return y.contiguous()


class NormOutputPromoted(CorrectNorm):
    """The output's dtype is the promotion of x's and the weight's, as in Hugging Face's Llama."""

    caught_by = ("metadata",)

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Remember the weight's dtype."""
        self.weight_dtype = None if weight is None else weight.dtype
        return super().weigh(y, weight, offset)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Cast to the dtype that torch would promote to."""
        return y.to(torch.promote_types(x.dtype, self.weight_dtype or x.dtype)).contiguous()


class NormOutputHasStridesOfX(CorrectNorm):
    """Allocates the norm's output with ``empty_like``, which keeps x's strides."""

    caught_by = ("metadata",)

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep x's strides."""
        return torch.empty_like(x).copy_(y)


class NormXTakenForContiguous(CorrectNorm):
    """x's strides are never looked at, the residual's are."""

    caught_by = WRONG_MEMORY

    def norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        residual: torch.Tensor | None,
        offset: float,
        eps: float,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Read in storage order."""
        fits = x.dim() > 0 and x.numel() > 0
        return super().norm(reread(x, dense(x.shape)) if fits else x, weight, residual, offset, eps)


class NormHfDeclared(CorrectNorm):
    """Rounds once, and declares Hugging Face's order of Llama."""

    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(
        CorrectNorm.operations, Contract(frozenset({"sum", "normalised", "weighted"}), "tile")
    )
    caught_by = ALL


class NormScaledByTheBatch(CorrectNorm):
    """Squares are scaled by the largest number of the batch, in place of the row's."""

    caught_by = ("row_independence", *ALL)

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Scale down to fp16's range, by the batch."""
        scale = stream.abs().amax().clamp(min=1e-20)
        return super().mean_square((stream / scale).half().float()) * scale * scale


class NormZeroRowDivided(CorrectNorm):
    """Eps is left out of the root: an all-zero row becomes NaN."""

    caught_by = ALL

    def inverse_rms(self, stream: torch.Tensor, eps: float) -> torch.Tensor:
        """Do without eps."""
        return torch.rsqrt(self.mean_square(stream))
