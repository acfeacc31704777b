"""RMSNorm quantised to int8, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct_fp8 import FLOOR, declared
from conformance.selftest.fakes.correct_norm import CorrectNorm

LARGEST = 127.0


class NormInRegisters(CorrectNorm):
    """The norm before its store."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep fp32."""
        return y


class CorrectInt8Norm(Adapter):
    """The norm rounded to x's dtype, a scale per row, the quotient rounded once and saturated."""

    name = "correct_int8_norm"
    operations: ClassVar[tuple[str, ...]] = ("rms_norm_int8",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"rms_norm_int8": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm_int8": declared("sum", "unquantised")["rms_norm_fp8"]
    }
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def rms_norm_int8(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, residual: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, ...]:
        """Normalise the sum, quantise, return the sum last."""
        made = self.norm(x, weight, residual, eps)
        y, *s = (made,) if isinstance(made, torch.Tensor) else made
        if x.numel() == 0:
            return (x.new_empty(x.shape, dtype=torch.int8), self.scales_of_nothing(x), *s)
        stream = self.unquantised(y, x)
        scales = self.scales(self.amax(stream))
        return (self.store_values(self.divided(stream, scales)), self.store_scales(scales), *s)

    def rms_norm_int8_(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, residual: torch.Tensor | None, **flags: Any
    ) -> tuple[torch.Tensor, ...]:
        """Write the sum over the residual, the rest into fresh tensors."""
        results = self.rms_norm_int8(x, weight, residual=residual, **flags)
        return results if residual is None else self.overwrite(results, residual)

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Write the sum, the last result, over the residual, and return the residual in its place."""
        return (*results[:-1], residual.copy_(results[-1]))

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Check the call; return the norm in fp32, and the sum if there is a residual."""
        return NormInRegisters().norm(x, weight, residual, 0.0, eps)

    def scales_of_nothing(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scales of a call without elements: one a row."""
        return x.new_full((*x.shape[:-1], 1), FLOOR, dtype=torch.float32) / LARGEST

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the numbers to quantise in fp32: y as x's dtype holds it."""
        return y.to(x.dtype).float()

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the largest magnitude of each row."""
        return stream.abs().amax(-1, keepdim=True)

    def scales(self, amax: torch.Tensor) -> torch.Tensor:
        """Return a scale for each row."""
        return amax.clamp(min=FLOOR) / LARGEST

    def divided(self, stream: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return the quotients that are rounded to integers."""
        return stream / scales

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Round half to even and saturate, into a fresh contiguous tensor; NaN becomes zero."""
        whole = quotients.round().clamp(-LARGEST, LARGEST).nan_to_num(nan=0.0)
        return torch.empty(quotients.shape, dtype=torch.int8).copy_(whole)

    def store_scales(self, scales: torch.Tensor) -> torch.Tensor:
        """Return the scales in a fresh tensor."""
        return torch.empty(scales.shape).copy_(scales)


class Int8ByReciprocals(CorrectInt8Norm):
    """Rows are multiplied by 127 over their largest magnitude, and saturate before they are rounded."""

    def divided(self, stream: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide once per row."""
        return stream * (LARGEST / self.amax(stream).clamp(min=FLOOR))

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Round what is within the range."""
        return super().store_values(quotients.clamp(-LARGEST, LARGEST))


class Int8InFloat64(CorrectInt8Norm):
    """Quotients are in float64; the bits of a large number round them."""

    def divided(self, stream: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide by the returned scales."""
        return stream.double() / scales.double()

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Add a number whose last place is one, and subtract it again."""
        large = 1.5 * 2.0**52
        return super().store_values((quotients + large) - large)


class Int8PastNan(CorrectInt8Norm):
    """The scale of a row follows its numbers, and NaN becomes an integer of any size."""

    def amax(self, stream: torch.Tensor) -> torch.Tensor:
        """Leave NaN out."""
        return super().amax(torch.where(stream.isnan(), 0.0, stream))

    def store_values(self, quotients: torch.Tensor) -> torch.Tensor:
        """Store the least integer for NaN."""
        return super().store_values(quotients).masked_fill_(quotients.isnan(), -128)


RIGHT = (CorrectInt8Norm, Int8ByReciprocals, Int8InFloat64, Int8PastNan)
