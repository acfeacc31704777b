"""FlashInfer: norms, those with a residual in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.adapters.importing import needed
from conformance.adapters.tvm_ffi import refused_declined
from conformance.oracle.contract import Contract


class FlashInfer(Adapter):
    """``rmsnorm`` and ``gemma_rmsnorm``; with a residual the fused ones, in place."""

    name = "flashinfer"
    package = "flashinfer-python"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        # FlashInfer normalises the sum before rounding it
        "rms_norm": "fp32",
        "gemma_rms_norm": "fp32",
    }

    def __init__(self) -> None:
        self._norm: Any = needed("flashinfer", "flashinfer.norm", self.package)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> torch.Tensor:
        """Call it without a residual."""
        if weight_offset:
            raise Declined("its offset is one or none")
        with refused_declined():
            y: torch.Tensor = self._norm.rmsnorm(_rows(x, weight, residual), weight, eps)
        return y.view(x.shape)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        """Call it without a residual."""
        with refused_declined():
            y: torch.Tensor = self._norm.gemma_rmsnorm(_rows(x, weight, residual), weight, eps)
        return y.view(x.shape)

    def rms_norm_(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> None:
        """Write y over x and the sum over the residual."""
        if weight_offset:
            raise Declined("its offset is one or none")
        with refused_declined():
            self._norm.fused_add_rmsnorm(_rows(x, weight), _rows(residual, weight), weight, eps)

    def gemma_rms_norm_(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> None:
        """Write y over x and the sum over the residual."""
        with refused_declined():
            self._norm.gemma_fused_add_rmsnorm(_rows(x, weight), _rows(residual, weight), weight, eps)


def _rows(
    x: torch.Tensor | None, weight: torch.Tensor | None, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the rows of a tensor as a matrix. Declines a tensor that a call in this form does not support."""
    if residual is not None:
        raise Declined("with a residual it works in place")
    if x is None or weight is None or not x.is_cuda or not x.numel():
        raise Declined("it takes rows on a GPU, a weight, and in place a residual")
    if not x.is_contiguous() or weight.dtype != x.dtype:
        raise Declined("it takes contiguous rows, and the weight in their dtype")
    return x.view(-1, x.shape[-1])
