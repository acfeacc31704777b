"""torchnorm: its RMSNorm, with or without a residual, and its LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
COLUMNS = range(1, 65537)


class TorchNorm(Adapter):
    """The functions behind the modules, which call them on a GPU alone."""

    name = "torchnorm"
    package = "torchnorm"
    differentiable = True
    # a sum is normalised before it is rounded
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm": "fp32", "layer_norm": "fp32"}
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # the modules cast their parameters to x's dtype
        "rms_norm": {"columns": COLUMNS, "offset": "zero", "weight": "same", "residual": ("same", "none")},
        "layer_norm": {"columns": COLUMNS, "weight": "same", "bias": ("same", "none")},
    }

    def __init__(self) -> None:
        self._functions = needed("torchnorm", "torchnorm._triton", self.package)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call either function."""
        if residual is None:
            alone: torch.Tensor = self._functions.fused_rms_norm(x, weight, eps)
            return alone
        y, total = self._functions.fused_add_rms_norm(x, residual, weight, eps)
        return y, total

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Call ``fused_layer_norm``."""
        y: torch.Tensor = self._functions.fused_layer_norm(x, weight, bias, eps)
        return y
