"""Unsloth: norms of Llama and Gemma."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

NORM = {"columns": range(1, 65537), "residual": ("none",)}


class Unsloth(Adapter):
    """``Fast_RMS_Layernorm``, forwards."""

    name = "unsloth"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm": "hf", "gemma_rms_norm": "fp32"}
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # the kernel rounds to the weight's dtype where Hugging Face rounds to x's
        "rms_norm": {**NORM, "offset": ("zero",), "weight": ("same",)},
        "gemma_rms_norm": NORM,
    }
    # eps is compiled in
    few_variants = False

    def __init__(self) -> None:
        # the package refuses to be imported without a GPU, and writes files where it is
        os.environ.setdefault("UNSLOTH_ALLOW_CPU", "1")
        os.environ.setdefault(
            "UNSLOTH_COMPILE_LOCATION", str(Path(tempfile.gettempdir()) / "unsloth_compiled_cache")
        )
        needed("unsloth", "unsloth_zoo.utils", "unsloth", alone=True)
        kernels = needed("unsloth", "unsloth.kernels.rms_layernorm", "unsloth", alone=True)
        self._norm = kernels.Fast_RMS_Layernorm.apply

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> torch.Tensor:
        """Call ``Fast_RMS_Layernorm``."""
        y: torch.Tensor = self._norm(x, weight, eps)
        return y

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        """Call ``Fast_RMS_Layernorm`` with one added to the weight."""
        y: torch.Tensor = self._norm(x, weight, eps, True)  # noqa: FBT003 - a function of autograd takes no names
        return y
