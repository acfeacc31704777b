"""Scales and fp8 quotients, computed without a division each, equal those of a division."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from conformance.package.calls.fp8 import FLOOR, MAX
from conformance.package.calls.tensors import DEVICE
from normkernels.kernels.quantise import quotients, scales
from normkernels.kernels.row_norm import DTYPES

# what is expected is divided on a CPU: on a GPU torch divides by a number as by its reciprocal
# mantissas, magnitudes and signs whose quotients are seldom exact; and special numbers
ODD = (1.0, 1.0078125, 1.375, 1.9921875, 3e-5, 448.0, 61440.0)
SPECIAL = (0.0, -0.0, torch.nan)
LARGEST = list(MAX.values())
# few of them a program, as the kernels have
GROUPS = 16


@triton.jit  # type: ignore[untyped-decorator]
def quotients_kernel(y_ptr, scale_ptr, out_ptr, OF: tl.constexpr, GROUPS: tl.constexpr, COLS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Divide each group of ``COLS`` by its scale, ``GROUPS`` of them a program."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)[:, None]
    at = group * COLS + tl.arange(0, COLS)[None, :]
    scale = tl.load(scale_ptr + group)
    tl.store(out_ptr + at, quotients(tl.load(y_ptr + at), scale, scale != float("inf"), OF))


@triton.jit  # type: ignore[untyped-decorator]
def scales_kernel(amax_ptr, out_ptr, FLOOR: tl.constexpr, FP8_MAX: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Compute the scales of 1,024 largest magnitudes a program."""
    at = tl.program_id(0).to(tl.int64) * 1024 + tl.arange(0, 1024)
    scale, finite = scales(tl.load(amax_ptr + at), FLOOR, FP8_MAX)
    # what is told of a scale is part of it
    tl.store(out_ptr + at, tl.where(finite == (scale != float("inf")), scale, -1.0))


def divided(y: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the kernels' quotients of ``y``, [groups, columns], on a CPU: numbers of ``dtype`` in fp32."""
    out = torch.empty(y.shape, device=DEVICE)
    y, scale = y.to(DEVICE), scale.to(DEVICE)
    groups = min(GROUPS, len(scale))
    assert len(scale) % groups == 0
    sizes = {"GROUPS": groups, "COLS": y.shape[1]}
    quotients_kernel[(len(scale) // groups,)](y, scale, out, OF=DTYPES[dtype], **sizes, enable_fp_fusion=False)
    return out.cpu()


def scales_of(amax: torch.Tensor, largest: float) -> torch.Tensor:
    """Return the scales of largest magnitudes, a multiple of 1,024 of them."""
    out = torch.empty(amax.shape, device=DEVICE)
    scales_kernel[(len(amax) // 1024,)](amax.to(DEVICE), out, FLOOR=FLOOR, FP8_MAX=largest, enable_fp_fusion=False)
    return out.cpu()


def same_bits(want: torch.Tensor, got: torch.Tensor) -> bool:
    """Return whether numbers are equal, with NaN in the same places; zeros must have equal signs."""
    return torch.equal(want.isnan(), got.isnan()) and torch.equal(
        want.nan_to_num(1.0).view(torch.int32), got.nan_to_num(1.0).view(torch.int32)
    )


@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_quotients_are_rounded_to_nearest(dtype: torch.dtype, largest: float) -> None:
    """Quotients have the bits of a division, for values of each dtype and their scales."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4096, 16, generator=generator).to(dtype).float()
    y[:, : len(ODD)] = torch.tensor(ODD)
    # of values whose fp8 form is not zero
    amax = (y.abs().amax(1) * (1 + torch.rand(4096, generator=generator))).to(dtype).float()
    scale = amax / largest

    assert same_bits(y / scale[:, None], divided(y, scale, dtype))


@pytest.mark.parametrize("largest", LARGEST)
def test_quotients_by_large_scales_are_rounded_to_nearest(largest: float) -> None:
    """Values that are fp32 are divided to nearest by scales past 2**105 too, unlike those of bf16."""
    generator = torch.Generator().manual_seed(0)
    y = torch.ldexp(1 + torch.rand(4096, 16, generator=generator), torch.tensor(125))
    scale = y.amax(1) * (1 + torch.rand(4096, generator=generator)) / largest

    assert same_bits(y / scale[:, None], divided(y, scale, torch.float32))


@pytest.mark.parametrize("largest", LARGEST)
def test_every_quotient_of_bf16_is_rounded_to_nearest(largest: float) -> None:
    """Every mantissa is divided by every mantissa, with an even and an odd exponent, and by the least scale."""
    mantissas = 1 + torch.arange(128) / 128
    scale = torch.cat([mantissas / largest, mantissas * 2 / largest])
    scale[0] = torch.tensor(FLOOR) / largest
    y = torch.cat([mantissas, -mantissas]).repeat(256, 1)

    assert same_bits(y / scale[:, None], divided(y, scale, torch.bfloat16))


@pytest.mark.parametrize("largest", LARGEST)
def test_no_quotient_of_bf16_is_near_the_middle_of_two_numbers(largest: float) -> None:
    """Midpoints are over 2**-40 of their size away; inexact reciprocals lose less than 2**-41."""
    amax = np.append(np.arange(128, 256, dtype=np.float32), np.float32(FLOOR))
    # whole numbers of 24 bits, and quotients as ones of 25, of which the odd ones are in the middle
    scale = (np.frexp(amax / np.float32(largest))[0] * 2.0**24).astype(np.int64)[:, None]
    y = np.arange(128, 256, dtype=np.int64) << 40
    y = np.where(y // scale < 2**24, 2 * y, y)
    assert ((2**24 <= y // scale) & (y // scale < 2**25)).all()
    middle = (y // scale | 1) * scale

    assert (abs(y - middle) > middle * 2.0**-40).all()


@pytest.mark.parametrize("dtype", MAX)
@pytest.mark.parametrize("exponent", [-34, 104, 112, 119, 120, 124, 127])
def test_every_value_is_the_one_of_a_division(exponent: int, dtype: torch.dtype) -> None:
    """Bf16 numbers over scales of all mantissas give right values, even if a quotient is off by one."""
    mantissas = (1 + torch.arange(128) / 128).double()
    amax = (mantissas * 2.0**exponent).float().clamp(min=FLOOR)[:, None]
    y = (mantissas * 2.0 ** (exponent - torch.arange(16.0).double()[:, None])).float().reshape(1, -1)
    y = torch.where(y > amax, 0.0, y)
    y = torch.cat([y, -y], 1)
    scale = amax[:, 0] / MAX[dtype]

    want, got = y / scale[:, None], divided(y, scale, torch.bfloat16)

    # neither is beyond the largest value by more than its last bit
    assert torch.equal(*(q.clamp(-MAX[dtype], MAX[dtype]).to(dtype).view(torch.uint8) for q in (want, got)))


@pytest.mark.parametrize("largest", LARGEST)
def test_scales_are_rounded_to_nearest(largest: float) -> None:
    """Scales are right for every exponent, for the floor and less, for infinity and for NaN."""
    generator = torch.Generator().manual_seed(0)
    amax = torch.ldexp(1 + torch.rand(1 << 16, generator=generator), torch.arange(1 << 16) % 254 - 126)
    amax[:6] = torch.tensor([0.0, 1e-45, FLOOR, torch.finfo().max, torch.inf, torch.nan])
    want = torch.where(amax < FLOOR, FLOOR, amax) / largest

    assert same_bits(want, scales_of(amax, largest))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("scale", "largest"), [(1e-10 / 448, 1e-12), (1.0, 448.0), (torch.inf, torch.inf), (torch.nan, 1.0)]
)
def test_zeros_infinities_and_nan_are_divided(scale: float, largest: float, dtype: torch.dtype) -> None:
    """Zeros keep their signs; the infinite scale of an infinite value makes finite values zero."""
    y = torch.tensor([[*SPECIAL, *ODD, largest, -largest, 1e-12, -1e-12, -3.0, -1.0]]).clamp(-largest, largest)
    y = y.to(dtype).float()

    assert same_bits(y / scale, divided(y, torch.tensor([scale]), dtype))
