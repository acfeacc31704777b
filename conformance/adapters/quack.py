"""quack: a norm in CuTe, with or without a residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.adapters.importing import needed
from conformance.adapters.tvm_ffi import refused_declined
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Quack(Adapter):
    """quack's forward function, from 0.6.5 on: it adds an offset to the weight in float32."""

    name = "quack"
    package = "quack-kernels"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        # quack normalises the sum before rounding it
        "rms_norm": "fp32",
        "gemma_rms_norm": "fp32",
    }

    def __init__(self) -> None:
        self._norm: Any = needed("quack", "quack.rmsnorm", self.package).rmsnorm_fwd

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Flatten the leading dimensions, call it."""
        if not x.is_cuda or not x.numel():
            raise Declined("it runs on a GPU, and has rows")
        if not (x.is_contiguous() and (residual is None or residual.is_contiguous())):
            raise Declined("it takes contiguous rows")
        rows = x.view(-1, x.shape[-1])
        before = None if residual is None else residual.view(rows.shape)
        if weight is None and weight_offset:
            raise Declined("without a weight it adds no offset")
        with refused_declined():
            y, total, _ = self._norm(rows, weight, residual=before, eps=eps, weight_offset=weight_offset)
        return y.view(x.shape) if residual is None else (y.view(x.shape), total.view(x.shape))

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Norm:
        """Call it with an offset of one."""
        return self.rms_norm(x, weight, residual=residual, weight_offset=1.0, eps=eps)
