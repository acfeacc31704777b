"""This project's first two launch shapes: right in every value, but a row's bits depend on its batch.

One row of 128 a program with one warp, and from 65,536 rows on 32 rows a program with four warps. ``tl.sum``
adds in an order that follows the tile, so the same row has other bits in a large batch than in a small one.

``conform run conformance/selftest/launch_pair.py`` on a GPU fails batch invariance, and nothing else.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import triton
import triton.language as tl

from conformance import Adapter, Declined

PREFILL_ROWS = 65536
WIDTH = 128


@triton.jit(do_not_specialize=["n_rows"])
def one_row_kernel(x_ptr, gate_ptr, weight_ptr, out_ptr, n_rows, eps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Normalise one row of 128 a program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, 128)
    x = tl.load(x_ptr + row * 128 + cols).to(tl.float32)
    gate = tl.load(gate_ptr + row * 128 + cols).to(tl.float32)
    weight = tl.load(weight_ptr + cols).to(tl.float32)
    inv_rms = tl.rsqrt(tl.sum(x * x, axis=0) / 128 + eps)
    y = x * inv_rms * weight * gate * tl.sigmoid(gate)
    tl.store(out_ptr + row * 128 + cols, y.to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["n_rows"])
def many_rows_kernel(x_ptr, gate_ptr, weight_ptr, out_ptr, n_rows, eps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Normalise 32 rows of 128 a program."""
    row = tl.program_id(0).to(tl.int64) * 32 + tl.arange(0, 32)[:, None]
    cols = tl.arange(0, 128)[None, :]
    mask = row < n_rows
    x = tl.load(x_ptr + row * 128 + cols, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * 128 + cols, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + cols).to(tl.float32)
    inv_rms = tl.rsqrt(tl.sum(x * x, axis=1) / 128 + eps)[:, None]
    y = x * inv_rms * weight * gate * tl.sigmoid(gate)
    tl.store(out_ptr + row * 128 + cols, y.to(out_ptr.dtype.element_ty), mask=mask)


class LaunchPair(Adapter):
    """The gated norm of contiguous rows of 128, in two launch shapes."""

    name = "launch_pair"
    contracts: ClassVar = {"rms_norm_gated": "fp32"}

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the number of rows at which the launch shape changes."""
        return (PREFILL_ROWS,)

    def path(self, operation: str, arguments: object) -> str:
        """Return the path: one of two kernels runs every call that is taken."""
        return "triton"

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
        """Decline all but the call that both kernels were written for."""
        if gate is None or not norm_before_gate or activation != "silu":
            raise Declined("needs a silu gate after the norm")
        if x.shape[-1] != WIDTH or group_size not in {None, WIDTH}:
            raise Declined("needs one group of 128")
        if not (x.is_contiguous() and gate.is_contiguous() and weight.is_contiguous()):
            raise Declined("needs contiguous tensors")
        out = torch.empty_like(x)
        rows = x.numel() // WIDTH
        if rows >= PREFILL_ROWS:
            many_rows_kernel[(triton.cdiv(rows, 32),)](x, gate, weight, out, rows, eps, num_warps=4)
        elif rows:
            one_row_kernel[(rows,)](x, gate, weight, out, rows, eps, num_warps=1)
        return out
