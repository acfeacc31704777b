"""The design that this project started from, with exactly its guards: other calls are declined.

Calls that its guards accept reach the kernels, such as a call with a strided weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conformance.adapter import Adapter, Declined
from conformance.oracle.contract import Contract

# columns of the gated kernels' rows
RANK, WIDTH = 3, 128


class Original(Adapter):
    """Two gated kernels, one norm with a residual, one rotation out of place."""

    name = "original"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm_gated": "fp32",
        "gemma_rms_norm": Contract(frozenset({"sum"})),
        "mrope": "fp32",
    }
    graphs = True

    def __init__(self) -> None:
        # imports Triton, which must come after the choice of a device
        from conformance.adapters.kernels import original

        self._kernels = original
        # Triton's interpreter runs no 65,536 programs
        self.prefill_rows = original.PREFILL_ROWS if torch.cuda.is_available() else 32

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return where the gated norm changes its kernel."""
        return (self.prefill_rows,) if operation == "rms_norm_gated" else ()

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
        """Call one of both kernels by the number of rows."""
        if gate is None or not norm_before_gate or activation == "sigmoid":
            raise Declined("it gates after the norm, with silu")
        if x.dim() != RANK or group_size not in {None, x.shape[-1]} or x.shape[-1] != WIDTH or not x.numel():
            raise Declined(f"it takes {RANK} dimensions, rows of {WIDTH}, one group each")
        if not (x.is_contiguous() and gate.is_contiguous()):
            raise Declined("it takes contiguous x and gate")
        return self._kernels.gated(x, gate, weight, eps=eps, prefill_rows=self.prefill_rows)

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Call the persistent kernel."""
        if residual is None or residual.dtype != x.dtype or not x.numel():
            raise Declined("it adds a residual of x's dtype")
        if not (x.is_contiguous() and residual.is_contiguous()):
            raise Declined("it takes contiguous x and residual")
        return self._kernels.gemma(x, residual, weight, eps=eps)

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
        """Call the kernel of a token a program."""
        if head_dim is None or head_dim & (head_dim - 1) or not q.numel() or not k.numel():
            raise Declined("it takes rows of heads whose dimension is a power of two")
        if positions.dim() == 1:
            raise Declined("it takes positions on three axes")
        return self._kernels.mrope(
            q, k, positions, cos, sin, sections=sections, head_dim=head_dim, interleaved=interleaved
        )
