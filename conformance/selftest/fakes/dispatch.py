"""Fakes whose dispatcher leaves to plain PyTorch what a kernel takes: results are right, and no kernel ran."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.kernels_rows import KernelNorm

Optional = torch.Tensor | None


class KernelOrNot(KernelNorm):
    """A norm that runs in a kernel, as every call is declared to."""

    launches: Mapping[str, Mapping[str, object]] = MappingProxyType({"rms_norm": {}, "gemma_rms_norm": {}})

    def norm(self, x: torch.Tensor, weight: Optional, residual: Optional, *rest: Any, **named: Any) -> Result:
        """Run the kernel, or the same steps without it."""
        form = KernelNorm if self.chosen(x, weight, residual) else CorrectNorm
        return form.norm(self, x, weight, residual, *rest, **named)

    def chosen(self, x: torch.Tensor, weight: Optional, residual: Optional) -> bool:
        """Return whether the kernel takes a call."""
        return True


class KernelNeverSelected(KernelOrNot):
    """The setting that selects the kernel is read the wrong way around."""

    caught_by = ("path",)

    def chosen(self, x: torch.Tensor, weight: Optional, residual: Optional) -> bool:
        """Select nothing."""
        return False


class SumsLeaveTheKernel(KernelOrNot):
    """The list of kernels lacks the form that adds a residual."""

    caught_by = ("path",)

    def chosen(self, x: torch.Tensor, weight: Optional, residual: Optional) -> bool:
        """Take calls without a residual."""
        return residual is None


class MixedWeightLeavesTheKernel(KernelOrNot):
    """A weight in float32 beside x in 16 bits does not match the fused form."""

    caught_by = ("path",)

    def chosen(self, x: torch.Tensor, weight: Optional, residual: Optional) -> bool:
        """Take calls of one dtype."""
        return weight is None or weight.dtype == x.dtype
