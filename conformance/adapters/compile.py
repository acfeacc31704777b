"""The formulas in plain PyTorch, compiled by ``torch.compile`` with default options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional

from conformance.adapter import Adapter
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
MOST_VARIANTS = 2**12


def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, residual: torch.Tensor | None, offset: float, eps: float
) -> Norm:
    total = x.float() if residual is None else x.float() + residual.float()
    y = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps)
    if weight is not None or offset:
        y = y * (offset + (1.0 if weight is None else weight.float()))
    return y.to(x.dtype) if residual is None else (y.to(x.dtype), total.to(x.dtype))


def _rms_norm_gated(
    x: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    group_size: int,
    activation: str,
    *,
    first: bool,
) -> torch.Tensor:
    y = x.float()
    act = None if gate is None else _activated(gate.float(), activation)
    if act is not None and not first:
        y = y * act
    groups = y.reshape(*x.shape[:-1], x.shape[-1] // group_size, group_size)
    y = (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)).flatten(-2) * weight.float()
    return (y if act is None or not first else y * act).to(x.dtype)


def _activated(gate: torch.Tensor, activation: str) -> torch.Tensor:
    return torch.sigmoid(gate) if activation == "sigmoid" else functional.silu(gate)


class Compile(Adapter):
    """Norms in float32, compiled whole for any number of rows."""

    name = "compile"
    package = "torch"
    # on a CPU the compiled code adds a lane's share of a row one after another
    contracts: ClassVar[Mapping[str, str | Contract]] = dict.fromkeys(
        ("rms_norm", "gemma_rms_norm", "rms_norm_gated"), Contract(rounds=frozenset(), depth="serial")
    )
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rms_norm": {}, "gemma_rms_norm": {}, "rms_norm_gated": {}}
    strides = "dense"
    # the compiled code, and so the order of a sum, follows from the whole shape
    batch_invariant = False
    few_variants = False

    def __init__(self) -> None:
        # imports Triton, which must come after the choice of a device
        from torch._inductor import config as inductor

        # every rank, dtype and layout is a compilation of its own, and many of them must not stop compilation
        torch._dynamo.config.recompile_limit = MOST_VARIANTS  # noqa: SLF001 - there is no public name
        torch._dynamo.config.accumulated_recompile_limit = MOST_VARIANTS  # noqa: SLF001 - as above
        # a forked process has no compile threads of its parent
        inductor.compile_threads = 1
        self._norm: Callable[..., Norm] = torch.compile(_rms_norm, fullgraph=True)
        self._gated: Callable[..., torch.Tensor] = torch.compile(_rms_norm_gated, fullgraph=True)
        # the first compilation of a process takes many seconds, more than a call is given
        device = "cuda" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"
        self._norm(torch.ones(2, 8, device=device), None, None, 0.0, 1e-6)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call the compiled formula."""
        return self._norm(x, weight, residual, weight_offset, eps)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Norm:
        """Call the compiled formula with one added to the weight."""
        return self._norm(x, weight, residual, 1.0, eps)

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
        """Call the compiled formula."""
        group = group_size or x.shape[-1]
        return self._gated(x, gate, weight, eps, group, activation, first=norm_before_gate)
