"""Gated RMSNorm with fp8 values, forward: the norm of ``rms_norm_gated``, rounded to x's dtype, then quantised.

A line of a tile is a norm group. A row of the kernel is a span, whichever is larger of a norm group and a quant
group; it is made of blocks, the smaller ones. Arithmetic is fp32, the quantisation's too.
"""

import triton.language as tl

from normkernels.kernels.quantise import block_columns, held_by_lanes, quantise
from normkernels.kernels.rms_norm_gated import gated_norm
from normkernels.kernels.row_norm import widened
from normkernels.kernels.tiles import (
    column_pointers,
    kernel,
    outer_rows,
    rows_of,
    strided,
    tile_pointers,
)


@kernel
def rms_norm_gated_fp8_kernel(
    x_ptr,  # [size_0, size_1, size_2, SPAN], any strides; gate, out and y likewise
    gate_ptr,
    weight_ptr,  # [N]
    out_ptr,
    scale_ptr,  # [n_rows / SPANS, ceil(N / GROUP)]
    y_ptr,
    x_stride_2,
    gate_stride_2,
    out_stride_2,
    y_stride_2,
    scale_row_stride,
    scale_group_stride,
    n_rows,  # size_0 * size_1 * size_2
    eps,
    # of calls whose leading sizes do not collapse, or whose columns lie apart
    size_1,
    size_2,
    size_2_inverse,
    size_2_shift,
    x_stride_0,
    x_stride_1,
    x_col_stride,
    gate_stride_0,
    gate_stride_1,
    gate_col_stride,
    out_stride_0,
    out_stride_1,
    out_col_stride,
    y_stride_0,
    y_stride_1,
    y_col_stride,
    weight_stride,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    UNQUANTISED: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    FLOOR: tl.constexpr,
    FP8_MAX: tl.constexpr,
    LEADING: tl.constexpr,
    ACCESS: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCK_LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise and quantise ``ROWS`` spans a program."""
    SPANS: tl.constexpr = (N + SPAN - 1) // SPAN
    COLS: tl.constexpr = 2**BLOCK_LEVELS
    BLOCKS: tl.constexpr = 2 ** (LEVELS - BLOCK_LEVELS)
    LINES: tl.constexpr = ROWS * BLOCKS
    # blocks that share a mean, blocks that share a scale, and the scales of a span
    NORMED: tl.constexpr = 1 if WIDTH < GROUP else BLOCKS
    SCALED: tl.constexpr = BLOCKS if WIDTH < GROUP else 1
    NORM_LEVELS: tl.constexpr = BLOCK_LEVELS if WIDTH < GROUP else LEVELS
    TILE_ROWS: tl.constexpr = LINES // NORMED
    TILE_COLS: tl.constexpr = NORMED * COLS
    SCALES: tl.constexpr = BLOCKS // SCALED
    line = tl.arange(0, TILE_ROWS)[:, None]
    cols, exists = block_columns(BLOCK, BLOCK_LEVELS, NORM_LEVELS)
    if WIDTH < GROUP:
        row, present = rows_of(line // BLOCKS, n_rows, ROWS)
        cols = line % BLOCKS * BLOCK + cols
    else:
        row, present = rows_of(line, n_rows, ROWS)
        cols = tl.broadcast_to(cols, [TILE_ROWS, TILE_COLS])
    first = (row % SPANS).to(tl.int64) * SPAN
    there = exists & (cols < SPAN)
    if N % SPAN != 0:
        there = there & (first + cols < N)
    mask = present & there

    outer = outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING)
    x_at = tile_pointers(
        x_ptr, row, outer, cols, size_1, size_2, x_stride_0, x_stride_1, x_stride_2, x_col_stride, LEADING, ACCESS
    )
    gate_at = tile_pointers(
        gate_ptr,
        row,
        outer,
        cols,
        size_1,
        size_2,
        gate_stride_0,
        gate_stride_1,
        gate_stride_2,
        gate_col_stride,
        LEADING,
        ACCESS,
    )
    weight_at = column_pointers(weight_ptr, first + cols, weight_stride, ACCESS)
    x = tl.load(x_at, mask=mask, other=0.0)
    gate = x if GATE == "none" else tl.load(gate_at, mask=mask, other=0.0)
    # not masked by rows: those of one thread then share it
    weight = tl.load(weight_at, mask=there, other=0.0)

    y = gated_norm(
        widened(x),
        widened(gate),
        widened(weight),
        eps,
        GATE,
        ACTIVATION,
        NORMALISED,
        WEIGHTED,
        WIDTH,
        NORM_LEVELS,
    ).to(x_ptr.dtype.element_ty)
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
        tl.store(y_at, y, mask=mask)

    # not by its bits: two at a time would be rounded sooner, but here that unit has as much to do as any other
    y = y.to(tl.float32)
    if BLOCKS * COLS != SPAN or N % SPAN != 0:
        # the padding is no zero where 1 / rms is infinite
        y = tl.where(mask, y, 0.0)
    values, scale = quantise(tl.reshape(y, [LINES, COLS]), x_ptr.dtype.element_ty, FLOOR, FP8_MAX, SCALED)
    values = tl.reshape(values, [TILE_ROWS, TILE_COLS])
    # sixteen values a thread: the statistics of a row of 128 are exchanged once less. On an H200 the best plan
    # took 6 % less time so (24,576 rows) and 9 % (393,216)
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
        FP8_AT_ONCE=16,
    )
    tl.store(out_at, values.to(out_ptr.dtype.element_ty), mask=mask)

    # a line of its own for every scale, of COLS columns or more
    scale, scaled, lane = held_by_lanes(scale, tl.arange(0, ROWS * SCALES)[:, None], COLS, 16)
    row, present = rows_of(scaled // SCALES, n_rows, ROWS)
    group = scaled % SCALES
    # spans that are several are whole groups, each of them
    of_row = row % SPANS * ((SPAN + GROUP - 1) // GROUP) + group.to(row.dtype)
    scale_at = scale_ptr + strided(row // SPANS, scale_row_stride) + strided(of_row, scale_group_stride)
    tl.store(scale_at + lane, scale, mask=present & (group * GROUP < SPAN) & (lane == 0))
