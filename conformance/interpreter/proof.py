"""Proof that this process's interpreter computes as hardware does: exhaustive, in half a second."""

import operator
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any
from warnings import catch_warnings

import numpy as np
import torch
import triton
import triton.language as tl
from torch.utils._mode_utils import no_dispatch
from triton.runtime import interpreter as shipped
from triton.runtime.errors import InterpreterError

from conformance.interpreter import faithful, rounding
from conformance.interpreter.faithful import (
    ADDED,
    FaithfulBuilder,
    FaithfulExecutor,
    FaithfulReduceOps,
    FaithfulSemantic,
)
from conformance.interpreter.rounding import Array

# Triton has no types: its dtypes and tensors are Any.
Dtype = Any
Tensor = Any

# The code of the largest number of each type; in the types of INFINITE, infinity is the next code.
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


# Name, number of operands, operation in a kernel (a name is looked up once the language is patched), operation in
# fp64.
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
    """Return why low precision cannot be judged in this process, or None; computed once."""
    failed = self_test()
    if not failed:
        return None
    return f"Triton's interpreter does not compute as hardware does: {', '.join(failed)}"


def self_test() -> tuple[str, ...]:
    """Return the names of failed checks, none where the interpreter is faithful. Takes half a second."""
    return (*_missing(), *_failing({**_casts(), **_operators(), **_reductions()}))


def cast_test() -> tuple[str, ...]:
    """Return the names of failed checks of casts alone: every value and midpoint, and the numbers next to both."""
    return _failing(_casts())


def _missing() -> Iterator[str]:
    """Yield the parts that this Triton does not have, so that a replacement would have no effect."""
    if rounding.shipped_convert_float is None:
        yield "_convert_float is missing"
    if faithful.shipped_implicit_cvt is None:
        yield "_implicit_cvt is missing"
    for replacement in (FaithfulBuilder, FaithfulSemantic, FaithfulReduceOps, FaithfulExecutor):
        for method in sorted(vars(replacement).keys() - ADDED):
            if not hasattr(replacement.__base__, method):
                yield f"{replacement.__base__.__name__}.{method} is missing"


def _failing(checks: dict[str, Callable[[], bool]]) -> tuple[str, ...]:
    scope = faithful.patch_language()
    try:
        with (
            no_dispatch(),
            np.errstate(all="ignore"),
            rounding.fp8_overflow("saturate"),
            catch_warnings(action="error"),
        ):
            return tuple(name for name, holds in checks.items() if not _survives(holds))
    finally:
        scope.restore()


def _survives(holds: Callable[[], bool]) -> bool:
    try:
        return holds()
    except (AttributeError, LookupError, TypeError, ValueError, InterpreterError, RuntimeWarning):
        return False  # errors and warnings of Triton versions without a feature


# The reference: a sorted table of every number of a type, made from the definition of the type.


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
    """Return the midpoints between each number and the next, as if one more number followed the last."""
    finite = _numbers(ty)[: LARGEST[ty] + 1]
    return np.append((finite[:-1] + finite[1:]) / 2, finite[-1] + (finite[-1] - finite[-2]) / 2)


def _nearest(values: Array, ty: Dtype) -> Array:
    """Round to nearest even by search. 16-bit types overflow to infinity, fp8 saturates; NumPy rounds to fp32."""
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
    """Compare numbers, where NaN equals NaN; with ``zeros``, compare the signs of zeros as well."""
    equal = (got == want) & ((np.signbit(got) == np.signbit(want)) | (not zeros))
    return got.shape == want.shape and bool(np.all(equal | (np.isnan(got) & np.isnan(want))))


# Operands go in and results come out as Triton's tensors, so that its own promotions are judged as well.


def _tensor(data: Array, ty: Dtype) -> Tensor:
    return tl.tensor(shipped.TensorHandle(data, ty), tl.block_type(ty, list(data.shape)))


def _vector(data: Array, ty: Dtype) -> Tensor:
    """Return a tensor of data repeated from the start up to a power of two, the length of a block."""
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
    """Check casts of numbers, ties, the source's numbers next to both, infinity and NaN: all, of both signs."""
    finite = np.append(_numbers(ty)[: LARGEST[ty] + 1], _ties(ty)).astype(shipped._get_np_dtype(source))
    up, down = (np.nextafter(finite, finite.dtype.type(end)) for end in (np.inf, -np.inf))
    edges = np.concatenate([finite, up, down, np.array([1e30, np.inf, np.nan], finite.dtype)])
    values = _vector(np.concatenate([edges, -edges]), source)
    want = _nearest(_results(values).astype(np.float64), ty)
    return _same(_results(values, ty), want, zeros=True)


def _extends(ty: Dtype) -> bool:
    return _same(_results(_tensor(_codes(ty), ty), tl.float32), _numbers(ty), zeros=True)


def _converts(ty: Dtype) -> bool:
    """Check small integers, and large ones closer to a tie of bf16 than fp32 can resolve."""
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
        "argument has its annotation's type": _types_arguments,
        "bf16 dot": _multiplies,
    }


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _thrice(out_ptr: Any, long: tl.int64, short: Any, exact_ptr: Any, exact: tl.float64) -> None:
    """Store a product past 32 bits, of a number that is annotated with 64 bits, and of one that is not."""
    tl.store(out_ptr, 3 * long)
    tl.store(out_ptr + 1, 3 * short)
    tl.store(exact_ptr, exact)


def _types_arguments() -> bool:
    out, exact = torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    _thrice[(1,)](out, 2**30, 2**30, exact, 0.1)
    return [*out.tolist(), *exact.tolist()] == [3 * 2**30, 3 * 2**30 - 2**32, 0.1]


@cache
def _operands(ty: Dtype) -> tuple[Tensor, ...]:
    """Return 65,536 triples: any bits, then numbers of similar size, some of them equal; for fp8, every pair."""
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
    """Check the sum of neighbours: one step of a tree that a kernel writes itself."""
    block, numbers = _block(tl.float32)
    pairs = tl.reshape(block, (16, 32, 2))
    return _same(_results(tl.sum(pairs, axis=2)), numbers[:, ::2] + numbers[:, 1::2])


def _finds_extremes(ty: Dtype, axis: int | None) -> bool:
    """Check that NaN is ignored, except in a row and a column of NaN alone."""
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
