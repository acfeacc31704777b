"""fp8 outputs in two launches: a norm that writes its result, and a compiled quantisation that reads it again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

import normkernels
from conformance.adapter import Adapter
from conformance.adapters import formulas
from conformance.adapters.compiled import allow_many_shapes
from conformance.oracle.contract import Contract

Results = tuple[torch.Tensor, ...]
Flag = Any  # flags are of several types, and are passed on unchanged


class TwoSteps(Adapter):
    """Our norm without quantisation, then the formula of the quantisation through ``torch.compile``."""

    name = "two steps"
    package = "torch"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm_fp8": Contract(frozenset({"sum", "unquantised"})),
        "rms_norm_gated_fp8": Contract(frozenset({"unquantised"})),
    }
    few_variants = False

    def __init__(self) -> None:
        allow_many_shapes()

    @functools.cached_property
    def _quantised(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        return torch.compile(formulas.quantised, dynamic=False, fullgraph=True)

    def rms_norm_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
        also_unquantised: bool,
        **quantisation: Flag,
    ) -> Results:
        """Norm, then quantise."""
        normed = normkernels.rms_norm(x, weight, residual=residual, weight_offset=weight_offset, eps=eps)
        y, *total = (normed,) if isinstance(normed, torch.Tensor) else normed
        return self._outputs(y, tuple(total), also_unquantised=also_unquantised, **quantisation)

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
        also_unquantised: bool,
        **quantisation: Flag,
    ) -> Results:
        """Gated norm, then quantise."""
        y = normkernels.rms_norm_gated(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
        )
        return self._outputs(y, (), also_unquantised=also_unquantised, **quantisation)

    def _outputs(
        self,
        y: torch.Tensor,
        total: Results,
        *,
        quant_group: int | None,
        scale_layout: str,
        fp8_dtype: torch.dtype,
        also_unquantised: bool,
    ) -> Results:
        values, scales = self._quantised(y, quant_group, scale_layout, fp8_dtype)
        return (values, scales, *((y,) if also_unquantised else ()), *total)
