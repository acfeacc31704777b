"""Fp8 values of a tile of groups and their scales: what every quantised norm ends with."""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from normkernels.fp8 import FLOOR, Quantisation
from normkernels.kernels.plans import Cut


@triton.jit
def block_columns(BLOCK: tl.constexpr, BLOCK_LEVELS: tl.constexpr, LEVELS: tl.constexpr):
    """Return the columns of a row of ``2**LEVELS`` in blocks of ``BLOCK``, each in room of its own power of two.

    And where there are any: the rest of the room is padding. Both are [1, 2**LEVELS]. Rows are loaded in this
    order, whole, and only quantised values are regrouped: Triton 3.6 sums a tile wrongly that was loaded as
    blocks and regrouped to rows, where it lies across warps.
    """
    place = tl.arange(0, 2**LEVELS)[None, :].to(tl.int64)
    within = place % 2**BLOCK_LEVELS
    cols = place if BLOCK == 2**BLOCK_LEVELS else place // 2**BLOCK_LEVELS * BLOCK + within
    return cols, within < BLOCK


@triton.jit
def quotients(
    y,  # [groups, block] fp32, infinite only where scale is
    scale,  # [groups, 1] fp32, positive, infinite or NaN
):
    """Return ``y / scale``, rounded to nearest, with one division a group.

    A product with the reciprocal, less what it is too large by (Markstein 1990): three instructions in place of a
    dozen and a branch. The signs are such that a zero keeps its own.
    """
    inverse = tl.div_rn(1.0, scale)
    # with an infinite scale the product is right as it is, and what it is too large by would be NaN
    divisor = tl.where(scale == float("inf"), 0.0, scale)
    product = y * inverse
    # not -y and -inverse: Triton 3.6 makes 0 - y of that, an instruction of its own, which turns no zero round
    excess = tl.fma(product, divisor, y * -1.0)
    return tl.fma(excess, inverse * -1.0, product)


@triton.jit
def quantise(
    y,  # [groups, block] fp32, zero in the padding
    FLOOR: tl.constexpr,
    FP8_MAX: tl.constexpr,
):
    """Return ``y / scale`` held to the range of the type, still in fp32, and ``scale``, [groups, 1].

    ``scale = max(amax, FLOOR) / FP8_MAX``. NaN in a group makes the scale and all its values NaN.
    """
    # as integers, magnitudes keep their order and NaN is the largest: tl.max of floats would lose it
    magnitude = y.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    amax = tl.max(magnitude, axis=1, keep_dims=True).to(tl.float32, bitcast=True)
    # not tl.maximum, which loses NaN too
    amax = tl.where(amax < FLOOR, FLOOR, amax)
    # exact, for the native form is, and `/` is a few units off on a GPU
    scale = tl.div_rn(amax, FP8_MAX)
    values = quotients(y, scale)
    return tl.clamp(values, -FP8_MAX, FP8_MAX, propagate_nan=tl.PropagateNan.ALL), scale


def quantise_args(
    tile: Mapping[str, int | str], scales: torch.Tensor, how: Quantisation, cut: Cut
) -> dict[str, int | float | str]:
    """Return the kernel arguments about tiles and scales: those of ``tile``, for lines of one block each."""
    groups = scales.shape[-1]
    steps = (groups, 1) if how.layout == "row" else (1, scales.numel() // groups)
    args = {
        **tile,
        "scale_row_stride": steps[0],
        "scale_group_stride": steps[1],
        "FLOOR": FLOOR,
        "FP8_MAX": how.max,
        "WIDTH": cut.width,
        "GROUP": cut.group,
        "LEVELS": cut.levels,
        "BLOCK_LEVELS": cut.block_levels,
    }
    # a line begins where its block does, and must be as aligned as rows are
    if args["ACCESS"] == "aligned" and cut.block < cut.span and cut.block % 16:
        args["ACCESS"] = "unit"
    return args
