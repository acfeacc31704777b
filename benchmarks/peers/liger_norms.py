"""Liger-Kernel: a norm, a norm with a residual, and a rotation. ``pip install liger-kernel``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from conformance.adapter import Adapter, Declined, UsageError
from conformance.oracle.contract import Contract

Norm = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Liger(Adapter):
    """The forward functions of Liger-Kernel's training functions; casting mode ``gemma``, which rounds last."""

    name = "liger"
    contracts: ClassVar[Mapping[str, str | Contract]] = {
        "rms_norm": Contract(frozenset({"sum"})),
        "gemma_rms_norm": Contract(frozenset({"sum"})),
        "mrope": "fp32",
    }
    # from 32,768 rows on a program has sixteen rows of up to 256 columns, which sums in another order
    batch_invariant = False

    def __init__(self) -> None:
        try:
            from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction
            from liger_kernel.ops.qwen2vl_mrope import qwen2vl_mrope_forward
            from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        except ImportError as error:
            raise UsageError(f"liger: needs its package, pip install liger-kernel: {error}") from error
        self._alone: Any = LigerRMSNormFunction.apply
        self._added: Any = LigerFusedAddRMSNormFunction.apply
        self._turned: Any = qwen2vl_mrope_forward

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return where narrow rows change their kernel."""
        return () if operation == "mrope" or not torch.cuda.is_available() else (32768,)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        *,
        residual: torch.Tensor | None,
        weight_offset: float,
        eps: float,
    ) -> Norm:
        """Call either function. It copies what is not contiguous."""
        if weight is None or not x.numel():
            raise Declined("it has a weight, and rows")
        if residual is None:
            alone: torch.Tensor = self._alone(x, weight, eps, weight_offset, "gemma", False, None)  # noqa: FBT003
            return alone
        if residual.dtype != x.dtype:
            raise Declined("x + residual would be in the wider of both dtypes")
        y, total = self._added(x, residual, weight, eps, weight_offset, "gemma", False)  # noqa: FBT003
        return y, total

    def gemma_rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, *, residual: torch.Tensor | None, eps: float
    ) -> Norm:
        """Call either function with one added to the weight."""
        return self.rms_norm(x, weight, residual=residual, weight_offset=1.0, eps=eps)

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
        """Gather rows of both tables, as a model does once for all layers, and rotate copies of q and k.

        What is contiguous it would turn in place.
        """
        head_dim = head_dim or q.shape[-1]
        if interleaved or 2 * cos.shape[1] != head_dim:
            raise Declined("it turns whole heads, section after section")
        if not q.numel() or not k.numel():
            raise Declined("it has tokens and heads")
        index = positions.expand(3, -1).long()
        # float32: Liger computes in the angles' dtype
        angles = (table[index].float().repeat(1, 1, 2)[:, None] for table in (cos, sin))
        heads = (torch.unflatten(x.contiguous().flatten(1), 1, (-1, head_dim))[None] for x in (q, k))
        given = (x.clone() if x.data_ptr() in {q.data_ptr(), k.data_ptr()} else x for x in heads)
        turned = self._turned(*(x.transpose(1, 2) for x in given), *angles, list(sections))
        rotated_q, rotated_k = (
            x.transpose(1, 2)[0].reshape(of.shape) for x, of in zip(turned, (q, k), strict=False)
        )
        return rotated_q, rotated_k
