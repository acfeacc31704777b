"""The kernel that compares outputs has the numbers of the steps in PyTorch, of every dtype and kind of number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conformance.oracle import comparison
from conformance.oracle.comparison import NARROW, stepwise
from conformance.oracle.interval import Interval
from conformance.package.calls.tensors import DEVICE
from conformance.selftest.every import every

pytest.importorskip("triton")

DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.int8,
)
SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 5e-324], dtype=torch.float64)
# more than one block, the last of which is not full
SHAPE = (30, 50)


def sets(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ends of intervals of all widths and numbers in them; special numbers anywhere."""
    generator = torch.Generator().manual_seed(seed)

    def spread(least: int, most: int) -> torch.Tensor:
        return torch.randint(least, most, SHAPE, generator=generator).double()

    middle = torch.randn(SHAPE, generator=generator).double()
    middle *= torch.where(torch.rand(SHAPE, generator=generator) < 0.5, 10.0 ** spread(-45, 40), 30.0)
    half = middle.abs() * 2.0 ** spread(-40, 0) * (torch.rand(SHAPE, generator=generator) < 0.8)
    got = middle + half * (2 * torch.rand(SHAPE, generator=generator).double() - 1)
    ends = [middle - half, middle + half]
    for tensor in (*ends, got):
        places = torch.randint(tensor.numel(), (40,), generator=generator)
        tensor.view(-1)[places] = SPECIAL[torch.randint(len(SPECIAL), (40,), generator=generator)]
    return torch.minimum(*ends), torch.maximum(*ends), got


def stored(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return values in a dtype; those that only saturate do."""
    if not dtype.is_floating_point:
        return values.nan_to_num(0.0).clamp(-128, 127).round().to(dtype)
    return values.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)


def fused(output: torch.Tensor, interval: Interval) -> list[float]:
    """Return the numbers of the kernel; the interpreter warns where float64 does what IEEE says."""
    from conformance.oracle.fused import numbers

    with np.errstate(all="ignore"):
        return numbers(output, interval, NARROW)


@every("dtype", DTYPES)
def test_the_kernel_has_the_numbers_of_the_steps(dtype: torch.dtype) -> None:
    """With and without NaN allowed, of intervals with two ends and with one, which all rows may share."""
    lo, hi, got = (each.to(DEVICE) for each in sets(dtype.itemsize))
    output, missing = stored(got, dtype), lo > 0
    two, one = torch.stack((lo, hi)), lo[None]
    for ends in (two, one, two[:, :1]):
        for nan in (None, missing, missing[:1]):
            interval = Interval.of(ends.expand(-1, *SHAPE), nan)
            assert stepwise(output, interval) == fused(output, interval)
            if ends.shape[1] == 1:
                flat = Interval.of(ends, nan)
                assert stepwise(output, interval) == fused(output, flat)


def test_outputs_of_any_strides_are_compared() -> None:
    """Columns, rows apart, and one number for all."""
    lo, hi, got = (each.to(DEVICE) for each in sets(9))
    for output in (got.half().t().contiguous().t(), got.half()[:, :1].expand(SHAPE), got.half()):
        interval = Interval.of(torch.stack((lo, hi)), None)
        assert stepwise(output, interval) == fused(output, interval)


@every("dtype", [torch.float64, torch.int32])
def test_what_float32_does_not_hold_is_compared_step_by_step(dtype: torch.dtype) -> None:
    """The kernel reads outputs as float32."""
    assert not comparison.fusible(dtype)


def test_a_gpu_without_triton_takes_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle needs PyTorch alone."""
    monkeypatch.setattr(comparison, "fusible", lambda _: False)
    lo, hi, got = sets(1)
    interval = Interval.of(torch.stack((lo, hi)), None)
    assert stepwise(got, interval) == comparison.numbers(got.as_subclass(_OnAGpu), interval)


class _OnAGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True
