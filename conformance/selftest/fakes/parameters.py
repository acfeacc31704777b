"""Fakes that read a parameter's bytes in another dtype, or round in another place than they declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_fp8 import CorrectFp8, declared
from conformance.selftest.fakes.correct_layer_norm import CorrectLayerNorm
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.weight_offsets import NormWeightBytesReadAsXs

ALL: tuple[str, ...] = ("values", "layout", "specials")


def first_bytes(vector: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return as many numbers of another dtype from the first bytes of a vector."""
    return vector.contiguous().view(dtype)[: len(vector)]


class LayerWeightBytesReadAsXs(CorrectLayerNorm):
    """A kernel for bf16 is given the fp32 weight of a LayerNorm, whose bytes it reads as they come."""

    caught_by = ALL

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Reinterpret the weight."""
        return super().layer_norm(x, None if weight is None else first_bytes(weight, x.dtype), bias, eps=eps)


class LayerBiasBytesReadAsXs(CorrectLayerNorm):
    """The bias is converted, and the kernel is given the one before: fp32 bytes, read in x's dtype."""

    caught_by = ALL

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Reinterpret the bias."""
        return super().layer_norm(x, weight, None if bias is None else first_bytes(bias, x.dtype), eps=eps)


class WeightBytesReadWithAResidual(NormWeightBytesReadAsXs):
    """The guard against weights of another dtype stands in the kernel without a residual, not in its twin."""

    def load(self, s: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Remember which of the two runs."""
        self.guarded = residual is None
        return super().load(s, x, residual)

    def scale(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """Reinterpret where the guard is missing."""
        return CorrectNorm.scale(self, weight, offset) if self.guarded else super().scale(weight, offset)


class Fp8WeightBytesReadAsXs(CorrectFp8):
    """The bytes of an fp32 weight are read in x's dtype by the norm that quantises."""

    operations = ("rms_norm_fp8",)
    caught_by = ALL

    def rms_norm_fp8(
        self, x: torch.Tensor, weight: torch.Tensor | None, **flags: object
    ) -> tuple[torch.Tensor, ...]:
        """Reinterpret the weight."""
        given = None if weight is None else first_bytes(weight, x.dtype)
        return super().rms_norm_fp8(x, given, **flags)  # type: ignore[arg-type]  # passed on as they came


class NormWeightFirst(CorrectNorm):
    """x is multiplied by the weight first and rounded to x's dtype, then divided by its root mean square."""

    caught_by = ALL

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Keep the factor for later."""
        self.factor, self.x_dtype = self.inverse_rms(stream, eps), x.dtype
        return stream

    def weigh(self, y: torch.Tensor, weight: torch.Tensor | None, offset: float) -> torch.Tensor:
        """Round the product with the weight."""
        return super().weigh(y, weight, offset).to(self.x_dtype).float() * self.factor


class NormEpsInHalf(CorrectNorm):
    """eps is passed in half precision, and raised to 1e-4 so that it does not vanish there."""

    caught_by = ALL

    def inverse_rms(self, stream: torch.Tensor, eps: float) -> torch.Tensor:
        """Raise small ones."""
        return super().inverse_rms(stream, float(torch.tensor(max(eps, 1e-4)).half()))


class LayerHalfThroughBfloat16(CorrectLayerNorm):
    """A table of dtypes has bf16 for fp16: results pass through bf16 on their way to fp16."""

    caught_by = ALL

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Round twice."""
        return super().store(y.bfloat16() if x.dtype == torch.float16 else y, x)


class LayerIsAnRmsNorm(CorrectLayerNorm):
    """A patched module got the forward of the other norm: no mean is subtracted anywhere."""

    caught_by = ALL

    def mean(self, given: torch.Tensor) -> torch.Tensor:
        """Return nothing to subtract."""
        return torch.zeros_like(given[..., :1])

    def variance(self, given: torch.Tensor) -> torch.Tensor:
        """Return the mean of the squares."""
        return given.square().mean(-1, keepdim=True)


class PowerOfTwoToNearest(CorrectFp8):
    """Exponents are rounded to the nearest, where others of the same model are rounded up, as declared."""

    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum", "unquantised", "power_of_two")
    caught_by = ALL

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round the logarithm to nearest."""
        return torch.exp2(torch.round(torch.log2(super().scales(amax, largest))))


class PowerOfTwoOfZero(PowerOfTwoToNearest):
    """The exponent of a group of zeros is that of the number zero: without a floor its values are 0/0."""

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round up, without a floor."""
        return torch.exp2(torch.ceil(torch.log2(amax / largest)))


class MaximumRaces(CorrectFp8):
    """The group's maximum is read before all lanes have written theirs: now and then half of them are missing."""

    caught_by = ("determinism", "memory", *ALL)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Leave the second half out, by chance."""
        late = torch.rand(groups.shape[:-1]) < 0.5
        half = groups[..., : max(1, groups.shape[-1] // 2)]
        return torch.where(late, super().amax(half), super().amax(groups))
