"""quack: a norm in CuTe, with or without a residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.adapters.importing import needed
from conformance.adapters.tvm_ffi import misaligned_declined
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Quack(Adapter):
    """quack's forward function. It has no offset: one is added to Gemma's weight before, in its dtype."""

    name = "quack"
    package = "quack-kernels"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        # quack normalises the sum before rounding it
        "rms_norm": "fp32",
        "gemma_rms_norm": Contract(frozenset({"offset"})),
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
        if weight_offset:
            raise Declined("it has no offset")
        return self._called(x, weight, residual, eps)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Norm:
        """Call it with one added to the weight."""
        return self._called(x, self.added(weight), residual, eps)

    def added(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight and one, in its dtype."""
        return weight + 1

    def _called(
        self, x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, eps: float
    ) -> Norm:
        if not x.is_cuda or not x.numel():
            raise Declined("it runs on a GPU, and has rows")
        if not (x.is_contiguous() and (residual is None or residual.is_contiguous())):
            raise Declined("it takes contiguous rows")
        rows = x.view(-1, x.shape[-1])
        before = None if residual is None else residual.view(rows.shape)
        with misaligned_declined():
            y, total, _ = self._norm(rows, weight, residual=before, eps=eps)
        return y.view(x.shape) if residual is None else (y.view(x.shape), total.view(x.shape))
