"""mamba_ssm: its norms of rows, SwiGLU, and the gated norm of Mamba-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter
from conformance.adapters.importing import needed
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
COLUMNS = range(1, 16385)  # 64 KiB of float32


class Mamba(Adapter):
    """``rmsnorm_fn`` of ``layernorm_gated``, a group of a row a program; ``layer_norm`` and ``k_activations``."""

    name = "mamba"
    differentiable = True
    package = "mamba_ssm"
    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(
        # a sum is normalised before it is rounded
        ("rms_norm_gated", "rms_norm", "layer_norm", "silu_and_mul"),
        "fp32",
    )
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rms_norm_gated": {"activation": ("silu", "swish"), "group_size": COLUMNS},
        "rms_norm": {
            "columns": COLUMNS,
            "offset": "zero",
            "residual": ("same", "none"),
            "weight": ("same", "float32"),
        },
        "layer_norm": {"columns": COLUMNS, "weight": ("same", "float32")},
        # gate and up are halves of one tensor
        "silu_and_mul": {"up": "same"},
    }
    launches = takes

    def __init__(self) -> None:
        # the package itself imports extensions in CUDA
        kernels = {name: _kernels(name) for name in ("layernorm_gated", "layer_norm", "k_activations")}
        self._gated = kernels["layernorm_gated"].rmsnorm_fn
        self._norm, self._layer_norm = kernels["layer_norm"].rms_norm_fn, kernels["layer_norm"].layer_norm_fn
        self._silu_and_mul = kernels["k_activations"].swiglu

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call ``rms_norm_fn``; with a residual, return the sum as well."""
        result: Norm = self._norm(x, weight, None, residual=residual, eps=eps, prenorm=residual is not None)
        return result

    def layer_norm(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, eps: float
    ) -> torch.Tensor:
        """Call ``layer_norm_fn``."""
        y: torch.Tensor = self._layer_norm(x, weight, bias, eps=eps)
        return y

    def silu_and_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Call ``swiglu``, whose kernel reads either half of one tensor with strides of its own."""
        y: torch.Tensor = self._silu_and_mul(torch.cat((gate, up), -1))
        return y

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
        y: torch.Tensor = self._gated(
            x, weight, None, z=gate, eps=eps, group_size=group_size, norm_before_gate=norm_before_gate
        )
        return y


def _kernels(module: str) -> Any:  # noqa: ANN401 - of a package without types
    return needed("mamba", f"mamba_ssm.ops.triton.{module}", "mamba_ssm", alone=True)
