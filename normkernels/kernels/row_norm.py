"""The norm of a tile of rows, shared by every norm: loads, pairwise sum, product with the weight, rounding.

``NORMALISED`` and ``WEIGHTED`` are the dtypes of the two rounding points; fp32 rounds nothing.
"""

import torch
import triton
import triton.language as tl

from normkernels.kernels.tiles import all_at_once

DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@triton.jit
def widened(values):
    """Return values of any dtype in fp32.

    bf16 is widened by its bits, which LLVM cannot see through. LLVM would turn ``fp16 + bf16`` in fp32, rounded to
    fp16, into an fp16 addition: its bf16 operand, rounded first, loses subnormal bits and overflows above 65504.
    ptxas then also rounds to bf16 two values at a time, at the rate of other arithmetic.
    """
    if values.dtype == tl.bfloat16:
        wide = (values.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = values.to(tl.float32)
    return wide


# Triton's interpreter adds bf16 as if its bits were integers, and calls a reduction's function for each element.
# A default of parameters: with a global constexpr, Triton 3.6 compiles a kernel again in processes that launched
# other kernels before.
INTERPRETED = not isinstance(widened, triton.JITFunction)


@triton.jit
def pairwise_sum(tile, LEVELS: tl.constexpr):  # tile [rows, 2**LEVELS] -> [rows, 1]
    """Sum the rows of ``tile`` by adding neighbours, then neighbours of those, ``LEVELS`` times.

    ``tl.sum`` over a whole row adds in an order that follows the layout, so its bits change with
    warps and rows per program. A sum of two has no order, so the bits of this tree depend on the
    row alone. Low neighbours are in one thread: the first levels need no exchange.
    """
    # levels of a sum within one warp: its 32 threads have at least four elements each
    WARP_LEVELS: tl.constexpr = 7
    # one row that is wider than a warp, which loads 16 bytes a thread: 256 elements
    ACROSS: tl.constexpr = tile.shape[0] == 1 and LEVELS > WARP_LEVELS + 1
    for level in tl.static_range(LEVELS):
        if ACROSS and level == WARP_LEVELS:
            tile = replicate_across_warps(tile)
        tile = tl.sum(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]), axis=2)
    if ACROSS:
        # through a scalar: Triton would give the row's elements the layout of the partial sums
        tile = tl.full([1, 1], tl.sum(tile), tl.float32)
    return tile


@triton.jit
def replicate_across_warps(tile):  # [1, columns] -> the same
    """Return ``tile`` in a layout in which each warp holds all of its few columns.

    The warps then add independently and synchronise once, and not at every level. A gather of every column is the
    only copy whose result Triton does not give the layout of its operand.
    """
    cols = tl.arange(0, tile.shape[1])[None, :]
    return tl.gather(tile, cols, axis=1)


@triton.jit
def load_tiles(
    x_at, residual_at, weight_at, mask, col_mask,
    TOGETHER: tl.constexpr, RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, EVICTION: tl.constexpr,
):  # fmt: skip
    """Return x, residual and weight at [rows, columns] pointers; without them, zeros and ones.

    With ``TOGETHER`` all loads are issued before any is waited for; ``EVICTION`` is that of x and the residual.
    """
    x = tl.zeros(x_at.shape, x_at.dtype.element_ty)
    residual = tl.zeros(x_at.shape, residual_at.dtype.element_ty)
    weight = tl.full(x_at.shape, 0.0 if WEIGHT else 1.0, weight_at.dtype.element_ty)
    if all_at_once(TOGETHER):
        x = tl.load(x_at, mask=mask, other=0.0, eviction_policy=EVICTION)
        if RESIDUAL:
            residual = tl.load(residual_at, mask=mask, other=0.0, eviction_policy=EVICTION)
        if WEIGHT:
            # not masked by rows: the rows of one thread then share the weight. It stays in L1 for later programs
            weight = tl.load(weight_at, mask=col_mask, other=0.0, eviction_policy="evict_last")
    return x, residual, weight


@triton.jit
def rounded_sum(x, residual, TO: tl.constexpr, INTERPRETED: tl.constexpr = INTERPRETED):
    """Return ``x + residual``, added in fp32 and rounded to ``TO``.

    Two values of bf16 or fp16 are added in their own dtype if it is ``TO``: two at a time, with no widening. To
    round to the 24 bits of fp32 first changes nothing, because they are at least 2p + 2 (Figueroa 1995).
    """
    if x.dtype == residual.dtype and x.dtype == TO and not INTERPRETED:
        total = x + residual
    else:
        total = (widened(x) + widened(residual)).to(TO)
    return total


@triton.jit
def inverse_rms(x, eps, WIDTH: tl.constexpr, LEVELS: tl.constexpr):  # x [rows, 2**LEVELS] fp32, padded by zeros
    """Return ``rsqrt(mean(x**2) + eps)`` of every row, [rows, 1]."""
    return tl.rsqrt(pairwise_sum(x * x, LEVELS) / WIDTH + eps)


@triton.jit
def normed(x, inv_rms, weight, NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr):
    """Return ``x * inv_rms * weight`` in fp32, rounded at both rounding points."""
    y = widened((x * inv_rms).to(NORMALISED))
    return widened((y * weight).to(WEIGHTED))


@triton.jit
def row_norm(
    x, weight, eps, NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr
):  # fmt: skip
    """Return ``x * rsqrt(mean(x**2) + eps) * weight`` in fp32, rounded at both rounding points.

    x and weight are [rows, 2**LEVELS] fp32, padded by zeros.
    """
    return normed(x, inverse_rms(x, eps, WIDTH, LEVELS), weight, NORMALISED, WEIGHTED)
