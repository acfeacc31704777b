"""flash-linear-attention: both of its gated norms. ``pip install fla-core``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined, UsageError
from conformance.oracle.contract import Contract


def _installed(name: str) -> Any:  # noqa: ANN401 - of a package without types
    try:
        from fla.modules.norm import fused_norm_gate, layernorm_gated
    except ImportError as error:
        raise UsageError(f"fla: needs its package, pip install fla-core: {error}") from error
    return {"fused": fused_norm_gate.rms_norm_gated, "layernorm": layernorm_gated.rmsnorm_fn}[name]


class FusedNormGate(Adapter):
    """``fla.modules.norm.fused_norm_gate``: tiles of rows, autotuned."""

    name = "fla fused"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "fp32"}
    # its autotuning depends on a bucket of the row count
    batch_invariant = False

    def __init__(self) -> None:
        self._norm = _installed("fused")

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
        """Call it. It copies what is not contiguous."""
        if gate is None or not norm_before_gate or not x.numel():
            raise Declined("it gates after the norm")
        if group_size not in {None, x.shape[-1]}:
            raise Declined("it has no groups")
        y: torch.Tensor = self._norm(x, gate, weight, None, activation=activation, eps=eps)
        return y.view(x.shape)


class LayerNormGated(Adapter):
    """``fla.modules.norm.layernorm_gated``: a row, or a group of one, a program."""

    name = "fla layernorm"
    contracts: ClassVar[Mapping[str, str | Contract]] = {"rms_norm_gated": "fp32"}

    def __init__(self) -> None:
        self._norm = _installed("layernorm")

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
        """Call it. It copies what is not contiguous."""
        if activation == "sigmoid" or not x.numel():
            raise Declined("it gates with silu")
        y: torch.Tensor = self._norm(
            x, weight, None, z=gate, eps=eps, group_size=group_size, norm_before_gate=norm_before_gate
        )
        return y
