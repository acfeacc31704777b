"""RMSNorm, forward: ``s = x + residual``, ``y = norm(s) * (weight_offset + weight)``.

Gemma's norm is this one with an offset of one. Arithmetic is fp32. The sum is rounded to x's dtype,
stored once, and the norm is that of the rounded sum.
"""

import triton.language as tl

from normkernels.kernels.row_norm import inverse_rms, normed, rounded_sum, widened
from normkernels.kernels.tiles import (
    all_at_once,
    column_pointers,
    kernel,
    outer_rows,
    rows_of,
    tile_pointers,
)


@kernel
def rms_norm_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; residual, out and sum likewise
    residual_ptr,
    weight_ptr,  # [WIDTH]
    out_ptr,
    sum_ptr,
    x_stride_2,
    residual_stride_2,
    out_stride_2,
    sum_stride_2,
    n_rows,  # size_0 * size_1 * size_2
    weight_offset,
    eps,
    # of calls whose leading sizes do not collapse, or whose columns lie apart
    size_1,
    size_2,
    size_2_inverse,
    size_2_shift,
    x_stride_0,
    x_stride_1,
    x_col_stride,
    residual_stride_0,
    residual_stride_1,
    residual_col_stride,
    out_stride_0,
    out_stride_1,
    out_col_stride,
    sum_stride_0,
    sum_stride_1,
    sum_col_stride,
    weight_stride,
    RESIDUAL: tl.constexpr,
    READS: tl.constexpr,
    WEIGHT: tl.constexpr,
    OFFSET: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    LEADING: tl.constexpr,
    ACCESS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise ``ROWS`` rows a program. All of a row is loaded before any is stored: outputs may be inputs."""
    BLOCK: tl.constexpr = 2**LEVELS
    row, there = rows_of(tl.arange(0, ROWS)[:, None], n_rows, ROWS)
    # int64: column * stride passes 2**31 on tensors that fit in memory
    cols = tl.arange(0, BLOCK)[None, :].to(tl.int64)
    mask = there & (cols < WIDTH)

    outer = outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING)
    x_at = tile_pointers(
        x_ptr, row, outer, cols, size_1, size_2, x_stride_0, x_stride_1, x_stride_2, x_col_stride, LEADING, ACCESS
    )
    residual_at = tile_pointers(
        residual_ptr,
        row,
        outer,
        cols,
        size_1,
        size_2,
        residual_stride_0,
        residual_stride_1,
        residual_stride_2,
        residual_col_stride,
        LEADING,
        ACCESS,
    )
    sum_at = tile_pointers(
        sum_ptr,
        row,
        outer,
        cols,
        size_1,
        size_2,
        sum_stride_0,
        sum_stride_1,
        sum_stride_2,
        sum_col_stride,
        LEADING,
        ACCESS,
    )
    # of the whole tile: a load of one row would have to change its layout to meet it
    weight_at = column_pointers(weight_ptr, tl.broadcast_to(cols, [ROWS, BLOCK]), weight_stride, ACCESS)
    # what is read once more should stay in L1 and L2 until then, and no longer
    TWICE: tl.constexpr = RESIDUAL and READS == "twice"
    STAYS: tl.constexpr = "evict_last" if TWICE else ""
    x = tl.zeros([ROWS, BLOCK], x_ptr.dtype.element_ty)
    residual = tl.zeros([ROWS, BLOCK], residual_ptr.dtype.element_ty)
    weight = tl.full([ROWS, BLOCK], 0.0 if WEIGHT else 1.0, weight_ptr.dtype.element_ty)
    if all_at_once(RESIDUAL and READS == "together"):
        x = tl.load(x_at, mask=mask, other=0.0, eviction_policy=STAYS)
        if RESIDUAL:
            residual = tl.load(residual_at, mask=mask, other=0.0, eviction_policy=STAYS)
        if WEIGHT and not TWICE:
            # not masked by rows: those of one thread then share it. It stays in L1 for the programs to come
            weight = tl.load(weight_at, mask=cols < WIDTH, other=0.0, eviction_policy="evict_last")

    if RESIDUAL:
        x = rounded_sum(x, residual, sum_ptr.dtype.element_ty)
        if not TWICE:
            tl.store(sum_at, x, mask=mask)
    inv_rms = inverse_rms(widened(x), eps, WIDTH, LEVELS)
    if TWICE:
        # by the thread that writes over it, where it is an output too
        x = tl.load(x_at, mask=mask, other=0.0, eviction_policy="evict_first")
        residual = tl.load(residual_at, mask=mask, other=0.0, eviction_policy="evict_first")
        if WEIGHT:
            weight = tl.load(weight_at, mask=cols < WIDTH, other=0.0, eviction_policy="evict_last")
        x = rounded_sum(x, residual, sum_ptr.dtype.element_ty)
        tl.store(sum_at, x, mask=mask)

    weight = widened(weight)
    if OFFSET:
        weight = weight_offset + weight
    y = normed(widened(x), inv_rms, weight, NORMALISED, WEIGHTED)
    out_at = tile_pointers(
        out_ptr,
        row,
        outer,
        cols,
        size_1,
        size_2,
        out_stride_0,
        out_stride_1,
        out_stride_2,
        out_col_stride,
        LEADING,
        ACCESS,
    )
    tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=mask)
