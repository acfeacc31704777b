"""The comparison of outputs with intervals as one Triton kernel, with the numbers of ``comparison.stepwise``.

In PyTorch each of its sixty steps is a kernel that reads and writes all elements. The arithmetic is that of the
steps, in float64 and without fusion, so that the numbers have the same bits.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import torch

from conformance.oracle.contract import EXPONENT
from conformance.oracle.histogram import BIAS, BINS, LEAST, MANTISSA, MOST
from conformance.oracle.interval import Interval
from conformance.oracle.kernels.compare import compare_kernel

BLOCK = 1024
# a power of two, as Triton's histograms have; elements past the end are counted in the last bin
ROOM = 64
# a sum with it is rounded to an integer, and the sum with its product by a power of two to a multiple of that
TO_INTEGER = 1.5 * 2.0**52


@functools.cache
def _constants(dtype: torch.dtype) -> dict[str, Any]:
    """Return the kernel's arguments about a dtype."""
    if not dtype.is_floating_point:
        whole = torch.iinfo(dtype)
        return {
            "KIND": "integer",
            "FLOATING": False,
            "LOWEST": float(whole.min),
            "LARGEST": float(whole.max),
            "SMALLEST": 0.0,
            "EPS": 0.0,
            "CARRIER": TO_INTEGER,
        }
    info = torch.finfo(dtype)
    return {
        "KIND": "float32" if dtype == torch.float32 else "fp8" if dtype.itemsize == 1 else "float",
        "FLOATING": True,
        "LOWEST": -info.max,
        "LARGEST": info.max,
        "SMALLEST": info.smallest_normal,
        "EPS": info.eps,
        "CARRIER": TO_INTEGER * info.eps,
    }


def numbers(output: torch.Tensor, before_store: Interval, narrow: float) -> list[float]:
    """Return the numbers of ``comparison.stepwise``, whose constant ``narrow`` is."""
    # float32 holds every number of the others, some of which Triton does not have on every GPU
    got = output.float().contiguous()
    lo, hi = (end.expand(got.shape).contiguous() for end in (before_store.lo, before_store.hi))
    missing = before_store.missing
    there = got if missing is None else missing.expand(got.shape).contiguous().view(torch.uint8)
    out = torch.zeros(3 + 2 * ROOM, dtype=torch.int64, device=got.device)
    compare_kernel[(-(-got.numel() // BLOCK),)](
        got,
        lo,
        hi,
        there,
        out,
        got.numel(),
        MISSING=missing is not None,
        **_constants(output.dtype),
        NARROW=narrow,
        EXPONENT=EXPONENT,
        LEAST=2.0**LEAST,
        MOST=2.0**MOST,
        MANTISSA=MANTISSA,
        ORIGIN=BIAS + LEAST,
        RIGHT=-LEAST - 1,
        ROOM=ROOM,
        BLOCK=BLOCK,
        enable_fp_fusion=False,
    )
    within, one, share, *counts = out.tolist()
    (needed,) = struct.unpack("<d", struct.pack("<q", share))
    return [within, one, needed, *counts[:BINS], *counts[ROOM : ROOM + BINS]]
