"""Fp8 values of a tile of groups and their scales: what every quantised norm ends with."""

import triton
import triton.language as tl

from normkernels.kernels.row_norm import INTERPRETED, widened


@triton.jit
def block_columns(BLOCK: tl.constexpr, BLOCK_LEVELS: tl.constexpr, LEVELS: tl.constexpr):
    """Return the columns of a row of ``2**LEVELS`` in blocks of ``BLOCK``, each in room of its own power of two.

    And where there are any: the rest of the room is padding. Both are [1, 2**LEVELS]. Rows are loaded in this
    order, whole, and only parts of a row are regrouped, to be quantised: Triton 3.6 sums a tile wrongly that was
    loaded as blocks and regrouped to rows, where it lies across warps.
    """
    place = tl.arange(0, 2**LEVELS)[None, :].to(tl.int64)
    within = place % 2**BLOCK_LEVELS
    cols = place if BLOCK == 2**BLOCK_LEVELS else place // 2**BLOCK_LEVELS * BLOCK + within
    return cols, within < BLOCK


@triton.jit
def divided(
    y,  # [lines, block] fp32
    divisor,  # finite or NaN: one a line, or one number; inverse likewise
    inverse,
):
    """Return ``y / divisor``, rounded to nearest, of ``inverse``, which is ``1 / divisor``.

    The product, less what it is too large by (Markstein 1990): three instructions in place of a dozen and a
    branch. The signs are such that a zero keeps its own.
    """
    product = y * inverse
    # not -y and -inverse: Triton 3.6 makes 0 - y of that, an instruction of its own, which turns no zero round
    excess = tl.fma(product, divisor, y * -1.0)
    return tl.fma(excess, inverse * -1.0, product)


@triton.jit
def of_lines(values, LINES: tl.constexpr):  # values [groups, 1] -> [LINES, 1]
    """Return the value of its group for every line; the lines of a group are neighbours."""
    if LINES > values.shape[0]:
        every = tl.broadcast_to(values, [values.shape[0], LINES // values.shape[0]])
        values = tl.reshape(every, [LINES, 1])
    return values


@triton.jit
def quotients(
    y,  # [lines, block] fp32, infinite only where scale is
    scale,  # [groups, 1] fp32, and where it is finite: what ``scales`` returns
    finite,
    OF: tl.constexpr,  # the dtype that y was rounded to
):
    """Return ``y / scale``, rounded to nearest, or of bf16 so nearly that fp8 makes the same value of it.

    Of bf16 it is a product with a reciprocal in two parts, two instructions in place of three. It is rounded to
    nearest where the second part is a normal number: for scales up to 2**105, and quotients from 2**-105 on. With
    larger scales it may be the other of the two numbers of fp32 that a quotient lies between; but that no quotient
    then is near enough to the middle of two numbers of fp8 was counted, for every mantissa of both.
    """
    # with an infinite scale the product is right as it is, and what it is off by would be NaN
    divisor = tl.where(finite, scale, 0.0)
    if OF == tl.bfloat16:
        root = tl.rsqrt(scale)
        # too small by more than the root may be off, for then the rest is not negative: zeros keep their signs
        inverse = root * (root * (1.0 - 2.0**-20))
        lacking = tl.fma(divisor * -1.0, inverse, 1.0)
        # 1 / scale is inverse / (1 - lacking). All of this loses less than 2**-41, which is enough: of bf16
        # numbers and the scales that those have no quotient is nearer than 2**-40 to the middle of two numbers of
        # fp32, and only there would rounding go wrong
        rest = inverse * tl.fma(lacking, lacking, lacking)
        inverses = tl.broadcast_to(of_lines(inverse, y.shape[0]), y.shape)
        quotient = tl.fma(y, inverses, y * of_lines(rest, y.shape[0]))
    else:
        inverse = tl.div_rn(1.0, scale)
        quotient = divided(y, of_lines(divisor, y.shape[0]), of_lines(inverse, y.shape[0]))
    return quotient


@triton.jit
def scales(
    amax,  # [groups, 1] fp32, not negative, or NaN
    FLOOR: tl.constexpr,
    FP8_MAX: tl.constexpr,
):
    """Return ``max(amax, FLOOR) / FP8_MAX`` and where it is not infinite.

    It is rounded to nearest, as in the native form; ``/`` is not, on a GPU.
    """
    # not tl.maximum, which loses NaN
    amax = tl.where(amax < FLOOR, FLOOR, amax)
    finite = amax != float("inf")
    # as with an infinite scale
    return tl.where(finite, divided(amax, FP8_MAX, 1.0 / FP8_MAX), amax), finite


@triton.jit
def larger(a, b):
    """Return the larger number, or NaN where there is one."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest_magnitude(y):  # [lines, block] fp32 -> [lines, 1]
    """Return the largest magnitude of every line, NaN where it has one; ``tl.max`` would lose it."""
    if INTERPRETED:
        # as integers, magnitudes keep their order and NaN is the largest
        bits = tl.max(y.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1, keep_dims=True)
        amax = bits.to(tl.float32, bitcast=True)
    else:
        # one instruction, of magnitudes as of numbers
        amax = tl.reduce(tl.abs(y), 1, larger, keep_dims=True)
    return amax


@triton.jit
def quantise(
    y,  # [lines, block] fp32, zero in the padding
    OF: tl.constexpr,  # the dtype that y was rounded to
    FLOOR: tl.constexpr,
    FP8_MAX: tl.constexpr,
    SCALED: tl.constexpr = 1,  # lines that are one group
):
    """Return ``y / scale``, still in fp32, and ``scale = max(amax, FLOOR) / FP8_MAX``, [lines / SCALED, 1].

    NaN in a group makes the scale and all its values NaN.

    No value has to be held to the range of the type: ``|y| <= amax`` and
    ``scale >= amax / FP8_MAX * (1 - 2**-24)``, so that a quotient is at most the fp32 number after ``FP8_MAX``,
    which conversion rounds to ``FP8_MAX``. With an infinite amax it is NaN or zero.
    """
    amax = largest_magnitude(y)
    if SCALED > 1:
        # of the lines' own largest, and not of their elements regrouped: those may lie in lanes apart, where
        # Triton 3.6 does not find the largest
        amax = largest_magnitude(tl.reshape(amax, [y.shape[0] // SCALED, SCALED]))
    scale, finite = scales(amax, FLOOR, FP8_MAX)
    return quotients(y, scale, finite, OF), scale


@triton.jit
def rounded_to(
    y,  # fp32
    TO: tl.constexpr,
    PTX: tl.constexpr,
):
    """Return y, rounded to ``TO``, in fp32 again."""
    if PTX and TO == tl.bfloat16 and not INTERPRETED:
        # the upper of two numbers of bf16, beside a zero, is that number in fp32: one instruction. To round two at
        # a time and to take them apart is three, or more
        wide = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $1, 0f00000000;", "=r,r", [y], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        wide = widened(y.to(TO))
    return wide


@triton.jit
def held_by_lanes(
    values,  # [groups, 1]
    group,  # [groups, 1]
    COLS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Return values and their groups for each of the threads that have ``AT_ONCE`` of a group's ``COLS`` elements.

    And those threads' numbers, [1, threads]: the first of them stores a group's scale, with no exchange between
    threads. To addresses that are neighbours: that is how Triton comes to lay it out like the elements.
    """
    LANES: tl.constexpr = COLS // AT_ONCE if COLS > AT_ONCE else 1
    lane = tl.arange(0, LANES)[None, :]
    values = tl.broadcast_to(values, [values.shape[0], LANES])
    group = tl.broadcast_to(group, [group.shape[0], LANES])
    return values, group, lane
