"""Makes Triton's CPU interpreter round as a GPU does, and proves it.

As shipped, the interpreter keeps bf16 and fp8 as raw bits and mostly computes on those bits: it truncates
where hardware rounds, and adds codes where hardware adds numbers. Here the classes it is made of are
subclassed: bits are decoded to numbers first, and encoded last, rounded once to nearest even.

It stays installed: a process that interprets never compiles. Import this only where Triton is installed.
"""

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Literal
from warnings import catch_warnings

import numpy as np
import numpy.typing as npt
import torch
import triton.language as tl
from torch.utils._mode_utils import no_dispatch
from triton.runtime import interpreter as shipped
from triton.runtime.errors import InterpreterError

from conformance import interned

# Triton has no types: its dtypes, handles, tensors and functions are Any, here and below.
Dtype = Any
Handle = Any
Tensor = Any
Array = npt.NDArray[Any]

# NumPy has none of these, so the interpreter holds their bits in unsigned integers.
FP8 = {
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
    "fp8e4b8": torch.float8_e4m3fnuz,
    "fp8e5b16": torch.float8_e5m2fnuz,
}
RAW = {"bf16", *FP8}
# The largest fp32 number that still rounds to a number, and the code of what comes after: NaN or infinity.
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
    """Choose what a cast to fp8 makes of a number past the largest one.

    NVIDIA's conversion saturates. ``nan`` gives NaN, or infinity where the type has one: only there is a
    kernel seen that forgets to clamp.
    """
    token = _overflow.set(mode)
    try:
        yield
    finally:
        _overflow.reset(token)


# --- numbers and bits ---------------------------------------------------------------------------------------


def decode(data: Array, ty: Dtype) -> Array:
    """Return the numbers that bits of ``ty`` stand for; data of other types are numbers already."""
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
        return values.astype(shipped._get_np_dtype(ty))
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
    """Turn results rounded to nearest into such that may be rounded again as if they were exact.

    ``error`` is what rounding took away. An inexact result becomes the one of the two neighbours whose last
    bit is odd, so that it is never a tie of a narrower type.
    """
    even = rounded.view(f"u{rounded.itemsize}") & 1 == 0
    inexact = (error != 0) & np.isfinite(rounded) & np.isfinite(error)
    towards = np.copysign(np.inf, error).astype(rounded.dtype)
    return np.where(even & inexact, np.nextafter(rounded, towards), rounded)


_shipped_convert_float: Any = getattr(shipped, "_convert_float", None)


def convert_float(data: Array, source: Dtype, target: Dtype, rounding_mode: Any) -> Array:
    """Convert between floating types, returning bits. Without a mode: to nearest even."""
    if "fp8e4b15" in {source.name, target.name}:  # known to Triton alone
        return np.asarray(_shipped_convert_float(data, source, target, rounding_mode))
    values = decode(data, source)
    codes = encode(values, target)
    bits = codes.view(f"u{codes.itemsize}")
    if rounding_mode == shipped._ir.ROUNDING_MODE.RTZ:
        # Formats are sign and magnitude: one code less is the next number towards zero.
        bits = bits - (np.abs(decode(codes, target)) > np.abs(values)).astype(bits.dtype)
    return bits


# --- what is replaced ---------------------------------------------------------------------------------------

# Why each class below has an ignore: a subclass of what has no types is an error in strict mode.


class FaithfulBuilder(shipped.InterpreterBuilder):  # type: ignore[misc]
    """The interpreter's operations, on numbers in place of bits."""

    def cast_impl(self, src: Handle, dst_type: Dtype) -> Handle:
        """Convert anything to anything."""
        ty = dst_type.scalar
        return shipped.TensorHandle(encode(decode(src.data, src.dtype.scalar), ty), ty)

    def unary_op(self, arg: Handle, op: Callable[..., Array]) -> Handle:
        """Compute in fp32 and round once."""
        ty = arg.dtype.scalar
        if ty.name not in RAW:
            return super().unary_op(arg, op)
        return shipped.TensorHandle(encode(op(decode(arg.data, ty)), ty), ty)

    def binary_op(self, lhs: Handle, rhs: Handle, op: Callable[..., Array]) -> Handle:
        """Compute in fp32 and round once; a comparison gives int1, so that even a scalar one is a mask."""
        ty = lhs.dtype.scalar
        if ty.name not in RAW:
            result = super().binary_op(lhs, rhs, op)
            if result.data.dtype == np.bool_:
                result.dtype = tl.int1
            return result
        out = op(decode(lhs.data, ty), decode(rhs.data, rhs.dtype.scalar))
        if out.dtype == np.bool_:
            return shipped.TensorHandle(out, tl.int1)
        return shipped.TensorHandle(encode(out, ty), ty)

    def ternary_op(self, lhs: Handle, rhs: Handle, other: Handle, op: Callable[..., Array]) -> Handle:
        """Compute in fp32 and round once; a choice is right on bits."""
        ty = other.dtype.scalar
        if ty.name not in RAW or op is np.where:
            return super().ternary_op(lhs, rhs, other, op)
        out = op(decode(lhs.data, ty), decode(rhs.data, ty), decode(other.data, ty))
        return shipped.TensorHandle(encode(out, ty), ty)

    def create_minnumf(self, lhs: Handle, rhs: Handle) -> Handle:
        """Return the number where the other is NaN (Triton 3.6 and 3.7 return NaN)."""
        return self.binary_op(lhs, rhs, np.fmin)

    def create_maxnumf(self, lhs: Handle, rhs: Handle) -> Handle:
        """As ``create_minnumf``."""
        return self.binary_op(lhs, rhs, np.fmax)

    def create_clampf(self, arg: Handle, lo: Handle, hi: Handle, propagate_nans: Any) -> Handle:
        """Clamp NaN to ``lo`` unless told to keep it (Triton 3.6 and 3.7 keep it)."""
        if propagate_nans == shipped._ir.PROPAGATE_NAN.NONE:
            return self.create_minnumf(self.create_maxnumf(arg, lo), hi)
        return super().create_clampf(arg, lo, hi, propagate_nans)

    def create_fma(self, x: Handle, y: Handle, z: Handle) -> Handle:
        """Multiply and add with one rounding (Triton 3.6 to 3.8: two)."""
        ty = z.dtype.scalar
        if ty.name not in {"fp16", "fp32", *RAW}:
            return super().create_fma(x, y, z)
        a, b, addend = (decode(handle.data, ty).astype(np.float64) for handle in (x, y, z))
        product = a * b  # exact: twice 24 bits
        total = product + addend
        added = total - product
        error = (product - (total - added)) + (addend - added)
        return shipped.TensorHandle(encode(round_to_odd(total, error), ty), ty)

    def create_dot(self, a: Handle, b: Handle, d: Handle, *precision: Any) -> Handle:
        """Multiply in fp32."""
        if RAW.isdisjoint(handle.dtype.scalar.name for handle in (a, b, d)):
            return super().create_dot(a, b, d, *precision)
        left, right, addend = (decode(handle.data, handle.dtype.scalar) for handle in (a, b, d))
        total = np.matmul(left, right, dtype=np.float32) + addend
        return shipped.TensorHandle(encode(total, d.dtype.scalar), d.dtype.scalar)

    def get_bf16(self, value: float) -> Handle:
        """Return a scalar (missing before Triton 3.9)."""
        return shipped.TensorHandle(encode([value], tl.bfloat16), tl.bfloat16)

    def get_fp8e4b8_ty(self) -> Dtype:
        """Return the type (missing before Triton 3.8)."""
        return tl.float8e4b8

    def get_fp8e5b16_ty(self) -> Dtype:
        """Return the type (missing before Triton 3.8)."""
        return tl.float8e5b16


class FaithfulReduceOps(shipped.ReduceOps):  # type: ignore[misc]
    """Reductions of numbers in place of bits, in an order that does not depend on strides."""

    def sum(self, operand: Tensor) -> Tensor:
        """Add halves until one is left, each addition rounded to the type, as a tree of threads does."""
        ty = operand.dtype
        if not ty.is_floating():
            return super().sum(operand)
        values = decode(operand.handle.data, ty)
        rank, axis = values.ndim, self.axis
        if axis is None:
            values, axis = values.reshape(-1), 0
        lead = (slice(None),) * (axis % values.ndim)
        while (length := values.shape[axis]) > 1:
            values = values[(*lead, slice(length // 2))] + values[(*lead, slice(length // 2, None))]
            values = decode(encode(values, ty), ty) if ty.name in RAW else values
        if not self.keep_dims:
            values = values[(*lead, 0)]
        elif self.axis is None:
            values = values.reshape((1,) * rank)
        return self.to_tensor(encode(values, ty), ty)

    def min_max(self, operand: Tensor, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        """Return the extreme, its index, or both; NaN counts only where there is nothing else."""
        operand = operand[0] if isinstance(operand, tuple) else operand
        ty = operand.dtype
        values = decode(operand.handle.data, ty)
        found = []
        if val_reduce_op:
            # not np.nanmax: it warns, as Python does and not as NumPy, when all are NaN
            extreme = np.fmax if val_reduce_op in {np.max, np.nanmax} else np.fmin
            value = extreme.reduce(values, axis=self.axis, keepdims=self.keep_dims)
            found.append(self.to_tensor(encode(value, ty), ty))
        if idx_reduce_op:
            index = idx_reduce_op(values, axis=self.axis, keepdims=self.keep_dims)
            found.append(self.to_tensor(index, tl.int32))
        return tuple(found) if len(found) == 2 else found[0]


class FaithfulExecutor(shipped.GridExecutor):  # type: ignore[misc]
    """Runs the programs of a launch: unseen by whoever watches the caller, on the caller's own memory."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run every program."""
        # errstate: where NumPy warns (an exp that overflows, 0 * inf), a GPU is silent.
        with no_dispatch(), np.errstate(all="ignore"):
            super().__call__(*args, **kwargs)

    def _init_args_hst(self, args_dev: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass on what the CPU can address: memory may be unreadable beside, or read-only."""
        if _on_cpu((*args_dev, *kwargs.values())):
            return args_dev, kwargs
        return super()._init_args_hst(args_dev, kwargs)

    def _restore_args_dev(self, args_dev: Any, args_hst: Any, kwargs: Any, kwargs_hst: Any) -> None:
        if args_hst is not args_dev:
            super()._restore_args_dev(args_dev, args_hst, kwargs, kwargs_hst)


def _on_cpu(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return all(map(_on_cpu, argument))
    tensor = getattr(argument, "base", argument)  # of a descriptor, or of a tensor with another dtype
    return not isinstance(tensor, torch.Tensor) or tensor.device.type == "cpu"


_shipped_implicit_cvt: Any = getattr(shipped, "_implicit_cvt", None)


def implicit_cvt(argument: Any) -> Any:
    """Pass a float as fp32, as a launch does, where the interpreter keeps Python's 64 bits."""
    if isinstance(argument, float):
        return tl.tensor(shipped.interpreter_builder.get_fp32(argument), tl.float32)
    return _shipped_implicit_cvt(argument)


def index(scalar: Tensor) -> int:
    """Return the integer that bounds a loop (Triton 3.6: its scalars have a dimension, NumPy 2.4 refuses them)."""
    return int(scalar.handle.data.item())


# What replaces what, by its name in triton.runtime.interpreter. A class replaces the methods that it defines.
REPLACEMENTS: dict[str, Any] = {
    "InterpreterBuilder": FaithfulBuilder,
    "ReduceOps": FaithfulReduceOps,
    "GridExecutor": FaithfulExecutor,
    "_convert_float": convert_float,
    "_implicit_cvt": implicit_cvt,
}
ADDED = {"get_bf16", "get_fp8e4b8_ty", "get_fp8e5b16_ty"}


@cache
def install() -> None:
    """Replace what the interpreter is made of, once; needs ``TRITON_INTERPRET=1`` from the start."""
    interpreting = isinstance(tl.sum, shipped.InterpretedFunction)
    if not interpreting:
        raise RuntimeError(
            "interpreter.install: TRITON_INTERPRET must be 1 before triton is imported for the first time, "
            f"is now {os.environ.get('TRITON_INTERPRET')!r}"
        )
    for name, replacement in REPLACEMENTS.items():
        setattr(shipped, name, replacement)
    shipped.interpreter_builder.__class__ = FaithfulBuilder
    interned.install()
    _patch_language_for_good()


def _patch_language_for_good() -> None:
    """Patch ``triton.language`` now and never again: at each launch it costs more than the launch."""
    _patch_language()
    shipped_to_ir = tl.dtype.to_ir

    def to_ir(ty: Dtype, builder: Any) -> Any:
        # Triton 3.6 and 3.7 do not know these two
        return getattr(builder, f"get_{ty.name}_ty")() if ty.name in FP8 else shipped_to_ir(ty, builder)

    tl.dtype.to_ir = to_ir
    tl.tensor.__index__ = index
    nothing_to_restore = shipped._LangPatchScope()
    shipped._patch_lang = lambda _fn: nothing_to_restore


def _patch_language() -> Any:
    """Return the scope that restores it."""
    return shipped._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))


# --- the proof ----------------------------------------------------------------------------------------------

# The code of the largest number of each type; in the first three types, infinity is the next.
LARGEST = {
    tl.bfloat16: 0x7F7F,
    tl.float16: 0x7BFF,
    tl.float8e5: 0x7B,
    tl.float8e4nv: 0x7E,
    tl.float8e4b8: 0x7F,
    tl.float8e5b16: 0x7F,
}
INFINITE = {tl.bfloat16, tl.float16, tl.float8e5}
HALVES = (tl.bfloat16, tl.float16)
FP8_TYPES = (tl.float8e5, tl.float8e4nv, tl.float8e4b8, tl.float8e5b16)
NO_MINUS_ZERO = {tl.float8e4b8, tl.float8e5b16}  # its code is their NaN


# Name, number of operands, what a kernel writes (a name is looked up once the language is patched), what it
# means in fp64.
OPERATORS = (
    ("+", 2, operator.add, np.add),
    ("*", 2, operator.mul, np.multiply),
    ("<", 2, operator.lt, np.less),
    ("==", 2, operator.eq, np.equal),
    ("-", 2, operator.sub, np.subtract),
    ("/", 2, operator.truediv, np.divide),
    ("negate", 1, operator.neg, np.negative),
    ("abs", 1, "abs", np.abs),
    ("minimum", 2, "minimum", np.fmin),
    ("maximum", 2, "maximum", np.fmax),
    ("clamp", 3, "clamp", lambda x, low, high: np.fmin(np.fmax(x, low), high)),
    ("clamp with NaN", 3, lambda *xyz: tl.clamp(*xyz, propagate_nan=tl.PropagateNan.ALL), np.clip),
    ("where", 3, lambda x, y, z: tl.where(x >= y, x, z), lambda x, y, z: np.where(x >= y, x, z)),
    ("fma", 3, "fma", lambda x, y, z: x * y + z),
)
OPERATORS_OF_FP8 = OPERATORS[:4]
# Type, operands, result: sums that are a tie but for a tiny addend, or that cancel but for the last bit.
FUSED = (
    (tl.bfloat16, (7, 37, -(2**-100)), 258),
    (tl.bfloat16, (7, 37, 2**-100), 260),
    (tl.float16, (1 + 2**-6, 1 + 2**-6, -1 - 2**-5), 2**-12),
    (tl.float32, (1 + 2**-12, 1 + 2**-12, -1 - 2**-11), 2**-24),
    (tl.float32, (1 + 2**-12, 1 + 2**-12, 2**-100), 1 + 2**-11 + 2**-23),
)


@cache
def unfaithful() -> str | None:
    """Return why low precision cannot be judged in this process, or None; found out once."""
    failed = self_test()
    if not failed:
        return None
    return f"Triton's interpreter does not compute as hardware does: {', '.join(failed)}"


def faithful() -> bool:
    """Say whether low precision can be judged in this process; found out once."""
    return unfaithful() is None


def self_test() -> tuple[str, ...]:
    """Return the names of what fails, nothing where the interpreter is faithful. Takes half a second."""
    return (*_missing(), *_failing({**_casts(), **_operators(), **_reductions()}))


def cast_test() -> tuple[str, ...]:
    """Judge the casts alone: every value, every midpoint, the numbers next to both. Takes a tenth of that."""
    return _failing(_casts())


def _missing() -> Iterator[str]:
    """Name what this Triton does not have, so that replacing it replaces nothing."""
    if _shipped_convert_float is None:
        yield "_convert_float is missing"
    if _shipped_implicit_cvt is None:
        yield "_implicit_cvt is missing"
    for replacement in (FaithfulBuilder, FaithfulReduceOps, FaithfulExecutor):
        for method in sorted(vars(replacement).keys() - ADDED):
            if not hasattr(replacement.__base__, method):
                yield f"{replacement.__base__.__name__}.{method} is missing"


def _failing(checks: dict[str, Callable[[], bool]]) -> tuple[str, ...]:
    scope = _patch_language()
    try:
        with (
            no_dispatch(),
            np.errstate(all="ignore"),
            fp8_overflow("saturate"),
            catch_warnings(action="error"),
        ):
            return tuple(name for name, holds in checks.items() if not _survives(holds))
    finally:
        scope.restore()


def _survives(holds: Callable[[], bool]) -> bool:
    try:
        return holds()
    except (AttributeError, LookupError, TypeError, ValueError, InterpreterError, RuntimeWarning):
        return False  # how Triton's versions refuse what they do not know, or comment on it


# The reference: every number of a type in a sorted table, made from the definition of the type.


@cache
def _numbers(ty: Dtype) -> Array:
    """Return the number of every code of a type."""
    sign, one = 1 << (ty.primitive_bitwidth - 1), 1 << ty.fp_mantissa_width
    exponent, fraction = np.divmod(np.arange(sign), one)
    significand = np.where(exponent == 0, fraction, fraction + one)
    magnitude = np.ldexp(significand, np.maximum(exponent, 1) - ty.exponent_bias - ty.fp_mantissa_width)
    magnitude[LARGEST[ty] + 1 :] = np.nan
    if ty in INFINITE:
        magnitude[LARGEST[ty] + 1] = np.inf
    numbers = np.concatenate([magnitude, -magnitude])
    if ty in NO_MINUS_ZERO:
        numbers[sign] = np.nan
    return numbers


@cache
def _ties(ty: Dtype) -> Array:
    """Return what lies half way between each number and the next, as if there were one after the last."""
    finite = _numbers(ty)[: LARGEST[ty] + 1]
    return np.append((finite[:-1] + finite[1:]) / 2, finite[-1] + (finite[-1] - finite[-2]) / 2)


def _nearest(values: Array, ty: Dtype) -> Array:
    """Round to nearest even by search. Halves overflow to infinity, fp8 saturates; fp32 is NumPy's."""
    if ty == tl.float32:
        return values.astype(np.float32)
    magnitude, ties = np.abs(values), _ties(ty)
    code = np.searchsorted(ties, magnitude, side="left")
    code += (code % 2 == 1) & (ties[np.minimum(code, LARGEST[ty])] == magnitude)
    code = np.minimum(code, LARGEST[ty] + (ty in HALVES))
    signed = np.copysign(_numbers(ty)[code], values)
    signed = signed + 0.0 if ty in NO_MINUS_ZERO else signed
    return np.where(np.isnan(values), np.nan, signed)


def _same(got: Array, want: Array, *, zeros: bool = False) -> bool:
    """Compare numbers, where NaN is NaN; with ``zeros``, the signs of zeros as well."""
    equal = (got == want) & ((np.signbit(got) == np.signbit(want)) | (not zeros))
    return got.shape == want.shape and bool(np.all(equal | (np.isnan(got) & np.isnan(want))))


# Operands go in and results come out as Triton's tensors, so that its own promotions are judged as well.


def _tensor(data: Array, ty: Dtype) -> Tensor:
    return tl.tensor(shipped.TensorHandle(data, ty), tl.block_type(ty, list(data.shape)))


def _vector(data: Array, ty: Dtype) -> Tensor:
    """Repeat from the start up to a power of two, as a block must have."""
    return _tensor(np.resize(data, 1 << (data.size - 1).bit_length()), ty)


def _results(tensor: Tensor, ty: Dtype | None = None) -> Array:
    """Return the numbers in a tensor, after a cast to ``ty``; decoded by the table."""
    tensor = tensor if ty is None else tensor.to(ty)
    data: Array = tensor.handle.data
    return _numbers(tensor.dtype)[data.view(f"u{data.itemsize}")] if tensor.dtype in LARGEST else data


def _codes(ty: Dtype) -> Array:
    """Return all codes of a type, as the interpreter holds them."""
    every = np.arange(1 << ty.primitive_bitwidth, dtype=f"u{ty.primitive_bitwidth // 8}")
    return every.view(shipped._get_np_dtype(ty))


def _casts() -> dict[str, Callable[[], bool]]:
    return {
        **{f"fp32 to {ty}": partial(_rounds, tl.float32, ty) for ty in LARGEST},
        **{f"{ty} to fp32": partial(_extends, ty) for ty in LARGEST},
        **{f"int32 to {ty}": partial(_converts, ty) for ty in HALVES},
        # closer to a tie than fp32 can tell
        "fp64 to bf16": partial(_rounds, tl.float64, tl.bfloat16),
    }


def _rounds(source: Dtype, ty: Dtype) -> bool:
    """Every number, every tie, the source's numbers next to them, and what is not finite, of both signs."""
    finite = np.append(_numbers(ty)[: LARGEST[ty] + 1], _ties(ty)).astype(shipped._get_np_dtype(source))
    up, down = (np.nextafter(finite, finite.dtype.type(end)) for end in (np.inf, -np.inf))
    edges = np.concatenate([finite, up, down, np.array([1e30, np.inf, np.nan], finite.dtype)])
    values = _vector(np.concatenate([edges, -edges]), source)
    want = _nearest(_results(values).astype(np.float64), ty)
    return _same(_results(values, ty), want, zeros=True)


def _extends(ty: Dtype) -> bool:
    return _same(_results(_tensor(_codes(ty), ty), tl.float32), _numbers(ty), zeros=True)


def _converts(ty: Dtype) -> bool:
    """Small integers, and large ones closer to a tie of bf16 than fp32 can tell."""
    ties = _ties(tl.bfloat16)
    large = ties[(ties > 1 << 16) & (ties < 1 << 30)].astype(np.int32)
    integers = np.concatenate([np.arange(-(1 << 15), 1 << 15, dtype=np.int32), large + 1, large - 1, 1 - large])
    values = _vector(integers, tl.int32)
    return _same(_results(values, ty), _nearest(_results(values).astype(np.float64), ty))


def _operators() -> dict[str, Callable[[], bool]]:
    return {
        **{f"{ty} {row[0]}": partial(_computes, ty, *row) for ty in HALVES for row in OPERATORS},
        **{f"{ty} {row[0]}": partial(_computes, ty, *row) for ty in FP8_TYPES for row in OPERATORS_OF_FP8},
        **{f"{ty} to int32": partial(_truncates, ty) for ty in HALVES},
        "fma rounds once": lambda: all(_fuses(*row) for row in FUSED),
        "scalar < is int1": _compares_to_int1,
        "float argument is fp32": lambda: bool(shipped._implicit_cvt(0.1).dtype == tl.float32),
        "bf16 dot": _multiplies,
    }


@cache
def _operands(ty: Dtype) -> tuple[Tensor, ...]:
    """Return 65,536 triples: any bits, then numbers of like size, some of them equal; of fp8, every pair."""
    codes, random = _codes(ty), np.random.default_rng(0)
    if ty in FP8_TYPES:
        x, y = (grid.reshape(-1) for grid in np.meshgrid(codes, codes))
        return _tensor(x, ty), _tensor(y, ty), _tensor(y, ty)
    near_one = codes[np.abs(np.log2(np.abs(_numbers(ty)))) < 8]
    drawn = [(random.permutation(codes)[::2], random.choice(near_one, 1 << 15)) for _ in range(3)]
    x, y, z = map(np.concatenate, drawn)
    y[::8] = x[::8]
    return _tensor(x, ty), _tensor(y, ty), _tensor(z, ty)


def _computes(ty: Dtype, name: str, arity: int, written: Any, exact: Callable[..., Any]) -> bool:
    operands = _operands(ty)[:arity]
    numbers = [_results(operand).astype(np.float64) for operand in operands]
    run = getattr(tl, written) if isinstance(written, str) else written
    got, want = run(*operands), exact(*numbers)
    if want.dtype == np.bool_:
        return got.dtype == tl.int1 and _same(got.handle.data, want)
    judged = np.True_
    if name == "fma":  # fp64 holds every product but not every sum; FUSED judges what it does not hold
        product = numbers[0] * numbers[1]
        judged = (want - numbers[2] == product) & (want - product == numbers[2])
    return _same(np.where(judged, _results(got, ty), 0), np.where(judged, _nearest(want, ty), 0))


def _truncates(ty: Dtype) -> bool:
    values = _operands(ty)[0]
    numbers = _results(values).astype(np.float64)
    judged = np.abs(numbers) < 2**31
    return _same(_results(values, tl.int32)[judged], np.trunc(numbers[judged]))


def _fuses(ty: Dtype, operands: tuple[float, ...], want: float) -> bool:
    x, y, z = (_tensor(np.array([number], np.float32), tl.float32).to(ty) for number in operands)
    return _same(_results(tl.fma(x, y, z), tl.float32), np.array([want], np.float32))


def _compares_to_int1() -> bool:
    three, four = (tl.tensor(shipped.interpreter_builder.get_int32(number), tl.int32) for number in (3, 4))
    return bool((three < four).handle.dtype == tl.int1)


def _multiplies() -> bool:
    numbers = np.arange(256, dtype=np.float32).reshape(16, 16) % 7 - 3
    x = _tensor(numbers, tl.float32).to(tl.bfloat16)
    return _same(_results(tl.dot(x, x)), numbers @ numbers)


def _reductions() -> dict[str, Callable[[], bool]]:
    cases = [(ty, axis) for ty in (tl.float32, *HALVES) for axis in (0, 1, None)]
    return {
        **{f"{ty} sum over axis {axis}": partial(_adds_halves, ty, axis) for ty, axis in cases},
        **{f"{ty} extremes over axis {axis}": partial(_finds_extremes, ty, axis) for ty, axis in cases},
        **{f"{ty} argmax over axis {axis}": partial(_finds_places, ty, axis) for ty, axis in cases if axis},
        "fp32 sum of pairs": _adds_pairs,
    }


def _block(ty: Dtype) -> tuple[Tensor, Array]:
    """Return a block whose sums depend on their order, and its numbers."""
    random = np.random.default_rng(0)
    numbers = random.standard_normal((16, 64)) * 2.0 ** random.integers(-6, 6, (16, 64))
    block = _tensor(numbers.astype(np.float32), tl.float32).to(ty)
    return block, _results(block)


def _adds_halves(ty: Dtype, axis: int | None) -> bool:
    block, numbers = _block(ty)
    total = numbers.reshape(-1, 1) if axis is None else np.moveaxis(numbers, axis, 0)
    while len(total) > 1:
        low, high = np.split(total, 2)
        total = _nearest(low + high, ty)
    kept = total.reshape((1, 1) if axis is None else np.expand_dims(total[0], axis).shape)
    return _same(_results(tl.sum(block, axis=axis)), total[0]) and _same(
        _results(tl.sum(block, axis=axis, keep_dims=True)), kept
    )


def _adds_pairs() -> bool:
    """Neighbours: the step of a tree that a kernel writes itself."""
    block, numbers = _block(tl.float32)
    pairs = tl.reshape(block, (16, 32, 2))
    return _same(_results(tl.sum(pairs, axis=2)), numbers[:, ::2] + numbers[:, 1::2])


def _finds_extremes(ty: Dtype, axis: int | None) -> bool:
    """NaN is passed over, but for a row and a column that have nothing else."""
    numbers = _block(ty)[1].astype(np.float32)
    numbers[2, :] = numbers[:, 3] = np.nan
    block = _tensor(numbers, tl.float32).to(ty)
    kept = numbers.reshape(-1, 1) if axis is None else np.moveaxis(numbers, axis, 0)
    return all(
        _same(_results(find(block, axis=axis)), want.reduce(kept))
        for find, want in ((tl.max, np.fmax), (tl.min, np.fmin))
    )


def _finds_places(ty: Dtype, axis: int) -> bool:
    block, numbers = _block(ty)
    value, index = tl.max(block, axis=axis, return_indices=True)
    return _same(_results(value), np.max(numbers, axis)) and _same(_results(index), np.argmax(numbers, axis))
