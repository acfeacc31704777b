"""The norm of a tile of rows and its product with the weight, which every norm has, and where both round.

``NORMALISED`` and ``WEIGHTED`` are the dtypes of the two rounding points; fp32 there rounds nothing.
"""

import torch
import triton
import triton.language as tl

from normkernels.kernels.pairwise_sum import pairwise_sum

DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@triton.jit
def widened(values):
    """Return values of any dtype in fp32.

    bf16 by its bits, which LLVM cannot see through: of ``(fp16 + bf16 in fp32)`` rounded to fp16 it makes an
    addition in fp16, with the bf16 operand rounded to fp16 first (its subnormal bits lost, beyond 65504 infinite).
    And ptxas then rounds to bf16 two values at a time, at the rate of other arithmetic.
    """
    if values.dtype == tl.bfloat16:
        wide = (values.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = values.to(tl.float32)
    return wide


# Triton's interpreter, as shipped, adds bf16 as if its bits were integers; and what it reduces by a function of
# ours it reduces an element at a time.
INTERPRETED = tl.constexpr(not isinstance(widened, triton.JITFunction))


@triton.jit
def rounded_sum(x, residual, TO: tl.constexpr):
    """Return ``x + residual`` in fp32, rounded to ``TO``.

    Two numbers of bf16 or of fp16 are added in their own type where that is ``TO`` as well, two at a time and
    with nothing to widen: to round to the 24 bits of fp32 first changes nothing, for they are at least 2p + 2
    (Figueroa 1995).
    """
    if x.dtype == residual.dtype and x.dtype == TO and not INTERPRETED:
        total = x + residual
    else:
        total = (widened(x) + widened(residual)).to(TO)
    return total


@triton.jit
def inverse_rms(
    x,  # [rows, 2**LEVELS] fp32, zero in the padding
    eps,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Return ``rsqrt(mean(x**2) + eps)`` of every row, [rows, 1]."""
    return tl.rsqrt(pairwise_sum(x * x, LEVELS) / WIDTH + eps)


@triton.jit
def normed(x, inv_rms, weight, NORMALISED: tl.constexpr, WEIGHTED: tl.constexpr):
    """Return ``x * inv_rms * weight`` in fp32, its rounding points applied."""
    y = widened((x * inv_rms).to(NORMALISED))
    return widened((y * weight).to(WEIGHTED))


@triton.jit
def row_norm(
    x,  # [rows, 2**LEVELS] fp32, zero in the padding
    weight,  # the same
    eps,
    NORMALISED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Return ``x * rsqrt(mean(x**2) + eps) * weight`` in fp32, its rounding points applied."""
    return normed(x, inverse_rms(x, eps, WIDTH, LEVELS), weight, NORMALISED, WEIGHTED)
