"""RMSNorm with fp8 values, forward: the norm of ``rms_norm``, rounded to x's dtype, then quantised by groups.

A tile holds whole rows, which are regrouped to be quantised. Arithmetic is fp32, the quantisation's too.
"""

import triton.language as tl

from normkernels.kernels.quantise import block_columns, quantise, rounded_to, values_per_lane
from normkernels.kernels.row_norm import load_tiles, rounded_sum, row_norm, widened
from normkernels.kernels.tiles import column_pointers, kernel, outer_rows, program_rows, strided, tile_pointers


@kernel
def rms_norm_fp8_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; residual, out, y and sum likewise
    residual_ptr, weight_ptr,  # [WIDTH]
    out_ptr, scale_ptr,  # [n_rows, ceil(WIDTH / GROUP)]
    y_ptr, sum_ptr,
    n_rows, scale_group_stride,  # size_0 * size_1 * size_2 rows
    x_stride_2, residual_stride_2, out_stride_2, y_stride_2, sum_stride_2, scale_row_stride,
    weight_offset, eps,
    # used where leading sizes do not collapse, or columns are not adjacent
    size_1, size_2, size_2_inverse, size_2_shift,
    x_stride_0, x_stride_1, x_col_stride,
    residual_stride_0, residual_stride_1, residual_col_stride,
    out_stride_0, out_stride_1, out_col_stride,
    y_stride_0, y_stride_1, y_col_stride,
    sum_stride_0, sum_stride_1, sum_col_stride,
    weight_stride,
    RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, OFFSET: tl.constexpr, UNQUANTISED: tl.constexpr,
    NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr, FLOOR: tl.constexpr, FP8_MAX: tl.constexpr,
    LEADING: tl.constexpr, ACCESS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, LEVELS: tl.constexpr,
    BLOCK_LEVELS: tl.constexpr, ROWS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Normalise ``ROWS`` rows a program. All of a row is loaded before any is stored: the sum may be an input."""
    BLOCK: tl.constexpr = 2**BLOCK_LEVELS
    GROUPS: tl.constexpr = 2 ** (LEVELS - BLOCK_LEVELS)
    LINES: tl.constexpr = ROWS * GROUPS
    residual_strides = (residual_stride_0, residual_stride_1, residual_stride_2, residual_col_stride)
    out_strides = (out_stride_0, out_stride_1, out_stride_2, out_col_stride)
    sum_strides = (sum_stride_0, sum_stride_1, sum_stride_2, sum_col_stride)
    row, row_exists = program_rows(tl.arange(0, ROWS)[:, None], n_rows, ROWS)
    cols, in_block = block_columns(GROUP, BLOCK_LEVELS, LEVELS)
    mask = row_exists & in_block & (cols < WIDTH)
    outer = outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING)
    place = (row, outer, cols, size_1, size_2)

    x_at = tile_pointers(x_ptr, (x_stride_0, x_stride_1, x_stride_2, x_col_stride), place, LEADING, ACCESS)
    residual_at = tile_pointers(residual_ptr, residual_strides, place, LEADING, ACCESS)
    # pointers of the whole tile: a load of one row would have to change its layout to that of the tile
    weight_at = column_pointers(weight_ptr, tl.broadcast_to(cols, mask.shape), weight_stride, ACCESS)
    x, residual, weight = load_tiles(
        x_at, residual_at, weight_at, mask, in_block & (cols < WIDTH), RESIDUAL, RESIDUAL, WEIGHT, ""
    )
    weight = widened(weight)
    if OFFSET:
        weight = weight_offset + weight
    if RESIDUAL:
        x = rounded_sum(x, residual, sum_ptr.dtype.element_ty)
        tl.store(tile_pointers(sum_ptr, sum_strides, place, LEADING, ACCESS), x, mask=mask)

    y = row_norm(widened(x), weight, eps, NORMALISED, WEIGHTED, WIDTH, LEVELS)
    if UNQUANTISED:
        y_at = tile_pointers(y_ptr, (y_stride_0, y_stride_1, y_stride_2, y_col_stride), place, LEADING, ACCESS)
        tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=mask)

    y = rounded_to(y, x_ptr.dtype.element_ty, PTX)
    if GROUPS * BLOCK != WIDTH or GROUP != BLOCK:
        # the padding is not zero where 1 / rms is infinite
        y = tl.where(mask, y, 0.0)
    values, scale = quantise(tl.reshape(y, [LINES, BLOCK]), x_ptr.dtype.element_ty, FLOOR, FP8_MAX)
    values = tl.reshape(values, mask.shape)
    out_at = tile_pointers(out_ptr, out_strides, place, LEADING, ACCESS)
    tl.store(out_at, values.to(out_ptr.dtype.element_ty), mask=mask)

    scale, line, lane = values_per_lane(scale, tl.arange(0, LINES)[:, None], BLOCK, 8)
    row, row_exists = program_rows(line // GROUPS, n_rows, ROWS)
    group = line % GROUPS
    scale_at = scale_ptr + strided(row, scale_row_stride) + strided(group, scale_group_stride)
    tl.store(scale_at + lane, scale, mask=row_exists & (group * GROUP < WIDTH) & (lane == 0))
