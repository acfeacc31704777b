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

    def path(self, operation: str, arguments: Mapping[str, object]) -> str:
        """Return what ``explain`` decides: ``rows/decode128`` and the like, or ``native``."""
        return normkernels.explain(operation, path=self.forced, **arguments).name

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the row counts of the plan table in use."""
        gated = (plans.TABLE.prefill_rows,) if operation == "rms_norm_gated" else ()
        return (plans.TABLE.tile_rows, *gated)

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the width of the plans for narrow rows, and the widest row of one block."""
        return (plans.NARROW, plans.MAX_WIDTH) if operation == "rms_norm_gated" else (plans.MAX_WIDTH,)
