"""The sigmoid of the gated kernels, computed without a division, is as accurate as the formula's steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from conformance.oracle.arithmetic import MIN_NORMAL, Machine, U
from conformance.oracle.interval import Interval
from conformance.package.calls.tensors import DEVICE
from normkernels.kernels.rms_norm_gated import sigmoid

# a program has so many
COLS = 4096
# of their results: ex2.approx and rsqrt.approx (PTX ISA)
EXP2, RSQRT = 2.0**-22, 2.0**-22.9
EDGES = (0.0, 1e-45, 1e-38, 1.0, 16.0, 87.33, 87.34, 88.0, 88.72, 88.73, 100.0, 103.0, 104.0, 126.0, 1e4, 3e38)


@triton.jit  # type: ignore[untyped-decorator]
def sigmoid_kernel(x_ptr, out_ptr, COLS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Take ``COLS`` sigmoids a program."""
    at = tl.program_id(0).to(tl.int64) * COLS + tl.arange(0, COLS)
    tl.store(out_ptr + at, sigmoid(tl.load(x_ptr + at)))


def of_kernel(z: torch.Tensor) -> torch.Tensor:
    """Return the kernels' sigmoid of fp32 numbers, computed on a CPU."""
    x = torch.nn.functional.pad(z, (0, -len(z) % COLS)).to(DEVICE)
    out = torch.empty_like(x)
    sigmoid_kernel[(len(x) // COLS,)](x, out, COLS=COLS, enable_fp_fusion=False)
    return out.cpu()[: len(z)]


def dense() -> torch.Tensor:
    """Return numbers of both signs: 4,096 per exponent from 2**-30 to 2**7, one per other one, and the edges."""
    steps = 1 + torch.arange(4096) / 4096
    small = torch.ldexp(torch.ones(97), torch.arange(-126, -29))
    positive = torch.cat([*(steps * 2.0**power for power in range(-30, 7)), small, torch.tensor(EDGES)])
    return torch.cat([positive, -positive])


def allowed(z: torch.Tensor, *, flushes: bool = False) -> Interval:
    """Return the results that the steps of ``1 / (1 + exp(-z))`` may give."""
    return Machine(flushes=flushes).sigmoid(Interval.exactly(z.double()))


def at_worst(z: torch.Tensor, exp2: float, rsqrt: float, *, flushes: bool) -> torch.Tensor:
    """Return the sigmoid of a GPU whose instructions have these relative errors; other steps are rounded."""
    z32 = z.numpy()
    with np.errstate(over="ignore"):
        exponent = (np.abs(z32) * -np.float32(math.log2(math.e))).astype(np.float64)
    e = (np.exp2(exponent) * (1 + exp2)).astype(np.float32)
    if flushes:
        e = np.where(e < MIN_NORMAL, np.float32(0), e)
    d = np.float32(1) + e
    root = 1 / np.sqrt((d * d).astype(np.float64)) * (1 + rsqrt)
    # not rounded itself, or it would be off less, or more
    return torch.from_numpy((np.where(z32 < 0, e, np.float32(1)) * root).astype(np.float32))


def test_sigmoids_are_what_the_steps_of_the_formula_may_give() -> None:
    """On this run's device every exponent, and numbers past both ends, are within bounds."""
    z = dense()

    assert allowed(z).contains(of_kernel(z).double()).all()


def test_sigmoids_of_a_cpu_are_nearer() -> None:
    """Within 16 of zero the error is at most 4 U and 1.25 U per unit of distance, half of the bound."""
    z = dense()
    z = z[z.abs() <= 16]
    true = 1 / (1 + torch.exp(-z.double()))
    off = (of_kernel(z).double() - true).abs() / true

    assert (off <= (4 + 1.25 * z.abs()) * U).all()


@pytest.mark.parametrize("flushes", [False, True])
@pytest.mark.parametrize("exp2", [-EXP2, 0.0, EXP2])
@pytest.mark.parametrize("rsqrt", [-RSQRT, 0.0, RSQRT])
def test_sigmoids_of_the_worst_gpu_are_what_the_steps_may_give(exp2: float, rsqrt: float, flushes: bool) -> None:  # noqa: FBT001
    """The bounds hold with both instructions at their worst, with and without flushed subnormal powers."""
    z = dense()

    assert allowed(z).contains(at_worst(z, exp2, rsqrt, flushes=flushes).double()).all()


def test_a_worse_root_would_be_noticed() -> None:
    """Another 2**-22.9 is out of bounds: the numbers above come as near to the bounds as claimed."""
    z = dense()

    assert not allowed(z).contains(at_worst(z, EXP2, 2 * RSQRT, flushes=False).double()).all()


def test_ends_and_nan() -> None:
    """Sigmoids are exact at infinity and a half at zeros of both signs; NaN stays NaN."""
    z = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, 1e4, -1e4, torch.nan, -torch.nan])

    # a GPU takes a half from its approximate rsqrt, which may be off by RSQRT; zero, one and NaN are exact
    torch.testing.assert_close(
        of_kernel(z),
        torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0, 0.0, torch.nan, torch.nan]),
        rtol=RSQRT,
        atol=0.0,
        equal_nan=True,
    )
