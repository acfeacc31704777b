"""Gated RMSNorm, forward: ``norm(x) * weight * act(gate)`` or ``norm(x * act(gate)) * weight``.

Arithmetic is fp32.
"""

import triton
import triton.language as tl

from normkernels.kernels.row_norm import row_norm
from normkernels.kernels.tiles import column_pointers, kernel, outer_rows, row_tile, tile_pointers


@triton.jit
def sigmoid(x):
    """Return ``1 / (1 + exp(-x))``, as ``e / (1 + e)`` with ``e = exp(x)`` where x is negative.

    ``e`` is then at most one, and ``d = 1 + e`` at most two. Therefore ``1 / d`` is ``rsqrt(d * d)``, of which
    every GPU has an instruction. A division also compares for large denominators and scales them.

    Error besides that of ``e``, in units of 2**-24: sum 1, square 1/2, rsqrt 2.14 (PTX ISA, rsqrt.approx),
    product 1 (negative x); together 4.64. With a division: sum and div.full (PTX ISA, 2 ulp), together 5. Where
    ``e`` is subnormal, below -87.3, both forms may give zero.
    """
    # GPUs have an exponential of base 2, and log2(e) is 1.4426950408889634
    e = tl.exp2(tl.abs(x) * -1.4426950408889634)
    d = 1.0 + e
    # NaN is not negative, and stays
    return tl.where(x < 0, e, 1.0) * tl.rsqrt(d * d)


@triton.jit
def gated_norm(
    x, gate, weight, eps,
    GATE: tl.constexpr, ACTIVATION: tl.constexpr, NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Return the formula's fp32 value of every element of a tile, rounded at both rounding points.

    x, gate and weight are [rows, block] fp32, padded by zeros; the gate is unused where GATE is "none".
    """
    if GATE == "none":
        act = gate
    elif ACTIVATION == "silu":
        act = gate * sigmoid(gate)
    elif ACTIVATION == "sigmoid":
        act = sigmoid(gate)
    else:
        tl.static_assert(False, "unhandled ACTIVATION")

    if GATE == "before":
        x = x * act
    y = row_norm(x, weight, eps, NORMALISED, WEIGHTED, WIDTH, LEVELS)
    if GATE == "after":
        y = y * act
    return y


@triton.jit(do_not_specialize=["n_rows"])
def rms_norm_gated_128_kernel(
    x_ptr, gate_ptr,  # [n_rows, 128] contiguous; out likewise
    weight_ptr,  # [128]
    out_ptr, n_rows, weight_stride, eps,
    ACTIVATION: tl.constexpr, NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Apply norm, weight and gate to ``ROWS`` contiguous rows of 128 a program."""
    # int64: row * 128 passes 2**31 on tensors that fit in memory
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, 128)[None, :]
    mask = rows < n_rows - first
    # 32 bits within the tile: all of it shares the 64-bit part of an address
    offsets = rows * 128 + cols
    # a 2-D load: a 1-D load would have to change its layout to that of the tile
    weight_offsets = tl.broadcast_to(cols.to(tl.int64) * weight_stride, [ROWS, 128])

    # a branch, not a constexpr of the launch: a new row count must not compile anything
    even = first + ROWS <= n_rows
    if even:
        x = tl.load(x_ptr + first * 128 + offsets)
        gate = tl.load(gate_ptr + first * 128 + offsets)
        weight = tl.load(weight_ptr + weight_offsets)
    else:
        x = tl.load(x_ptr + first * 128 + offsets, mask=mask, other=0.0)
        gate = tl.load(gate_ptr + first * 128 + offsets, mask=mask, other=0.0)
        weight = tl.load(weight_ptr + weight_offsets, mask=mask, other=0.0)

    x, gate, weight = x.to(tl.float32), gate.to(tl.float32), weight.to(tl.float32)
    y = gated_norm(x, gate, weight, eps, "after", ACTIVATION, NORMALISED, WEIGHTED, WIDTH=128, LEVELS=7)
    y = y.to(out_ptr.dtype.element_ty)
    if even:
        tl.store(out_ptr + first * 128 + offsets, y)
    else:
        tl.store(out_ptr + first * 128 + offsets, y, mask=mask)


@kernel
def rms_norm_gated_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; gate and out likewise
    gate_ptr, weight_ptr,  # [n_groups * WIDTH]
    out_ptr,
    n_rows,  # size_0 * size_1 * size_2
    x_stride_2, gate_stride_2, out_stride_2,
    eps,
    # used where leading sizes do not collapse, or columns are not adjacent
    n_groups,
    size_1, size_2, size_2_inverse, size_2_shift,
    x_stride_0, x_stride_1, x_col_stride,
    gate_stride_0, gate_stride_1, gate_col_stride,
    out_stride_0, out_stride_1, out_col_stride,
    weight_stride,
    GATE: tl.constexpr, ACTIVATION: tl.constexpr, NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr,
    GROUPED: tl.constexpr, LEADING: tl.constexpr, ACCESS: tl.constexpr, WIDTH: tl.constexpr,
    LEVELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Normalise ``ROWS`` rows a program; a row is one group, so its group is ``row % n_groups``."""
    gate_strides = (gate_stride_0, gate_stride_1, gate_stride_2, gate_col_stride)
    out_strides = (out_stride_0, out_stride_1, out_stride_2, out_col_stride)
    row, cols, mask = row_tile(n_rows, WIDTH, LEVELS, ROWS)
    outer = outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING)
    place = (row, outer, cols, size_1, size_2)
    x_at = tile_pointers(x_ptr, (x_stride_0, x_stride_1, x_stride_2, x_col_stride), place, LEADING, ACCESS)
    gate_at = tile_pointers(gate_ptr, gate_strides, place, LEADING, ACCESS)
    # pointers of the whole tile: a load of one row would have to change its layout to that of the tile
    weight_cols = tl.broadcast_to(cols, mask.shape)
    if GROUPED:
        weight_cols = (row % n_groups.to(row.dtype)).to(tl.int64) * WIDTH + cols
    weight_at = column_pointers(weight_ptr, weight_cols, weight_stride, ACCESS)
    x = tl.load(x_at, mask=mask, other=0.0)
    gate = x if GATE == "none" else tl.load(gate_at, mask=mask, other=0.0)
    # not masked by rows: the rows of one thread then share the weight
    weight = tl.load(weight_at, mask=cols < WIDTH, other=0.0)

    x, gate, weight = x.to(tl.float32), gate.to(tl.float32), weight.to(tl.float32)
    y = gated_norm(x, gate, weight, eps, GATE, ACTIVATION, NORMALISED, WEIGHTED, WIDTH, LEVELS)
    out_at = tile_pointers(out_ptr, out_strides, place, LEADING, ACCESS)
    tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=mask)
