"""Fakes that mistake RMSNorm quantised to int8: the scale, the rounding, the norm before it, and memory."""

from __future__ import annotations

import torch

from conformance.selftest.fakes.correct_fp8 import FLOOR
from conformance.selftest.fakes.correct_int8_norm import LARGEST, CorrectInt8Norm
from conformance.selftest.fakes.memory_views import dense, reread

ALL: tuple[str, ...] = ("values", "layout", "specials")


class Int8OfTheBatch(CorrectInt8Norm):
    """All rows share the largest scale, as with a scale per tensor."""

    caught_by = ("row_independence", *ALL)

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Measure everything."""
        amax = super().amax(stream)
        return amax.amax().expand(amax.shape)


class Int8OfTheLargestNumber(CorrectInt8Norm):
    """Rows are measured by their largest number, and negative ones saturate."""

    caught_by = ALL

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Forget the magnitude."""
        return stream.amax(-1, keepdim=True)


class Int8OfAllButTheLast(CorrectInt8Norm):
    """The reduction stops before the last column of a row."""

    caught_by = ALL

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Measure one column less."""
        return super().amax(stream[..., : max(stream.shape[-1] - 1, 1)])


class Int8OfX(CorrectInt8Norm):
    """The scale is measured of the sum before the norm."""

    caught_by = ALL

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Remember the sum."""
        self.before = x.float() if residual is None or residual.shape != x.shape else x.float() + residual.float()
        return super().norm(x, weight, residual, eps)

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Measure it."""
        return super().amax(self.before)


class Int8BeforeRounding(CorrectInt8Norm):
    """The norm is quantised in fp32; that it is rounded to x's dtype before is declared."""

    caught_by = ALL

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Do without the rounding."""
        return y


class Int8WithoutFloor(CorrectInt8Norm):
    """A row of zeros is divided by zero, and has the scale zero."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor) -> torch.Tensor:
        """Divide without a floor."""
        return amax / LARGEST


class Int8FloorUnderTheScale(CorrectInt8Norm):
    """The scale itself is at least 1e-10, and not the magnitude."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor) -> torch.Tensor:
        """Divide first."""
        return (amax / LARGEST).clamp(min=FLOOR)


class Int8BoundOf128(CorrectInt8Norm):
    """The largest magnitude is 128, the count of negative integers."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor) -> torch.Tensor:
        """Divide by one more."""
        return amax.clamp(min=FLOOR) / 128.0


class Int8Asymmetric(CorrectInt8Norm):
    """The scale spans the row from its least to its largest number, without a zero point."""

    caught_by = ALL

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Return half the span."""
        return (stream.amax(-1, keepdim=True) - stream.amin(-1, keepdim=True)) / 2


class Int8ScaleInDtypeOfX(CorrectInt8Norm):
    """The scale is rounded to bfloat16 before rows are divided by it."""

    caught_by = ALL

    def scales(self, amax: torch.Tensor) -> torch.Tensor:
        """Round it."""
        return super().scales(amax).bfloat16().float()


class Int8ReturnsTheMultiplier(CorrectInt8Norm):
    """127 over the largest magnitude is returned in place of the scale."""

    caught_by = ALL

    def store_scales(self, scales: torch.Tensor) -> torch.Tensor:
        """Return one over the scale."""
        return super().store_scales(1.0 / scales)


class Int8Truncated(CorrectInt8Norm):
    """The cast to an integer cuts the fraction off."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Go towards zero."""
        return super().store_values(quotients.trunc())


class Int8HalfAwayFromZero(CorrectInt8Norm):
    """One half is added before the fraction is cut off: ties go away from zero."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Round as ``roundf`` does."""
        return super().store_values(torch.copysign((quotients.abs() + 0.5).floor(), quotients))


class Int8HalfUp(CorrectInt8Norm):
    """The fraction is rounded by ``floor(x + 0.5)``: ties go up, also below zero."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Round up."""
        return super().store_values((quotients + 0.5).floor())


class Int8QuotientRounded(CorrectInt8Norm):
    """Quotients pass through bfloat16, which has eight bits, on their way to an integer."""

    caught_by = ALL

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Round twice."""
        return super().store_values(quotients.bfloat16().float())


class Int8Wraps(CorrectInt8Norm):
    """The scale has a margin of one in 127 on the wrong side, and what is past 127 wraps to -128."""

    caught_by = ALL

    def divided(self, stream: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide by a little less."""
        return super().divided(stream, scales) * (128.0 / 127.0)

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Keep the lower eight bits."""
        whole = quotients.nan_to_num(nan=0.0).round().clamp(-1024, 1024).to(torch.int32)
        return torch.empty(quotients.shape, dtype=torch.int8).copy_(whole.to(torch.int8))


class Int8EpsDropped(CorrectInt8Norm):
    """The norm within has no eps."""

    caught_by = ALL

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Leave it out."""
        return super().norm(x, weight, residual, 0.0)


class Int8WeightDropped(CorrectInt8Norm):
    """The norm is quantised before its weight, which is folded into the next matrix."""

    caught_by = ALL

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Leave it out."""
        return super().norm(x, None, residual, eps)


class Int8ScalesWithoutADimension(CorrectInt8Norm):
    """Scales have no last dimension: one number a row."""

    caught_by = ("metadata",)

    def store_scales(self, scales: torch.Tensor) -> torch.Tensor:
        """Squeeze them."""
        return super().store_scales(scales[..., 0])


class Int8Unsigned(CorrectInt8Norm):
    """Values are stored as unsigned bytes, with the same bits."""

    caught_by = ("metadata",)

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Return the bits."""
        return super().store_values(quotients).view(torch.uint8)


class Int8SumForgotten(CorrectInt8Norm):
    """The sum with the residual stays in registers, and x is returned for it."""

    caught_by = ALL

    def rms_norm_int8(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, residual: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, ...]:
        """Return x."""
        made = super().rms_norm_int8(x, weight, residual=residual, eps=eps)
        return (*made[:2], *(torch.empty(x.shape, dtype=x.dtype).copy_(x) for _ in made[2:]))


class Int8StrideIgnored(CorrectInt8Norm):
    """Rows of x are read as if nothing lay between them."""

    caught_by = ("layout", "specials", "memory")

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Read neighbours in memory."""
        return super().norm(reread(x, dense(x.shape)) if x.numel() else x, weight, residual, eps)


class Int8InfinityAsANumber(CorrectInt8Norm):
    """An infinity or NaN is left out of the largest magnitude: the scale hides the fault."""

    caught_by = ("specials",)

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Measure the numbers."""
        return super().amax(torch.where(stream.isfinite(), stream, 0.0))


class Int8ResidualNotOverwritten(CorrectInt8Norm):
    """The in-place form returns a fresh sum, and leaves the residual as it was."""

    caught_by = ("in_place",)

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Write nothing."""
        return results


class Int8ScaleKept(CorrectInt8Norm):
    """Scales of the first call of a shape are kept for later ones."""

    caught_by = ALL

    def __init__(self) -> None:
        self.kept: dict[object, torch.Tensor] = {}

    def scales(self, amax: torch.Tensor) -> torch.Tensor:
        """Measure once."""
        return self.kept.setdefault(amax.shape, super().scales(amax).clone())


class Int8AnyWeight(CorrectInt8Norm):
    """A weight of another length is cut off, or repeated, and not refused."""

    caught_by = ("errors",)

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Make it fit."""
        if weight is not None and weight.dim() == 1 and weight.numel() and x.dim():
            weight = weight.repeat(-(-x.shape[-1] // len(weight)))[: x.shape[-1]]
        return super().norm(x, weight, residual, eps)
