"""RMSNorm with fp8 values, forward: the norm of ``rms_norm``, rounded to x's dtype, then quantised by groups.

A tile holds whole rows; only what is quantised is regrouped. Arithmetic is fp32, the quantisation's too.
"""

import triton.language as tl

from normkernels.kernels.quantise import block_columns, held_by_lanes, quantise, rounded_to
from normkernels.kernels.row_norm import rounded_sum, row_norm, widened
from normkernels.kernels.tiles import (
    all_at_once,
    column_pointers,
    kernel,
    outer_rows,
    rows_of,
    strided,
    tile_pointers,
)


@kernel
def rms_norm_fp8_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; residual, out, y and sum likewise
    residual_ptr,
    weight_ptr,  # [WIDTH]
    out_ptr,
    scale_ptr,  # [n_rows, ceil(WIDTH / GROUP)]
    y_ptr,
    sum_ptr,
    x_stride_2,
    residual_stride_2,
    out_stride_2,
    y_stride_2,
    sum_stride_2,
    scale_row_stride,
    scale_group_stride,
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
    y_stride_0,
    y_stride_1,
    y_col_stride,
    sum_stride_0,
    sum_stride_1,
    sum_col_stride,
    weight_stride,
    RESIDUAL: tl.constexpr,
    WEIGHT: tl.constexpr,
    OFFSET: tl.constexpr,
    UNQUANTISED: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    FLOOR: tl.constexpr,
    FP8_MAX: tl.constexpr,
    LEADING: tl.constexpr,
    ACCESS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCK_LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    PTX: tl.constexpr,
):
    """Normalise ``ROWS`` rows a program. All of a row is loaded before any is stored: the sum may be an input."""
    BLOCK: tl.constexpr = 2**BLOCK_LEVELS
    GROUPS: tl.constexpr = 2 ** (LEVELS - BLOCK_LEVELS)
    LINES: tl.constexpr = ROWS * GROUPS
    row, there = rows_of(tl.arange(0, ROWS)[:, None], n_rows, ROWS)
    cols, exists = block_columns(GROUP, BLOCK_LEVELS, LEVELS)
    mask = there & exists & (cols < WIDTH)

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
    # of the whole tile: a load of one row would have to change its layout to meet it
    weight_cols = tl.broadcast_to(cols, [ROWS, GROUPS * BLOCK])
    weight_at = column_pointers(weight_ptr, weight_cols, weight_stride, ACCESS)
    x = tl.zeros([ROWS, GROUPS * BLOCK], x_ptr.dtype.element_ty)
    residual = tl.zeros([ROWS, GROUPS * BLOCK], residual_ptr.dtype.element_ty)
    weight = tl.full([ROWS, GROUPS * BLOCK], 0.0 if WEIGHT else 1.0, weight_ptr.dtype.element_ty)
    if all_at_once(RESIDUAL):
        x = tl.load(x_at, mask=mask, other=0.0)
        if RESIDUAL:
            residual = tl.load(residual_at, mask=mask, other=0.0)
        if WEIGHT:
            # not masked by rows: those of one thread then share it
            weight = tl.load(weight_at, mask=exists & (cols < WIDTH), other=0.0, eviction_policy="evict_last")
    weight = widened(weight)
    if OFFSET:
        weight = weight_offset + weight

    if RESIDUAL:
        total = rounded_sum(x, residual, sum_ptr.dtype.element_ty)
        x = total
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
        tl.store(sum_at, total, mask=mask)

    y = row_norm(widened(x), weight, eps, NORMALISED, WEIGHTED, WIDTH, LEVELS)
    if UNQUANTISED:
        y_at = tile_pointers(
            y_ptr,
            row,
            outer,
            cols,
            size_1,
            size_2,
            y_stride_0,
            y_stride_1,
            y_stride_2,
            y_col_stride,
            LEADING,
            ACCESS,
        )
        tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=mask)

    y = rounded_to(y, x_ptr.dtype.element_ty, PTX)
    if GROUPS * BLOCK != WIDTH or GROUP != BLOCK:
        # the padding is no zero where 1 / rms is infinite
        y = tl.where(mask, y, 0.0)
    values, scale = quantise(tl.reshape(y, [LINES, BLOCK]), x_ptr.dtype.element_ty, FLOOR, FP8_MAX)
    values = tl.reshape(values, [ROWS, GROUPS * BLOCK])
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
    tl.store(out_at, values.to(out_ptr.dtype.element_ty), mask=mask)

    scale, line, lane = held_by_lanes(scale, tl.arange(0, LINES)[:, None], BLOCK, 8)
    row, there = rows_of(line // GROUPS, n_rows, ROWS)
    group = line % GROUPS
    scale_at = scale_ptr + strided(row, scale_row_stride) + strided(group, scale_group_stride)
    tl.store(scale_at + lane, scale, mask=there & (group * GROUP < WIDTH) & (lane == 0))
