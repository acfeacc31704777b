"""Gated RMSNorm, forward: ``norm(x) * weight * act(gate)`` or ``norm(x * act(gate)) * weight``.

Arithmetic is fp32.
"""

import triton
import triton.language as tl

from normkernels.kernels.row_norm import row_norm
from normkernels.kernels.tiles import column_pointers, kernel, outer_rows, rows_of, tile_pointers

# of base 2, in which GPUs have their exponential
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    """Return ``1 / (1 + exp(-x))``, as ``e / (1 + e)`` with ``e = exp(x)`` where x is negative.

    So ``e`` is at most one, and ``d = 1 + e`` at most two: ``1 / d`` is ``rsqrt(d * d)``, of which every GPU has
    an instruction, while a division also scales denominators that are large, and compares for it. To what ``e`` is
    off by, which weighs the same in both forms, come 2**-24 of the sum, half as much of the square, 2**-22.9 of
    the root (PTX ISA, rsqrt.approx) and, of negative x, 2**-24 of the product: 4.64 * 2**-24, where the sum and a
    division (PTX ISA, div.full: 2 ulp) come to 5. Where ``e`` is subnormal, below -87.3, both may give zero.
    """
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    d = 1.0 + e
    # NaN is not negative, and stays
    return tl.where(x < 0, e, 1.0) * tl.rsqrt(d * d)


@triton.jit
def gated_norm(
    x,  # [rows, block] fp32, zero in the padding
    gate,  # the same; unused where GATE is "none"
    weight,  # the same
    eps,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Return the formula's fp32 value of every element of a tile, its rounding points applied."""
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
    x_ptr,  # [n_rows, 128] contiguous
    gate_ptr,  # [n_rows, 128] contiguous
    weight_ptr,  # [128]
    out_ptr,  # [n_rows, 128] contiguous
    weight_stride,
    n_rows,
    eps,
    ACTIVATION: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Norm, weight, then gate, of ``ROWS`` contiguous rows of 128 a program."""
    # int64: row * 128 passes 2**31 on tensors that fit in memory
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, 128)[None, :]
    mask = rows < n_rows - first
    # 32 bits within the tile: the 64-bit part of an address is the same for all of it
    offsets = rows * 128 + cols
    # a 2-D load: a 1-D one would have to change its layout to meet the tile
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

    y = gated_norm(
        x.to(tl.float32),
        gate.to(tl.float32),
        weight.to(tl.float32),
        eps,
        GATE="after",
        ACTIVATION=ACTIVATION,
        NORMALISED=NORMALISED,
        WEIGHTED=WEIGHTED,
        WIDTH=128,
        LEVELS=7,
    ).to(out_ptr.dtype.element_ty)
    if even:
        tl.store(out_ptr + first * 128 + offsets, y)
    else:
        tl.store(out_ptr + first * 128 + offsets, y, mask=mask)


@kernel
def rms_norm_gated_kernel(
    x_ptr,  # [size_0, size_1, size_2, WIDTH], any strides; gate and out likewise
    gate_ptr,
    weight_ptr,  # [n_groups * WIDTH]
    out_ptr,
    x_stride_2,
    gate_stride_2,
    out_stride_2,
    n_rows,  # size_0 * size_1 * size_2
    eps,
    # of calls whose leading sizes do not collapse, or whose columns lie apart
    n_groups,
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
    weight_stride,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GROUPED: tl.constexpr,
    LEADING: tl.constexpr,
    ACCESS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise ``ROWS`` rows a program; a row is one group, so its group is ``row % n_groups``."""
    BLOCK: tl.constexpr = 2**LEVELS
    row, there = rows_of(tl.arange(0, ROWS)[:, None], n_rows, ROWS)
    # int64: column * stride passes 2**31 on tensors that fit in memory
    cols = tl.arange(0, BLOCK)[None, :].to(tl.int64)
    mask = there & (cols < WIDTH)

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
    # of the whole tile: a load of one row would have to change its layout to meet it
    weight_cols = (
        (row % n_groups.to(row.dtype)).to(tl.int64) * WIDTH + cols
        if GROUPED
        else tl.broadcast_to(cols, [ROWS, BLOCK])
    )
    weight_at = column_pointers(weight_ptr, weight_cols, weight_stride, ACCESS)
    x = tl.load(x_at, mask=mask, other=0.0)
    gate = x if GATE == "none" else tl.load(gate_at, mask=mask, other=0.0)
    # not masked by rows: those of one thread then share it
    weight = tl.load(weight_at, mask=cols < WIDTH, other=0.0)

    y = gated_norm(
        x.to(tl.float32),
        gate.to(tl.float32),
        weight.to(tl.float32),
        eps,
        GATE,
        ACTIVATION,
        NORMALISED,
        WEIGHTED,
        WIDTH,
        LEVELS,
    )
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
