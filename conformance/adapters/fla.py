"""flash-linear-attention: its norms of rows, SwiGLU, and both of its gated norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
COLUMNS = range(1, 16385)  # 64 KiB of float32
PACKAGE = "fla-core"


class FlaNorms(Adapter):
    """``rms_norm``, ``layer_norm``, ``l2norm``, ``swiglu``, and ``rms_norm_gated`` of ``fused_norm_gate``.

    Rows of up to 512 columns come several to a program, as many as autotuning finds quickest.
    """

    name = "fla"
    differentiable = True
    package = PACKAGE
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        # the sum is normalised before it is rounded
        "rms_norm": "fp32",
        "rms_norm_gated": "fp32",
        "layer_norm": "fp32",
        "l2_norm": "fp32",
        "silu_and_mul": "fp32",
    }
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rms_norm": {"columns": COLUMNS, "residual": ("same", "none"), "offset": ("zero",)},
        "layer_norm": {"columns": COLUMNS},
        "l2_norm": {"columns": COLUMNS},
        "silu_and_mul": {},
        "rms_norm_gated": {
            "columns": COLUMNS,
            "gate": ("same", "other"),
            "group": ("none", "whole"),
            "norm_before_gate": ("yes",),
        },
    }
    launches = takes
    # the size of a tile is measured once for each bucket of row counts
    batch_invariant = False

    def __init__(self) -> None:
        norms = needed("fla", "fla.modules.norm.layernorm", PACKAGE)
        self._norm, self._layer_norm = norms.rms_norm, norms.layer_norm
        self._l2_norm = needed("fla", "fla.modules.norm.l2norm", PACKAGE).l2norm
        self._silu_and_mul = needed("fla", "fla.modules.activations", PACKAGE).swiglu
        self._gated = needed("fla", "fla.modules.norm.fused_norm_gate", PACKAGE).rms_norm_gated

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call ``rms_norm``; with a residual, return the sum as well."""
        result: Norm = self._norm(x, weight, None, residual=residual, eps=eps, prenorm=residual is not None)
        return result

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Call ``layer_norm``."""
        y: torch.Tensor = self._layer_norm(x, weight, bias, eps=eps)
        return y

    def l2_norm(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Call ``l2norm``."""
        y: torch.Tensor = self._l2_norm(x, eps)
        return y

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Call ``swiglu``."""
        y: torch.Tensor = self._silu_and_mul(gate, up)
        return y

    def rms_norm_gated(
        self,
        x: torch.Tensor,
        gate: torch.Tensor,
        weight: torch.Tensor,
        *,
        eps: float,
        group_size: int | None,
        norm_before_gate: bool,
        activation: str,
    ) -> torch.Tensor:
        """Call ``rms_norm_gated``."""
        y: torch.Tensor = self._gated(x, gate, weight, None, activation=activation, eps=eps)
        return y


class FlaLayerNormGated(Adapter):
    """``rmsnorm_fn`` of ``layernorm_gated``: one program per group of a row."""

    name = "fla layernorm_gated"
    differentiable = True
    package = PACKAGE
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "fp32"}
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rms_norm_gated": {"activation": ("silu", "swish"), "group_size": COLUMNS}
    }
    launches = takes

    def __init__(self) -> None:
        self._norm = needed("fla", "fla.modules.norm.layernorm_gated", PACKAGE).rmsnorm_fn

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
