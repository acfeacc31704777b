"""The quotients of fp8 values, which are made without a division each, are those of a division."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from conformance.package.gated_calls import DEVICE
from normkernels.kernels.quantise import quotients

# mantissas, magnitudes and signs whose quotients are seldom exact; and what has rules of its own
ODD = (1.0, 1.0078125, 1.375, 1.9921875, 3e-5, 448.0, 61440.0)
SPECIAL = (0.0, -0.0, torch.nan)


# A few of them a program, as the kernels have.
GROUPS = 16


@triton.jit  # type: ignore[untyped-decorator]
def quotients_kernel(y_ptr, scale_ptr, out_ptr, n_groups, GROUPS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Divide each of ``n_groups`` groups of 16 by its scale."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)[:, None]
    at = group * 16 + tl.arange(0, 16)[None, :]
    mask = group < n_groups
    y = tl.load(y_ptr + at, mask=mask, other=0.0)
    tl.store(out_ptr + at, quotients(y, tl.load(scale_ptr + group, mask=mask, other=1.0)), mask=mask)


def divided(y: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return what the kernel makes of ``y``, [groups, 16]: launched as the package launches its own."""
    y, scales = y.to(DEVICE), scales.to(DEVICE)
    out, programs = torch.empty_like(y), triton.cdiv(len(scales), GROUPS)
    quotients_kernel[(programs,)](y, scales, out, len(scales), GROUPS=GROUPS, enable_fp_fusion=False)
    return out.cpu()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_quotients_are_rounded_to_nearest(dtype: torch.dtype) -> None:
    """Bit for bit what division gives, for values of each dtype and scales of every exponent that they have."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4096, 16, generator=generator).to(dtype).float()
    y[:, : len(ODD)] = torch.tensor(ODD)
    # of values whose fp8 form is not zero
    scales = y.abs().amax(1) / 448 * (1 + torch.rand(4096, generator=generator))

    assert torch.equal((y / scales[:, None]).view(torch.int32), divided(y, scales).view(torch.int32))


@pytest.mark.parametrize(
    ("scale", "largest"), [(1e-10 / 448, 1e-12), (1.0, 448.0), (torch.inf, torch.inf), (torch.nan, 1.0)]
)
def test_zeros_infinities_and_nan_are_divided(scale: float, largest: float) -> None:
    """Zeros keep their signs; an infinite scale, which infinite values have, makes zeros of those that are not."""
    y = torch.tensor([[*SPECIAL, *ODD, largest, -largest, 1e-12, -1e-12, -3.0, -1.0]]).clamp(-largest, largest)
    want = y / scale
    got = divided(y, torch.tensor([scale]))

    assert torch.equal(want.isnan(), got.isnan())
    assert torch.equal(want[~want.isnan()].view(torch.int32), got[~got.isnan()].view(torch.int32))
