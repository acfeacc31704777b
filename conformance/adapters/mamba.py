"""mamba_ssm: the gated norm of Mamba-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract


class Mamba(Adapter):
    """``rmsnorm_fn`` of ``layernorm_gated``: one program per group of a row."""

    name = "mamba"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "fp32"}
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 64 KiB of float32
        "rms_norm_gated": {"activation": ("silu", "swish"), "group_size": range(1, 16385)}
    }

    def __init__(self) -> None:
        # the package itself imports extensions in CUDA
        self._norm = needed("mamba", "mamba_ssm.ops.triton.layernorm_gated", "mamba_ssm", alone=True).rmsnorm_fn

    def rms_norm_gated(
        self,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        *,
        eps: float,
        group_size: int | None,
        norm_before_gate: bool,
        activation: str,
    ) -> torch.Tensor:
        """Call ``rmsnorm_fn``."""
        y: torch.Tensor = self._norm(
            x, weight, None, z=gate, eps=eps, group_size=group_size, norm_before_gate=norm_before_gate
        )
        return y
