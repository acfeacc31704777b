"""Fp8 values of a tile of groups and their scales, shared by every quantised norm."""

import triton
import triton.language as tl

from normkernels.kernels.row_norm import INTERPRETED, widened


@triton.jit
def block_columns(BLOCK: tl.constexpr, BLOCK_LEVELS: tl.constexpr, LEVELS: tl.constexpr):
    """Return the columns of a row in blocks of ``BLOCK``, each padded to ``2**BLOCK_LEVELS``, and the block mask.

    Both are [1, 2**LEVELS]. Rows are loaded whole, in this order, and only regrouped to be quantised: Triton 3.6
    sums a tile wrongly that was loaded as blocks and regrouped to rows, if a row extends across warps.
    """
    place = tl.arange(0, 2**LEVELS)[None, :].to(tl.int64)
    within = place % 2**BLOCK_LEVELS
    cols = place if BLOCK == 2**BLOCK_LEVELS else place // 2**BLOCK_LEVELS * BLOCK + within
    return cols, within < BLOCK


@triton.jit
def divided(y, divisor, inverse):
    """Return ``y / divisor``, rounded to nearest; ``inverse`` is ``1 / divisor``.

    The product is corrected by its excess (Markstein 1990), in three instructions. A division takes a dozen and a
    branch. The signs are such that a zero keeps its own.
    """
    product = y * inverse
    # not -y and -inverse: Triton 3.6 compiles them to 0 - y, one more instruction that loses the sign of zero
    excess = tl.fma(product, divisor, y * -1.0)
    return tl.fma(excess, inverse * -1.0, product)


@triton.jit
def broadcast_lines(values, LINES: tl.constexpr):  # values [groups, 1] -> [LINES, 1]
    """Return the value of its group for every line; the lines of a group are neighbours."""
    if LINES > values.shape[0]:
        every = tl.broadcast_to(values, [values.shape[0], LINES // values.shape[0]])
        values = tl.reshape(every, [LINES, 1])
    return values


@triton.jit
def quotients(y, scale, finite, OF: tl.constexpr):
    """Return ``y / scale`` rounded to nearest; for bf16 near enough to give the same fp8 value.

    y is [lines, block] fp32, rounded to ``OF``, and infinite only where its scale is; scale and finite are
    [groups, 1], as returned by ``scales``.
    bf16 is multiplied by a reciprocal in two parts: two instructions, where a division takes three. The product is
    rounded to nearest where the second part is a normal number: for scales up to 2**105 and quotients from 2**-105
    on. With larger scales it may be the other fp32 neighbour of the quotient. No such quotient is near enough to
    the middle of two fp8 numbers to matter, which was counted for every mantissa of both.
    """
    # with an infinite scale the product is exact, and its correction would be NaN
    divisor = tl.where(finite, scale, 0.0)
    if OF == tl.bfloat16:
        root = tl.rsqrt(scale)
        # reduced by more than the error of the root, so that the rest is not negative: zeros keep their signs
        inverse = root * (root * (1.0 - 2.0**-20))
        lacking = tl.fma(divisor * -1.0, inverse, 1.0)
        # 1 / scale is inverse / (1 - lacking). The error of all of this is below 2**-41, which is enough: rounding
        # could go wrong only at the middle of two fp32 numbers, and no quotient of a bf16 number and its scale is
        # nearer to one than 2**-40
        rest = inverse * tl.fma(lacking, lacking, lacking)
        inverses = tl.broadcast_to(broadcast_lines(inverse, y.shape[0]), y.shape)
        quotient = tl.fma(y, inverses, y * broadcast_lines(rest, y.shape[0]))
    else:
        inverse = tl.div_rn(1.0, scale)
        quotient = divided(y, broadcast_lines(divisor, y.shape[0]), broadcast_lines(inverse, y.shape[0]))
    return quotient


@triton.jit
def scales(amax, FLOOR: tl.constexpr, FP8_MAX: tl.constexpr):  # amax [groups, 1] fp32, not negative, or NaN
    """Return ``max(amax, FLOOR) / FP8_MAX`` and the mask of finite scales.

    The division rounds to nearest, like the native form; ``/`` does not on a GPU.
    """
    # not tl.maximum, which loses NaN
    amax = tl.where(amax < FLOOR, FLOOR, amax)
    finite = amax != float("inf")
    # the correction of an infinite quotient would be NaN
    return tl.where(finite, divided(amax, FP8_MAX, 1.0 / FP8_MAX), amax), finite


@triton.jit
def maximum(a, b):
    """Return the larger number, or NaN where there is one."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest_magnitude(y, INTERPRETED: tl.constexpr = INTERPRETED):  # [lines, block] fp32 -> [lines, 1]
    """Return the largest magnitude of every line, or NaN if the line has one; ``tl.max`` would lose NaN."""
    if INTERPRETED:
        # as integers, magnitudes keep their order and NaN is the largest
        bits = tl.max(y.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1, keep_dims=True)
        amax = bits.to(tl.float32, bitcast=True)
    else:
        # one instruction a step, which also takes magnitudes
        amax = tl.reduce(tl.abs(y), 1, maximum, keep_dims=True)
    return amax


@triton.jit
def quantise(y, OF: tl.constexpr, FLOOR: tl.constexpr, FP8_MAX: tl.constexpr, SCALED: tl.constexpr = 1):
    """Return ``y / scale``, still in fp32, and ``scale = max(amax, FLOOR) / FP8_MAX``, [lines / SCALED, 1].

    y is [lines, block] fp32, rounded to ``OF`` and padded by zeros; a group has ``SCALED`` lines. NaN in a group
    makes the scale and all its values NaN.

    Values need no clamping to the range of the type. ``|y| <= amax`` and
    ``scale >= amax / FP8_MAX * (1 - 2**-24)``, so that a quotient is at most the fp32 number after ``FP8_MAX``,
    which conversion rounds to ``FP8_MAX``. With an infinite amax a quotient is NaN or zero.
    """
    amax = largest_magnitude(y)
    if SCALED > 1:
        # from the maxima of the lines, not from their regrouped elements: Triton 3.6 does not find the maximum of
        # elements in lanes that are no neighbours
        amax = largest_magnitude(tl.reshape(amax, [y.shape[0] // SCALED, SCALED]))
    scale, finite = scales(amax, FLOOR, FP8_MAX)
    return quotients(y, scale, finite, OF), scale


@triton.jit
def rounded_to(y, TO: tl.constexpr, PTX: tl.constexpr, INTERPRETED: tl.constexpr = INTERPRETED):
    """Return fp32 y, rounded to ``TO``, in fp32 again."""
    if PTX and TO == tl.bfloat16 and not INTERPRETED:
        # one instruction: the bf16 number in the upper half, over a zero, is the same number in fp32. Rounding two
        # values at a time and separating them takes at least three
        wide = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $1, 0f00000000;", "=r,r", [y], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        wide = widened(y.to(TO))
    return wide


@triton.jit
def values_per_lane(values, group, COLS: tl.constexpr, AT_ONCE: tl.constexpr):  # values and group [groups, 1]
    """Return values and groups for each thread with ``AT_ONCE`` of a group's ``COLS`` elements, and its number.

    The numbers are [1, threads]. Thread 0 stores the scale of its group, with no exchange between threads. Callers
    add the thread's number to the address: Triton then chooses the layout of the elements for the store.
    """
    LANES: tl.constexpr = COLS // AT_ONCE if COLS > AT_ONCE else 1
    lane = tl.arange(0, LANES)[None, :]
    values = tl.broadcast_to(values, [values.shape[0], LANES])
    group = tl.broadcast_to(group, [group.shape[0], LANES])
    return values, group, lane
