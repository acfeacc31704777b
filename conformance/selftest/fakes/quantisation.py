"""Right implementations of fp8 outputs that measure, divide and store in different ways. None may ever fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.oracle.contract import Contract, round_once
from conformance.selftest.fakes.correct_fp8 import FLOOR, CorrectFp8, declared


class Reciprocals(CorrectFp8):
    """Multiplication by reciprocals, of the largest number and of the scale."""

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Multiply by a constant."""
        return amax.clamp(min=FLOOR) * (1.0 / largest)

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide once per group."""
        return groups * (1.0 / scales)


class QuotientsInFloat64(CorrectFp8):
    """Scales and quotients in float64, rounded once."""

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Take the floor as kernels do, in fp32."""
        return (amax.clamp(min=FLOOR).double() / largest).float()

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide by the returned scales."""
        return groups.double() / scales.double()

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Round where a cast would round to fp32 first."""
        return super().store_values(round_once(quotients, fp8), fp8)


class IgnoresNan(CorrectFp8):
    """IEEE 754's ``maximumNumber``: the scale of a group follows its numbers."""

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Leave NaN out."""
        return super().amax(torch.where(groups.isnan(), 0.0, groups))


class Unrounded(CorrectFp8):
    """Quantisation of the norm in registers, as declared."""

    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum")

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep fp32."""
        return y


class PowersOfTwo(CorrectFp8):
    """Scales rounded up by their logarithm, columns padded to four rows, as DeepGEMM takes them."""

    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum", "unquantised", "power_of_two")

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Round the logarithm up."""
        return torch.exp2(torch.ceil(torch.log2(super().scales(amax, largest))))

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Leave room after each column."""
        if scale_layout == "row" or not scales.numel():
            return super().store_scales(scales, scale_layout)
        columns = super().store_scales(scales, scale_layout)
        rows = scales[..., 0].numel()
        room = rows + -rows % 4
        memory = torch.empty(scales.shape[-1] * room)
        return memory.as_strided(scales.shape, (*columns.stride()[:-1], room)).copy_(scales)


class ExponentsIncremented(PowersOfTwo):
    """Scales rounded up in their bits: the exponent plus one, where there is a mantissa."""

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Carry the mantissa into the exponent."""
        bits = (amax.clamp(min=FLOOR) / largest).contiguous().view(torch.int32)
        finite = (bits + 0x7FFFFF & 0x7F800000).view(torch.float32)
        return torch.where(amax.isfinite(), finite, amax)


RIGHT = (CorrectFp8, Reciprocals, QuotientsInFloat64, IgnoresNan, Unrounded, PowersOfTwo, ExponentsIncremented)
