"""A gated norm with the layout of vLLM's and SGLang's: at most four rows a tile, one warp, the gate after the sum.

The layout follows their description, the code is ours: their packages are too large to install with the others.
"""

import torch
import triton
import triton.language as tl

MOST_ROWS = 4


@triton.jit(do_not_specialize=["n_rows"])
def gated_kernel(
    x_ptr,  # [n_rows, groups * N], last stride 1
    gate_ptr,  # as x
    weight_ptr,  # [groups * N]
    out_ptr,  # [n_rows, groups * N] contiguous
    rstd_ptr,  # [groups, n_rows]
    x_row_stride,
    gate_row_stride,
    out_row_stride,
    n_rows,
    eps,
    BEFORE: tl.constexpr,
    SILU: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise ``ROWS`` rows of one group a program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    group = tl.program_id(1)
    cols = tl.arange(0, BLOCK)[None, :]
    mask = (row < n_rows) & (cols < N)
    x = tl.load(x_ptr + row * x_row_stride + group * N + cols, mask=mask, other=0.0).to(tl.float32)
    gates = gate_ptr + row * gate_row_stride + group * N + cols
    if not BEFORE:
        gate = tl.load(gates, mask=mask, other=0.0).to(tl.float32)
        x *= gate * tl.sigmoid(gate) if SILU else tl.sigmoid(gate)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / N + eps)
    tl.store(rstd_ptr + group * n_rows + row, rstd, mask=row < n_rows)
    weight = tl.load(weight_ptr + group * N + cols, mask=cols < N, other=0.0).to(tl.float32)
    y = x * rstd * weight
    if BEFORE:
        gate = tl.load(gates, mask=mask, other=0.0).to(tl.float32)
        y *= gate * tl.sigmoid(gate) if SILU else tl.sigmoid(gate)
    tl.store(out_ptr + row * out_row_stride + group * N + cols, y.to(out_ptr.dtype.element_ty), mask=mask)


def gated(
    x: torch.Tensor,
    gate: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    group_size: int,
    norm_before_gate: bool,
    silu: bool,
    units: int,
) -> torch.Tensor:
    """Allocate and launch over ``(n_rows, n)``; ``units`` is how many multiprocessors share the rows."""
    n_rows, n = x.shape
    out = torch.empty((n_rows, n), dtype=x.dtype, device=x.device)
    rstd = torch.empty((n // group_size, n_rows), dtype=torch.float32, device=x.device)
    rows = min(triton.next_power_of_2(triton.cdiv(n_rows, 2 * units)), MOST_ROWS)
    gated_kernel[(triton.cdiv(n_rows, rows), n // group_size)](
        x_ptr=x,
        gate_ptr=gate,
        weight_ptr=weight,
        out_ptr=out,
        rstd_ptr=rstd,
        x_row_stride=x.stride(0),
        gate_row_stride=gate.stride(0),
        out_row_stride=n,
        n_rows=n_rows,
        eps=eps,
        BEFORE=norm_before_gate,
        SILU=silu,
        N=group_size,
        BLOCK=triton.next_power_of_2(group_size),
        ROWS=rows,
        num_warps=1,
    )
    return out
