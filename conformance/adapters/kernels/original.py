"""The design that this project started from, written anew: two gated kernels, one persistent norm, one rotation.

Gated, rows of 128: a row a program with one warp, and from 65,536 rows on 32 rows a program with four. Gemma's
norm with a residual: at most 304 programs, which was the count of another GPU's units, that loop over the rows.
The rotation: a program a token, out of place, each head's halves loaded once for themselves and once for the
other half. The numbers of warps of its norm and its rotation are not recorded; here they are eight and four.
"""

import torch
import triton
import triton.language as tl

PREFILL_ROWS = 65536
PROGRAMS = 304


@triton.jit
def gated_row_kernel(
    x_ptr,  # [n_rows, N] contiguous
    gate_ptr,  # the same
    weight_ptr,  # [N]
    out_ptr,  # as x
    eps,
    N: tl.constexpr,
):
    """Normalise one row a program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, N)
    x = tl.load(x_ptr + row * N + cols).to(tl.float32)
    gate = tl.load(gate_ptr + row * N + cols).to(tl.float32)
    weight = tl.load(weight_ptr + cols).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / N + eps) * weight * gate * tl.sigmoid(gate)
    tl.store(out_ptr + row * N + cols, y.to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["n_rows"])
def gated_tile_kernel(
    x_ptr,  # [n_rows, N] contiguous
    gate_ptr,  # the same
    weight_ptr,  # [N]
    out_ptr,  # as x
    n_rows,
    eps,
    N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise ``ROWS`` rows a program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, N)[None, :]
    mask = row < n_rows
    x = tl.load(x_ptr + row * N + cols, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * N + cols, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + cols).to(tl.float32)
    inv_rms = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / N + eps)
    y = x * inv_rms * weight * gate * tl.sigmoid(gate)
    tl.store(out_ptr + row * N + cols, y.to(out_ptr.dtype.element_ty), mask=mask)


def gated(
    x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, *, eps: float, prefill_rows: int
) -> torch.Tensor:
    """Allocate and launch; x and gate must be contiguous, of the same shape, with 128 columns."""
    n = x.shape[-1]
    n_rows = x.numel() // n
    out = torch.empty_like(x)
    tensors = {"x_ptr": x, "gate_ptr": gate, "weight_ptr": weight, "out_ptr": out}
    if n_rows < prefill_rows:
        gated_row_kernel[(n_rows,)](**tensors, eps=eps, N=n, num_warps=1)
    else:
        grid = (triton.cdiv(n_rows, 32),)
        gated_tile_kernel[grid](**tensors, n_rows=n_rows, eps=eps, N=n, ROWS=32, num_warps=4)
    return out


@triton.jit(do_not_specialize=["n_rows"])
def gemma_kernel(
    x_ptr,  # [n_rows, n_cols] contiguous
    residual_ptr,  # the same
    weight_ptr,  # [n_cols]
    out_ptr,  # as x
    sum_ptr,  # as x
    n_rows,
    n_cols,
    eps,
    BLOCK: tl.constexpr,
):
    """Normalise every row from the program's own number on, in steps of the grid."""
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    weight = tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32) + 1.0
    # int64: row * n_cols passes 2**31 on tensors that fit in memory
    stride = tl.cast(n_cols, tl.int64)
    for row in tl.range(tl.program_id(0), n_rows, tl.num_programs(0), num_stages=2):
        start = row * stride
        x = tl.load(x_ptr + start + cols, mask=mask, other=0.0).to(tl.float32)
        residual = tl.load(residual_ptr + start + cols, mask=mask, other=0.0).to(tl.float32)
        rounded = (x + residual).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + start + cols, rounded, mask=mask)
        total = rounded.to(tl.float32)
        y = total * tl.rsqrt(tl.sum(total * total, axis=0) / n_cols + eps) * weight
        tl.store(out_ptr + start + cols, y.to(out_ptr.dtype.element_ty), mask=mask)


def gemma(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, *, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate and launch; x and residual must be contiguous and of the same shape."""
    n = x.shape[-1]
    n_rows = x.numel() // n
    out, total = torch.empty_like(x), torch.empty_like(x)
    gemma_kernel[(min(n_rows, PROGRAMS),)](
        x_ptr=x,
        residual_ptr=residual,
        weight_ptr=weight,
        out_ptr=out,
        sum_ptr=total,
        n_rows=n_rows,
        n_cols=n,
        eps=eps,
        BLOCK=triton.next_power_of_2(n),
        num_warps=8,
    )
    return out, total


@triton.jit
def turn_heads(x_ptr, out_ptr, cos, sin, n_heads, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr):
    """Turn all heads of a token: x and out point to the first; cos and sin are [1, HEAD_DIM]."""
    heads = tl.arange(0, HEADS)[:, None]
    dims = tl.arange(0, HEAD_DIM)[None, :]
    mask = (heads < n_heads) & (dims < HEAD_DIM)
    first = dims < HALF
    x = tl.load(x_ptr + heads * HEAD_DIM + dims, mask=mask, other=0.0)
    partner = tl.where(first, dims + HALF, dims - HALF)
    inside = mask & (dims < 2 * HALF)
    other = tl.load(x_ptr + heads * HEAD_DIM + partner, mask=inside, other=0.0).to(tl.float32)
    turned = x.to(tl.float32) * cos + tl.where(first, -other, other) * sin
    y = tl.where(dims < 2 * HALF, turned.to(x.dtype), x)
    tl.store(out_ptr + heads * HEAD_DIM + dims, y, mask=mask)


@triton.jit(do_not_specialize=["position_stride"])
def mrope_kernel(
    q_ptr,  # [tokens, q_heads * HEAD_DIM], row stride free
    k_ptr,  # [tokens, k_heads * HEAD_DIM], row stride free
    positions_ptr,  # [3, tokens]
    cos_ptr,  # [max_positions, HALF], row stride free
    sin_ptr,  # the same
    q_out_ptr,  # contiguous
    k_out_ptr,  # contiguous
    q_stride,
    k_stride,
    position_stride,
    cos_stride,
    sin_stride,
    q_heads,
    k_heads,
    SECTION_T: tl.constexpr,
    SECTION_H: tl.constexpr,
    SECTION_W: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
):
    """Rotate one token a program, q and then k."""
    token = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)[None, :]
    frequency = dims % HALF
    if INTERLEAVED:
        is_h = (frequency % 3 == 1) & (frequency < 3 * SECTION_H)
        is_w = (frequency % 3 == 2) & (frequency < 3 * SECTION_W)
    else:
        is_h = (frequency >= SECTION_T) & (frequency < SECTION_T + SECTION_H)
        is_w = frequency >= SECTION_T + SECTION_H
    axis = tl.where(is_h, 1, tl.where(is_w, 2, 0)).to(tl.int64)
    mask = dims < 2 * HALF
    position = tl.load(positions_ptr + axis * position_stride + token, mask=mask, other=0)
    cos = tl.load(cos_ptr + position * cos_stride + frequency, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * sin_stride + frequency, mask=mask, other=0.0).to(tl.float32)
    q_out = q_out_ptr + token * q_heads * HEAD_DIM
    k_out = k_out_ptr + token * k_heads * HEAD_DIM
    turn_heads(q_ptr + token * q_stride, q_out, cos, sin, q_heads, Q_HEADS, HEAD_DIM, HALF)
    turn_heads(k_ptr + token * k_stride, k_out, cos, sin, k_heads, K_HEADS, HEAD_DIM, HALF)


def mrope(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: tuple[int, int, int],
    head_dim: int,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate and launch; q and k ``(tokens, heads * head_dim)``, positions ``(3, tokens)`` contiguous."""
    q_heads, k_heads = q.shape[1] // head_dim, k.shape[1] // head_dim
    q_out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    k_out = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    mrope_kernel[(len(q),)](
        q_ptr=q,
        k_ptr=k,
        positions_ptr=positions,
        cos_ptr=cos,
        sin_ptr=sin,
        q_out_ptr=q_out,
        k_out_ptr=k_out,
        q_stride=q.stride(0),
        k_stride=k.stride(0),
        position_stride=positions.stride(0),
        cos_stride=cos.stride(0),
        sin_stride=sin.stride(0),
        q_heads=q_heads,
        k_heads=k_heads,
        SECTION_T=sections[0],
        SECTION_H=sections[1],
        SECTION_W=sections[2],
        INTERLEAVED=interleaved,
        Q_HEADS=triton.next_power_of_2(q_heads),
        K_HEADS=triton.next_power_of_2(k_heads),
        HEAD_DIM=head_dim,
        HALF=cos.shape[1],
        num_warps=4,
    )
    return q_out, k_out
