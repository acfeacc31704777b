"""The package of this repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

import normkernels
from conformance.adapter import Adapter
from conformance.oracle.contract import Contract
from normkernels.call import interpreting
from normkernels.kernels import plans


class NormKernels(Adapter):
    """``normkernels`` as its dispatcher runs it, in fp32; the sum with a residual and the store round."""

    name = "normkernels"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": Contract(rounds=frozenset({"sum"}), depth="tile"),
        "gemma_rms_norm": Contract(rounds=frozenset({"sum"}), depth="tile"),
        "rms_norm_gated": Contract(rounds=frozenset(), depth="tile"),
        "mrope": "fp32",
    }
    validates = True
    compiles = True
    graphs = True
    reference: str | None = "native"
    forced: str | None = None  # the path asked for; None leaves the choice to the dispatcher

    def __init__(self) -> None:
        # on the CPU the thresholds that are judged must lie within reach of the interpreter
        if interpreting():
            plans.TABLE = plans.INTERPRETED

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Call the operation."""
        return normkernels.rms_norm(
            x, weight, residual=residual, weight_offset=weight_offset, eps=eps, path=self.forced
        )

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Call the operation."""
        return normkernels.gemma_rms_norm(x, weight, residual=residual, eps=eps, path=self.forced)

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
        """Call the operation."""
        return normkernels.rms_norm_gated(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
            path=self.forced,
        )

    def mrope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        sections: tuple[int, int, int],
        head_dim: int | None,
        interleaved: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Call the operation."""
        return normkernels.mrope(
            q,
            k,
            positions,
            cos,
            sin,
            sections=sections,
            head_dim=head_dim,
            interleaved=interleaved,
            path=self.forced,
        )

    def mrope_(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        sections: tuple[int, int, int],
        head_dim: int | None,
        interleaved: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Call the operation in place."""
        return normkernels.mrope_(
            q,
            k,
            positions,
            cos,
            sin,
            sections=sections,
            head_dim=head_dim,
            interleaved=interleaved,
            path=self.forced,
        )

    def rms_norm_(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Call the operation with its outputs over x and the residual."""
        return normkernels.rms_norm(
            x,
            weight,
            residual=residual,
            weight_offset=weight_offset,
            eps=eps,
            path=self.forced,
            out=x,
            residual_out=residual,
        )

    def gemma_rms_norm_(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Call the operation with its outputs over x and the residual."""
        return normkernels.gemma_rms_norm(
            x, weight, residual=residual, eps=eps, path=self.forced, out=x, residual_out=residual
        )

    def rms_norm_gated_(
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
        """Call the operation with its output over x."""
        return normkernels.rms_norm_gated(
            x,
            gate,
            weight,
            eps=eps,
            group_size=group_size,
            norm_before_gate=norm_before_gate,
            activation=activation,
            path=self.forced,
            out=x,
        )

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Return what ``explain`` decides: ``rows/decode128`` and the like, or ``native``."""
        return normkernels.explain(operation, path=self.forced, **arguments).name

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the row counts of the plan table in use."""
        if operation == "mrope":
            return (plans.TABLE.prefill_tokens,)
        gated = (plans.TABLE.prefill_rows,) if operation == "rms_norm_gated" else ()
        return (plans.TABLE.tile_rows, *gated)

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the width of the plans for narrow rows, and the widest row or head of one block."""
        if operation == "mrope":
            return (plans.MAX_HEAD_DIM,)
        return (plans.NARROW, plans.MAX_WIDTH) if operation == "rms_norm_gated" else (plans.MAX_WIDTH,)
