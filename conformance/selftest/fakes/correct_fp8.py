"""Norms quantised to fp8, right and in plain torch, cut into steps: a fake overrides one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_norm import CorrectNorm

FP8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz)
FLOOR = 1e-10

OPERATIONS = ("rms_norm_fp8", "rms_norm_gated_fp8")


def declared(*rounds: str) -> Mapping[str, str | Contract]:
    """Return the contract of each operation: a gated norm has no sum to round."""
    gated = frozenset(rounds) - {"sum"}
    return dict(zip(OPERATIONS, (Contract(frozenset(rounds), "tile"), Contract(gated, "tile")), strict=True))


class _Norm(CorrectNorm):
    """The norm in registers, before its store."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep fp32."""
        return y


class _GatedNorm(Correct):
    """The gated norm in registers, before its store."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Keep fp32."""
        return y


class Quantisation:
    """The steps from numbers to fp8: a scale per group, the quotient rounded once and saturated."""

    def check(self, quant_group: int | None, scale_layout: str, fp8_dtype: torch.dtype) -> None:
        """Refuse arguments that describe no quantisation."""
        if (quant_group is not None and quant_group <= 0) or scale_layout not in {"row", "column"}:
            raise ValueError("fp8: the call has no meaning")
        if fp8_dtype not in FP8:
            raise ValueError("fp8: the dtype is none")

    def quantised(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        quant_group: int | None,
        scale_layout: str,
        fp8: torch.dtype,
        *,
        unquantised: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Take the steps in order."""
        n = x.shape[-1]
        group = quant_group or max(n, 1)
        if x.numel() == 0:
            return self.empty(x, -(-n // group), scale_layout, fp8, unquantised=unquantised)
        stream = self.unquantised(y, x)
        groups = self.groups(stream, group)
        scales = self.scales(self.amax(groups), torch.finfo(fp8).max)
        quotients = self.divided(groups, scales[..., None]).reshape(*x.shape[:-1], -1)[..., :n]
        beside = (self.beside(stream, y, x),) if unquantised else ()
        return self.together(self.store_values(quotients, fp8), self.store_scales(scales, scale_layout), beside)

    def empty(
        self, x: torch.Tensor, count: int, scale_layout: str, fp8: torch.dtype, *, unquantised: bool
    ) -> tuple[torch.Tensor, ...]:
        """Return the results of a call without elements."""
        scales = self.store_scales(x.new_empty((*x.shape[:-1], count), dtype=torch.float32), scale_layout)
        beside = (x.new_empty(x.shape),) if unquantised else ()
        return (x.new_empty(x.shape, dtype=fp8), scales, *beside)

    def unquantised(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the numbers to quantise in fp32: y as it is stored."""
        return y.to(x.dtype).float()

    def groups(self, stream: torch.Tensor, group: int) -> torch.Tensor:
        """Return a tensor ``(…, groups, group)``, the last group filled up with zeros."""
        group = min(group, stream.shape[-1])
        filled = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % group))
        return filled.reshape(*stream.shape[:-1], -1, group)

    def amax(self, groups: torch.Tensor) -> torch.Tensor:
        """Return the largest magnitude of each group."""
        return groups.abs().amax(-1)

    def scales(self, amax: torch.Tensor, largest: float) -> torch.Tensor:
        """Return a scale for each group."""
        return amax.clamp(min=FLOOR) / largest

    def divided(self, groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return the quotients that are rounded to fp8."""
        return groups / scales

    def store_values(self, quotients: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
        """Saturate, then round once into a fresh contiguous tensor."""
        largest = torch.finfo(fp8).max
        return torch.empty(quotients.shape, dtype=fp8).copy_(quotients.clamp(-largest, largest))

    def store_scales(self, scales: torch.Tensor, scale_layout: str) -> torch.Tensor:
        """Return the scales in a fresh tensor, row by row or column by column."""
        if scale_layout == "row":
            return torch.empty(scales.shape).copy_(scales)
        *leading, count = scales.shape
        return torch.empty((count, *leading)).movedim(0, -1).copy_(scales)

    def beside(self, stream: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the unquantised y."""
        return torch.empty(x.shape, dtype=x.dtype).copy_(stream)

    def together(
        self, values: torch.Tensor, scales: torch.Tensor, beside: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Return all results in their order."""
        return (values, scales, *beside)


class CorrectFp8(Quantisation, Adapter):
    """The norm rounded to x's dtype, a scale per group, the quotient rounded once and saturated."""

    name = "correct_fp8"
    operations: ClassVar[tuple[str, ...]] = OPERATIONS
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {name: {} for name in operations}
    strides = "contiguous"
    zero_columns = True
    contracts: ClassVar[Mapping[str, str | Contract]] = declared("sum", "unquantised")
    validates = True
    # the fake must be caught, and first by one of these properties
    caught_by: tuple[str, ...] = ()

    def rms_norm_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
        quant_group: int | None,
        scale_layout: str,
        fp8_dtype: torch.dtype,
        also_unquantised: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Normalise the sum, quantise, return the sum last."""
        self.check(quant_group, scale_layout, fp8_dtype)
        made = _Norm().norm(x, weight, residual, weight_offset, eps)
        y, *s = (made,) if isinstance(made, torch.Tensor) else made
        return (*self.quantised(y, x, quant_group, scale_layout, fp8_dtype, unquantised=also_unquantised), *s)

    def rms_norm_fp8_(
        self, x: torch.Tensor, weight: torch.Tensor | None, *, residual: torch.Tensor | None, **flags: Any
    ) -> tuple[torch.Tensor, ...]:
        """Write the sum over the residual, the rest into fresh tensors."""
        results = self.rms_norm_fp8(x, weight, residual=residual, **flags)
        return results if residual is None else self.overwrite(results, residual)

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Write the sum, the last result, over the residual, and return the residual in its place."""
        return (*results[:-1], residual.copy_(results[-1]))

    def rms_norm_gated_fp8(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        *,
        eps: float,
        group_size: int | None,
        norm_before_gate: bool,
        activation: str,
        quant_group: int | None,
        scale_layout: str,
        fp8_dtype: torch.dtype,
        also_unquantised: bool,
    ) -> tuple[torch.Tensor, ...]:
        """Normalise and gate, quantise."""
        self.check(quant_group, scale_layout, fp8_dtype)
        y = _GatedNorm().rms_norm_gated(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
        )
        return self.quantised(y, x, quant_group, scale_layout, fp8_dtype, unquantised=also_unquantised)
