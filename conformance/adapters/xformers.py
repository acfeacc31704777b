"""xFormers: its norm, and its norm of a sum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
CONTIGUOUS = ("contiguous", "offset")


class XFormers(Adapter):
    """``rms_norm``, and ``rms_norm_add``, which adds in place."""

    name = "xformers"
    package = "xformers"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        # documented as x += y, then the norm of x
        "rms_norm": Contract(frozenset({"sum"}))
    }
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rms_norm": {
            "offset": ("zero",),
            "x_layout": CONTIGUOUS,
            "residual_layout": CONTIGUOUS,
            "weight_layout": CONTIGUOUS,
        }
    }

    def __init__(self) -> None:
        # without it the package looks for a GPU
        os.environ.setdefault("XFORMERS_ENABLE_TRITON", "1")
        self._norms = needed("xformers", "xformers.ops.rmsnorm", "xformers")

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call either function; the in-place addition works on a copy."""
        if residual is None:
            alone: torch.Tensor = self._norms.rms_norm(x, weight, eps)
            return alone
        total = x.clone()
        return self._norms.rms_norm_add(total, residual, weight, eps), total
