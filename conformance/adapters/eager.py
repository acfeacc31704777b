"""The formulas as PyTorch runs them: a kernel a step, everything between them in float32 in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters import formulas
from conformance.oracle.contract import Contract

Results = torch.Tensor | tuple[torch.Tensor, ...]
Flag = Any  # flags are of several types, and are passed on unchanged


class Eager(Adapter):
    """Plain PyTorch in float32, rounded once."""

    name = "eager"
    differentiable = True
    package = "torch"
    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(
        ("rms_norm", "gemma_rms_norm", "rms_norm_gated", "mrope", "rms_norm_fp8", "rms_norm_gated_fp8"), "fp32"
    )
    # PyTorch chooses how to sum by the whole shape
    batch_invariant = False

    def rms_norm(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the formula."""
        return formulas.rms_norm(*given, **flags)  # type: ignore[arg-type]

    def gemma_rms_norm(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the formula with one added to the weight."""
        return formulas.rms_norm(*given, **flags, weight_offset=1.0)

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the formula."""
        return formulas.rms_norm_gated(*given, **flags)

    def mrope(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the formula."""
        return formulas.mrope(*given, **flags)

    def rms_norm_fp8(self, *given: torch.Tensor | None, **flags: Flag) -> Results:
        """Call the formula."""
        return formulas.rms_norm_fp8(*given, **flags)  # type: ignore[arg-type]

    def rms_norm_gated_fp8(self, *given: torch.Tensor, **flags: Flag) -> Results:
        """Call the formula."""
        return formulas.rms_norm_gated_fp8(*given, **flags)
