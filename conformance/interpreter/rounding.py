"""Numbers and their bits: the conversions of Triton's interpreter, each rounded once, to nearest even."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from triton.runtime import interpreter as shipped

# Triton has no types: its dtypes are Any.
Dtype = Any
Array = npt.NDArray[Any]

# NumPy has none of these, so the interpreter holds their bits in unsigned integers.
FP8 = {
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
    "fp8e4b8": torch.float8_e4m3fnuz,
    "fp8e5b16": torch.float8_e5m2fnuz,
}
RAW = {"bf16", *FP8}
# The largest fp32 number that still rounds to a number, and the code of larger ones: NaN or infinity.
# Not left to PyTorch, whose own cast to e4m3fn saturates in some versions.
PAST = {
    torch.float8_e4m3fn: (464.0, 0x7F),
    torch.float8_e5m2: (np.nextafter(np.float32(61440), np.float32(0)), 0x7C),
    torch.float8_e4m3fnuz: (np.nextafter(np.float32(248), np.float32(0)), 0x80),
    torch.float8_e5m2fnuz: (np.nextafter(np.float32(61440), np.float32(0)), 0x80),
}

_overflow: ContextVar[str] = ContextVar("fp8_overflow", default="saturate")


@contextmanager
def fp8_overflow(mode: Literal["saturate", "nan"]) -> Iterator[None]:
    """Choose the result of a cast to fp8 for a number past the largest one.

    NVIDIA's conversion saturates. ``nan`` gives NaN, or infinity where the type has one: only this mode shows a
    kernel that forgets to clamp.
    """
    token = _overflow.set(mode)
    try:
        yield
    finally:
        _overflow.reset(token)


def decode(data: Array, ty: Dtype) -> Array:
    """Return the numbers that bits of ``ty`` encode; data of other types are numbers already."""
    if ty.name == "bf16":
        return np.asarray((data.astype(np.uint32) << 16).view(np.float32))
    if ty.name in FP8:
        return np.asarray(_fp8_numbers(ty.name)[data])
    return data


@cache
def _fp8_numbers(name: str) -> Array:
    return torch.arange(256, dtype=torch.uint8).view(FP8[name]).float().numpy()


def encode(numbers: npt.ArrayLike, ty: Dtype) -> Array:
    """Round numbers to ``ty``, once, to nearest even; the bits where the interpreter holds bits."""
    values: Array = np.asarray(numbers)
    if ty.name not in RAW:
        return values.astype(shipped._get_np_dtype(ty), copy=False)
    if values.dtype.kind in "iu":
        values = values.astype(np.float64)  # integers are rounded once, too: NVIDIA's cvt.rn.bf16.s32
    single = values.astype(np.float32)
    if values.dtype == np.float64:
        single = round_to_odd(single, values - single)
    if ty.name == "bf16":
        bits = single.view(np.uint32)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(single), np.uint16(0x7FC0), rounded)
    return _encode_fp8(single, FP8[ty.name])


def _encode_fp8(single: Array, dtype: torch.dtype) -> Array:
    limit = torch.finfo(dtype).max
    clipped = np.array(np.clip(single, -limit, limit), order="C")  # leaves NaN
    codes = torch.from_numpy(clipped).to(dtype).view(torch.uint8).numpy().reshape(single.shape)
    if _overflow.get() == "saturate":
        return codes
    last, past = PAST[dtype]
    signed = past | np.signbit(single).astype(np.uint8) << 7
    return np.where(np.abs(single) > last, signed, codes).astype(np.uint8)


def round_to_odd(rounded: Array, error: Array) -> Array:
    """Round to odd, so that a second rounding is correct.

    ``rounded`` was rounded to nearest, and ``error`` is the part that rounding removed. An inexact result becomes
    the neighbour whose last bit is odd, which is never a tie of a narrower type.
    """
    even = rounded.view(f"u{rounded.itemsize}") & 1 == 0
    inexact = (error != 0) & np.isfinite(rounded) & np.isfinite(error)
    towards = np.copysign(np.inf, error).astype(rounded.dtype)
    return np.where(even & inexact, np.nextafter(rounded, towards), rounded)


shipped_convert_float: Any = getattr(shipped, "_convert_float", None)


def convert_float(data: Array, source: Dtype, target: Dtype, rounding_mode: Any) -> Array:
    """Convert between floating types, returning bits. Without a mode: to nearest even."""
    if "fp8e4b15" in {source.name, target.name}:  # known to Triton alone
        return np.asarray(shipped_convert_float(data, source, target, rounding_mode))
    values = decode(data, source)
    codes = encode(values, target)
    bits = codes.view(f"u{codes.itemsize}")
    if rounding_mode == shipped._ir.ROUNDING_MODE.RTZ:
        # Formats are sign and magnitude: one code less is the next number towards zero.
        bits = bits - (np.abs(decode(codes, target)) > np.abs(values)).astype(bits.dtype)
    return bits
