"""RMSNorm, forward: ``s = x + residual``, ``y = norm(s) * (weight_offset + weight)``.

Gemma's norm has a weight offset of one. Arithmetic is fp32. The sum is rounded to x's dtype, stored once, and the
norm is that of the rounded sum.
"""

import triton.language as tl

from normkernels.kernels.row_norm import inverse_rms, load_tiles, normed, rounded_sum, widened
from normkernels.kernels.tiles import column_pointers, kernel, outer_rows, row_tile, tile_pointers


@kernel
def rms_norm_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; residual, out and sum likewise
    residual_ptr, weight_ptr,  # [WIDTH]
    out_ptr, sum_ptr,
    n_rows,  # size_0 * size_1 * size_2
    x_stride_2, residual_stride_2, out_stride_2, sum_stride_2,
    weight_offset, eps,
    # used where leading sizes do not collapse, or columns are not adjacent
    size_1, size_2, size_2_inverse, size_2_shift,
    x_stride_0, x_stride_1, x_col_stride,
    residual_stride_0, residual_stride_1, residual_col_stride,
    out_stride_0, out_stride_1, out_col_stride,
    sum_stride_0, sum_stride_1, sum_col_stride,
    weight_stride,
    RESIDUAL: tl.constexpr, READS: tl.constexpr, WEIGHT: tl.constexpr, OFFSET: tl.constexpr,
    NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr, LEADING: tl.constexpr, ACCESS: tl.constexpr,
    WIDTH: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Normalise ``ROWS`` rows a program. All of a row is loaded before any is stored: outputs may be inputs."""
    residual_strides = (residual_stride_0, residual_stride_1, residual_stride_2, residual_col_stride)
    out_strides = (out_stride_0, out_stride_1, out_stride_2, out_col_stride)
    sum_strides = (sum_stride_0, sum_stride_1, sum_stride_2, sum_col_stride)
    row, cols, mask = row_tile(n_rows, WIDTH, LEVELS, ROWS)
    outer = outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING)
    place = (row, outer, cols, size_1, size_2)
    x_at = tile_pointers(x_ptr, (x_stride_0, x_stride_1, x_stride_2, x_col_stride), place, LEADING, ACCESS)
    residual_at = tile_pointers(residual_ptr, residual_strides, place, LEADING, ACCESS)
    sum_at = tile_pointers(sum_ptr, sum_strides, place, LEADING, ACCESS)
    # pointers of the whole tile: a load of one row would have to change its layout to that of the tile
    weight_at = column_pointers(weight_ptr, tl.broadcast_to(cols, mask.shape), weight_stride, ACCESS)

    # rows that are read twice should stay in L1 and L2 until then, and no longer
    TWICE: tl.constexpr = RESIDUAL and READS == "twice"
    TOGETHER: tl.constexpr = RESIDUAL and READS == "together"
    EVICTION: tl.constexpr = "evict_last" if TWICE else ""
    LOADS_WEIGHT: tl.constexpr = WEIGHT and not TWICE
    x, residual, weight = load_tiles(
        x_at, residual_at, weight_at, mask, cols < WIDTH, TOGETHER, RESIDUAL, LOADS_WEIGHT, EVICTION
    )
    if RESIDUAL:
        x = rounded_sum(x, residual, sum_ptr.dtype.element_ty)
        if not TWICE:
            tl.store(sum_at, x, mask=mask)
    inv_rms = inverse_rms(widened(x), eps, WIDTH, LEVELS)
    if TWICE:
        # each element is loaded by the thread that overwrites it, where the input is an output too
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
    out_at = tile_pointers(out_ptr, out_strides, place, LEADING, ACCESS)
    tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=mask)
