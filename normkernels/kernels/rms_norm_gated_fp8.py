"""Gated RMSNorm with fp8 values, forward: the norm of ``rms_norm_gated``, rounded to x's dtype, then quantised.

A line of a tile is a norm group. A row of the kernel is a span, the larger of a norm group and a quant group.
A span consists of blocks, the smaller of the two. Arithmetic is fp32, the quantisation's too.
"""

import triton.language as tl

from normkernels.kernels.quantise import block_columns, quantise, values_per_lane
from normkernels.kernels.rms_norm_gated import gated_norm
from normkernels.kernels.row_norm import widened
from normkernels.kernels.tiles import column_pointers, kernel, outer_rows, program_rows, strided, tile_pointers


@kernel
def rms_norm_gated_fp8_kernel(
    x_ptr,  # [size_0, size_1, size_2, SPAN], any strides; gate, out and y likewise
    gate_ptr, weight_ptr,  # [N]
    out_ptr, scale_ptr,  # [n_rows / SPANS, ceil(N / GROUP)]
    y_ptr,
    n_rows, scale_group_stride,  # size_0 * size_1 * size_2 rows
    x_stride_2, gate_stride_2, out_stride_2, y_stride_2, scale_row_stride,
    eps,
    # used where leading sizes do not collapse, or columns are not adjacent
    size_1, size_2, size_2_inverse, size_2_shift,
    x_stride_0, x_stride_1, x_col_stride,
    gate_stride_0, gate_stride_1, gate_col_stride,
    out_stride_0, out_stride_1, out_col_stride,
    y_stride_0, y_stride_1, y_col_stride,
    weight_stride,
    GATE: tl.constexpr, ACTIVATION: tl.constexpr, UNQUANTISED: tl.constexpr, NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr, FLOOR: tl.constexpr, FP8_MAX: tl.constexpr, LEADING: tl.constexpr,
    ACCESS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, SPAN: tl.constexpr,
    BLOCK: tl.constexpr, LEVELS: tl.constexpr, BLOCK_LEVELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
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
    gate_strides = (gate_stride_0, gate_stride_1, gate_stride_2, gate_col_stride)
    out_strides = (out_stride_0, out_stride_1, out_stride_2, out_col_stride)
    y_strides = (y_stride_0, y_stride_1, y_stride_2, y_col_stride)
    line = tl.arange(0, TILE_ROWS)[:, None]
    cols, in_block = block_columns(BLOCK, BLOCK_LEVELS, NORM_LEVELS)
    if WIDTH < GROUP:
        row, row_exists = program_rows(line // BLOCKS, n_rows, ROWS)
        cols = line % BLOCKS * BLOCK + cols
    else:
        row, row_exists = program_rows(line, n_rows, ROWS)
        cols = tl.broadcast_to(cols, [TILE_ROWS, TILE_COLS])
    first = (row % SPANS).to(tl.int64) * SPAN
    col_exists = in_block & (cols < SPAN)
    if N % SPAN != 0:
        col_exists = col_exists & (first + cols < N)
    mask = row_exists & col_exists
    outer = outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING)
    place = (row, outer, cols, size_1, size_2)

    x_at = tile_pointers(x_ptr, (x_stride_0, x_stride_1, x_stride_2, x_col_stride), place, LEADING, ACCESS)
    gate_at = tile_pointers(gate_ptr, gate_strides, place, LEADING, ACCESS)
    weight_at = column_pointers(weight_ptr, first + cols, weight_stride, ACCESS)
    x = tl.load(x_at, mask=mask, other=0.0)
    gate = x if GATE == "none" else tl.load(gate_at, mask=mask, other=0.0)
    # not masked by rows: the rows of one thread then share the weight
    weight = tl.load(weight_at, mask=col_exists, other=0.0)

    x, gate, weight = widened(x), widened(gate), widened(weight)
    y = gated_norm(x, gate, weight, eps, GATE, ACTIVATION, NORMALISED, WEIGHTED, WIDTH, NORM_LEVELS)
    y = y.to(x_ptr.dtype.element_ty)
    if UNQUANTISED:
        tl.store(tile_pointers(y_ptr, y_strides, place, LEADING, ACCESS), y, mask=mask)

    # not ``widened``: rounding two bf16 values at a time is faster, but here its unit is as busy as the others
    y = y.to(tl.float32)
    if BLOCKS * COLS != SPAN or N % SPAN != 0:
        # the padding is not zero where 1 / rms is infinite
        y = tl.where(mask, y, 0.0)
    values, scale = quantise(tl.reshape(y, [LINES, COLS]), x_ptr.dtype.element_ty, FLOOR, FP8_MAX, SCALED)
    values = tl.reshape(values, [TILE_ROWS, TILE_COLS])
    # sixteen values a thread: the statistics of a row of 128 are exchanged once less. On an H200 the best plan
    # takes 6 % less time so (24,576 rows) and 9 % (393,216)
    out_at = tile_pointers(out_ptr, out_strides, place, LEADING, ACCESS, FP8_AT_ONCE=16)
    tl.store(out_at, values.to(out_ptr.dtype.element_ty), mask=mask)

    # each scale has a line of its own, of at least COLS columns
    scale, scaled, lane = values_per_lane(scale, tl.arange(0, ROWS * SCALES)[:, None], COLS, 16)
    row, row_exists = program_rows(scaled // SCALES, n_rows, ROWS)
    group = scaled % SCALES
    # where a row has several spans, each holds whole groups
    in_row = row % SPANS * ((SPAN + GROUP - 1) // GROUP) + group.to(row.dtype)
    scale_at = scale_ptr + strided(row // SPANS, scale_row_stride) + strided(in_row, scale_group_stride)
    tl.store(scale_at + lane, scale, mask=row_exists & (group * GROUP < SPAN) & (lane == 0))
