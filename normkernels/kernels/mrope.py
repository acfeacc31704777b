"""MRoPE, forward: the first ``2 * HALF`` columns of every head of q and k rotated, the rest copied or left alone.

A frequency takes its angle from the position on one of three axes. Arithmetic is fp32.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from normkernels.kernels.plans import HeadPlan, power_of_two
from normkernels.kernels.tiles import access, column_pointers, kernel
from normkernels.launch import Launched, launch
from normkernels.strides import by_heads


@triton.jit
def angles(
    table_ptr,  # [max_positions, HALF], any strides: cos or sin
    row_stride,
    col_stride,
    t,  # [rows, 1] int64; h and w likewise
    h,
    w,
    of_h,  # [1, columns]: the frequencies of an axis; of_w likewise
    of_w,
    cols,
    mask,  # [rows, columns]
    AXES: tl.constexpr,
    ACCESS: tl.constexpr,
):
    """Return the row of each token's position in fp32, column by column on its axis; NaN where masked.

    Each axis is loaded whole, for that is a few wide loads, and picking elements would be many narrow ones.
    """
    nan = float("nan")
    row = tl.load(column_pointers(table_ptr + t * row_stride, cols, col_stride, ACCESS), mask=mask, other=nan)
    if AXES == 3:
        row_h = tl.load(
            column_pointers(table_ptr + h * row_stride, cols, col_stride, ACCESS), mask=mask, other=nan
        )
        row_w = tl.load(
            column_pointers(table_ptr + w * row_stride, cols, col_stride, ACCESS), mask=mask, other=nan
        )
        row = tl.where(of_h, row_h, tl.where(of_w, row_w, row))
    return row.to(tl.float32)


@triton.jit
def halves(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides
    x_token_stride,
    x_head_stride,
    x_col_stride,
    token,  # [rows, 1] int64
    n_tokens,
    n_heads,
    block,  # of ``HEADS`` heads; one past the last has nothing that is loaded
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Return both halves of what is rotated of a block of heads, as they are."""
    cols = tl.arange(0, HALF_BLOCK)[None, :].to(tl.int64)
    head = block * HEADS + (tl.arange(0, TOKENS * HEADS) % HEADS)[:, None]
    mask = (token < n_tokens) & (head < n_heads) & (cols < HALF)
    x = x_ptr + token * x_token_stride + head * x_head_stride
    x1 = tl.load(column_pointers(x, cols, x_col_stride, ACCESS), mask=mask, other=0.0)
    x2 = tl.load(column_pointers(x, HALF + cols, x_col_stride, ACCESS), mask=mask, other=0.0)
    return x1, x2


@triton.jit
def rotate(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides; out likewise, and may be x
    out_ptr,
    x_token_stride,
    x_head_stride,
    x_col_stride,
    out_token_stride,
    out_head_stride,
    out_col_stride,
    token,  # [rows, 1] int64
    x1,  # [rows, columns]: the halves of the first block
    x2,
    cos,  # [rows, columns] fp32
    sin,
    n_tokens,
    n_heads,
    first,  # the turn of this program among those that share a token
    COPIED: tl.constexpr,
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Rotate every head whose turn it is. Both halves are loaded before either is stored: out may be x.

    Those of the next block as well: nobody waits for a store before loading.
    """
    cols = tl.arange(0, HALF_BLOCK)[None, :].to(tl.int64)
    rest = tl.arange(0, REST_BLOCK)[None, :].to(tl.int64)
    for block in range(first, tl.cdiv(n_heads, HEADS), tl.num_programs(1)):
        head = block * HEADS + (tl.arange(0, TOKENS * HEADS) % HEADS)[:, None]
        exists = (token < n_tokens) & (head < n_heads)
        mask = exists & (cols < HALF)
        x = x_ptr + token * x_token_stride + head * x_head_stride
        out = out_ptr + token * out_token_stride + head * out_head_stride

        y1 = (x1.to(tl.float32) * cos - x2.to(tl.float32) * sin).to(out_ptr.dtype.element_ty)
        y2 = (x2.to(tl.float32) * cos + x1.to(tl.float32) * sin).to(out_ptr.dtype.element_ty)
        x1, x2 = halves(
            x_ptr,
            x_token_stride,
            x_head_stride,
            x_col_stride,
            token,
            n_tokens,
            n_heads,
            block + tl.num_programs(1),
            ACCESS,
            HALF,
            HALF_BLOCK,
            TOKENS,
            HEADS,
        )
        tl.store(column_pointers(out, cols, out_col_stride, ACCESS), y1, mask=mask)
        tl.store(column_pointers(out, HALF + cols, out_col_stride, ACCESS), y2, mask=mask)

        if COPIED:
            kept = exists & (rest < REST)
            x_rest = column_pointers(x, 2 * HALF + rest, x_col_stride, ACCESS)
            out_rest = column_pointers(out, 2 * HALF + rest, out_col_stride, ACCESS)
            # as it is: a conversion would change the bits of a NaN
            tl.store(out_rest, tl.load(x_rest, mask=kept, other=0.0), mask=kept)


@kernel
def mrope_kernel(
    q_ptr,  # [n_tokens, q_heads, HEAD_DIM], any strides; q_out likewise
    k_ptr,  # [n_tokens, k_heads, HEAD_DIM], any strides; k_out likewise
    positions_ptr,  # [AXES, n_tokens], any strides
    cos_ptr,  # [max_positions, HALF], any strides; sin likewise
    sin_ptr,
    q_out_ptr,
    k_out_ptr,
    q_token_stride,
    q_head_stride,
    q_col_stride,
    k_token_stride,
    k_head_stride,
    k_col_stride,
    axis_stride,
    position_stride,
    cos_row_stride,
    cos_col_stride,
    sin_row_stride,
    sin_col_stride,
    q_out_token_stride,
    q_out_head_stride,
    q_out_col_stride,
    k_out_token_stride,
    k_out_head_stride,
    k_out_col_stride,
    n_tokens,
    q_heads,
    k_heads,
    max_positions,
    t_section,
    h_section,
    w_section,
    AXES: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    COPIED: tl.constexpr,
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Rotate q and k of ``TOKENS`` tokens a program, ``HEADS`` heads at a time; cos and sin are loaded once.

    A row of a tile is one head of one token. Positions outside the cache make NaN, and nothing is loaded there.
    """
    # int64: token * stride, head * stride and position * stride pass 2**31 on tensors that fit in memory
    token = tl.program_id(0).to(tl.int64) * TOKENS + (tl.arange(0, TOKENS * HEADS) // HEADS)[:, None]
    turn = tl.program_id(1).to(tl.int64)
    # from the other end: whoever has the fewest heads of q begins with those of k
    k_turn = tl.num_programs(1) - 1 - turn
    # before anything that waits for positions
    q1, q2 = halves(
        q_ptr,
        q_token_stride,
        q_head_stride,
        q_col_stride,
        token,
        n_tokens,
        q_heads,
        turn,
        ACCESS,
        HALF,
        HALF_BLOCK,
        TOKENS,
        HEADS,
    )
    k1, k2 = halves(
        k_ptr,
        k_token_stride,
        k_head_stride,
        k_col_stride,
        token,
        n_tokens,
        k_heads,
        k_turn,
        ACCESS,
        HALF,
        HALF_BLOCK,
        TOKENS,
        HEADS,
    )
    frequency = tl.arange(0, HALF_BLOCK)[None, :]
    if INTERLEAVED:
        of_h = (frequency % 3 == 1) & (frequency < 3 * h_section)
        of_w = (frequency % 3 == 2) & (frequency < 3 * w_section)
    else:
        of_h = (frequency >= t_section) & (frequency < t_section + h_section)
        of_w = frequency >= t_section + h_section

    at = positions_ptr + token * position_stride
    t = tl.load(at, mask=token < n_tokens, other=0).to(tl.int64)
    h = t
    w = t
    if AXES == 3:
        h = tl.load(at + axis_stride, mask=token < n_tokens, other=0).to(tl.int64)
        w = tl.load(at + axis_stride + axis_stride, mask=token < n_tokens, other=0).to(tl.int64)
    lowest = tl.minimum(t, tl.minimum(h, w))
    highest = tl.maximum(t, tl.maximum(h, w))
    inside = (lowest >= 0) & (highest < max_positions)
    mask = inside & (frequency < HALF)
    cols = frequency.to(tl.int64)
    cos = angles(cos_ptr, cos_row_stride, cos_col_stride, t, h, w, of_h, of_w, cols, mask, AXES, ACCESS)
    sin = angles(sin_ptr, sin_row_stride, sin_col_stride, t, h, w, of_h, of_w, cols, mask, AXES, ACCESS)

    rotate(
        q_ptr,
        q_out_ptr,
        q_token_stride,
        q_head_stride,
        q_col_stride,
        q_out_token_stride,
        q_out_head_stride,
        q_out_col_stride,
        token,
        q1,
        q2,
        cos,
        sin,
        n_tokens,
        q_heads,
        turn,
        COPIED,
        ACCESS,
        HALF,
        REST,
        HALF_BLOCK,
        REST_BLOCK,
        TOKENS,
        HEADS,
    )
    rotate(
        k_ptr,
        k_out_ptr,
        k_token_stride,
        k_head_stride,
        k_col_stride,
        k_out_token_stride,
        k_out_head_stride,
        k_out_col_stride,
        token,
        k1,
        k2,
        cos,
        sin,
        n_tokens,
        k_heads,
        k_turn,
        COPIED,
        ACCESS,
        HALF,
        REST,
        HALF_BLOCK,
        REST_BLOCK,
        TOKENS,
        HEADS,
    )


def mrope_fwd(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    *,
    sections: tuple[int, int, int],
    head_dim: int,
    interleaved: bool,
    plan: HeadPlan,
) -> Launched:
    """Write q and k, rotated, into the outputs, which may be q and k. Arguments were validated in ``describe``."""
    half = cos.shape[1]
    rest = head_dim - 2 * half
    given = {"q": q, "k": k, "q_out": q_out, "k_out": k_out}
    heads = {name: by_heads(tensor, head_dim) for name, tensor in given.items()}
    tables = {"cos": cos, "sin": sin}
    args = {
        **{f"{name}_ptr": tensor for name, tensor in (heads | tables).items()},
        **_strides(heads, ("token", "head", "col")),
        **_strides(tables, ("row", "col")),
        "positions_ptr": positions,
        "axis_stride": positions.stride(0),
        "position_stride": positions.stride(-1),
        "n_tokens": q.shape[0],
        "q_heads": heads["q"].shape[1],
        "k_heads": heads["k"].shape[1],
        "max_positions": cos.shape[0],
        "t_section": sections[0],
        "h_section": sections[1],
        "w_section": sections[2],
        "AXES": 1 if positions.dim() == 1 else 3,
        "INTERLEAVED": interleaved,
        "COPIED": rest > 0 and q_out is not q,
        # the second half, and what is copied, begin a multiple of half further on
        "ACCESS": access([(each, (half, *each.stride()[:-1])) for each in (*heads.values(), *tables.values())]),
        "HALF": half,
        "REST": rest,
        "HALF_BLOCK": power_of_two(half),
        "REST_BLOCK": power_of_two(rest),
        "TOKENS": plan.rows,
        "HEADS": plan.heads,
    }
    return launch(mrope_kernel, (triton.cdiv(q.shape[0], plan.rows), plan.programs), args, plan, q.device)


def _strides(tensors: Mapping[str, torch.Tensor], axes: tuple[str, ...]) -> dict[str, int]:
    """Return the kernel arguments about strides, ``<tensor>_<axis>_stride`` each."""
    return {
        f"{name}_{axis}_stride": stride
        for name, tensor in tensors.items()
        for axis, stride in zip(axes, tensor.stride(), strict=True)
    }
