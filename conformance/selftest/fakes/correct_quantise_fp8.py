"""Quantisation to fp8 alone, right and in plain torch: the steps are those behind a norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract, round_once
from conformance.selftest.fakes.correct_fp8 import FLOOR, Quantisation
from conformance.selftest.fakes.correct_norm import FLOATS


class CorrectQuantiseFp8(Quantisation, Adapter):
    """A scale per group, the quotient rounded once and saturated."""

    name = "correct_quantise_fp8"
    operations: ClassVar[tuple[str, ...]] = ("quantise_fp8",)
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"quantise_fp8": {}}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = {"quantise_fp8": "fp32"}
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def quantise_fp8(
        self, x: torch.Tensor, *, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype
    ) -> tuple[torch.Tensor, ...]:
        """Check the call, then take the steps in order."""
        if x.dim() == 0 or x.dtype not in FLOATS:
            raise ValueError("quantise_fp8: the call has no meaning")
        self.check(quant_group, scale_layout, fp8_dtype)
        return self.quantised(x, x, quant_group, scale_layout, fp8_dtype, unquantised=False)


class QuantisesByReciprocals(CorrectQuantiseFp8):
    """Reciprocals of the largest number and of the scale are multiplied by."""

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Multiply by a constant."""
        return amax.clamp(min=FLOOR) * (1.0 / largest)

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide once per group."""
        return groups * (1.0 / scales)


class QuantisesInFloat64(CorrectQuantiseFp8):
    """Quotients are in float64, and rounded once."""

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Divide by the returned scales."""
        return groups.double() / scales.double()

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Round where a cast would round to fp32 first."""
        return super().store_values(round_once(quotients, fp8), fp8)


class QuantisesPastNan(CorrectQuantiseFp8):
    """The scale of a group follows its numbers, whatever NaN are among them."""

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Leave NaN out."""
        return super().amax(torch.where(groups.isnan(), 0.0, groups))


RIGHT = (CorrectQuantiseFp8, QuantisesByReciprocals, QuantisesInFloat64, QuantisesPastNan)
