"""Replacements for parts of Triton's interpreter, which compute on numbers in place of bits."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import numpy as np
import torch
import triton.language as tl
from torch.utils._mode_utils import no_dispatch
from triton.runtime import interpreter as shipped
from triton.runtime.errors import InterpreterError

from conformance.adapter import Unsupported, UsageError
from conformance.calls.watch import BACKWARDS
from conformance.interpreter import addresses, interned, launching, libdevice, recorded, rounding
from conformance.interpreter.gpu import Missing
from conformance.interpreter.rounding import FP8, RAW, Array

# Triton has no types: its dtypes, handles, tensors and functions are Any, here and below.
Dtype = Any
Handle = Any
Tensor = Any

_masked: ContextVar[str] = ContextVar("masked_loads", default="poison")
MASKED_LOADS = "CONFORMANCE_MASKED_LOADS"  # the environment variable for a whole run
FILLS = ("poison", "zero")


def fill_masked_loads(fill: str) -> Token[str]:
    """Choose the value of masked elements in loads without ``other``: ``poison`` or ``zero``.

    Triton leaves them undefined; its own interpreter gives zeros, which hides a kernel that adds them up.
    """
    if fill not in FILLS:
        raise UsageError(f"{MASKED_LOADS}={fill!r}, must be one of {', '.join(FILLS)}")
    return _masked.set(fill)


@contextmanager
def masked_loads(fill: Literal["poison", "zero"]) -> Iterator[None]:
    """Choose the value of masked elements in loads without ``other``, within the context."""
    token = fill_masked_loads(fill)
    try:
        yield
    finally:
        _masked.reset(token)


@cache
def poison(ty: Dtype) -> Any:
    """Return a value that must not show in any result: NaN, a large number, an unmapped address, or True."""
    if ty.is_floating():
        return rounding.encode(np.array(np.nan), ty)
    if ty.is_int1():
        return True
    bits = 64 if ty.is_ptr() else ty.primitive_bitwidth
    return int.from_bytes(b"\x5a" * (bits // 8), "little")


# the same for bools and for integers of one bit
BITWISE = frozenset({np.bitwise_and, np.bitwise_or, np.bitwise_xor})

# Each class below has an ignore because a subclass of an untyped class is an error in strict mode.


class FaithfulBuilder(shipped.InterpreterBuilder):  # type: ignore[misc]
    """The interpreter's operations, on numbers in place of bits."""

    # whether the load in progress was given a value for masked elements
    other_given = False

    def set_grid_idx(self, *place: int) -> None:
        """Begin the next program, or the one as far from the end, where programs run backwards."""
        if BACKWARDS.get():
            sizes: tuple[int, ...] = self.grid_dim
            place = tuple(size - 1 - at for at, size in zip(place, sizes, strict=True))
        super().set_grid_idx(*place)

    def cast_impl(self, src: Handle, dst_type: Dtype) -> Handle:
        """Convert any type to any other."""
        ty = dst_type.scalar
        if ty.name not in RAW and src.dtype.scalar.name not in RAW:
            return shipped.TensorHandle(src.data.astype(shipped._get_np_dtype(ty), copy=False), ty)
        return shipped.TensorHandle(rounding.encode(rounding.decode(src.data, src.dtype.scalar), ty), ty)

    def unary_op(self, arg: Handle, op: Callable[..., Array]) -> Handle:
        """Compute in fp32 and round once."""
        ty = arg.dtype.scalar
        if ty.name not in RAW:
            return super().unary_op(arg, op)
        return shipped.TensorHandle(rounding.encode(op(rounding.decode(arg.data, ty)), ty), ty)

    def binary_op(self, lhs: Handle, rhs: Handle, op: Callable[..., Array]) -> Handle:
        """Compute in fp32 and round once; a comparison gives int1, so that even a scalar one is a mask."""
        ty = lhs.dtype.scalar
        if op in BITWISE and lhs.data.dtype.kind == rhs.data.dtype.kind == "b":
            return shipped.TensorHandle(op(lhs.data, rhs.data), tl.int1)
        if ty.name not in RAW:
            result = super().binary_op(lhs, rhs, op)
            if result.data.dtype.kind == "b":
                result.dtype = tl.int1
            return result
        out = op(rounding.decode(lhs.data, ty), rounding.decode(rhs.data, rhs.dtype.scalar))
        if out.dtype == np.bool_:
            return shipped.TensorHandle(out, tl.int1)
        return shipped.TensorHandle(rounding.encode(out, ty), ty)

    def create_splat(self, ret_ty: Dtype, arg: Handle) -> Handle:
        """Fill a block; NumPy is slow to read the sizes of Triton's own tuple."""
        ty = arg.dtype.scalar
        filled = np.empty([*ret_ty.shape], shipped._get_np_dtype(ty))
        filled[...] = arg.data
        return shipped.TensorHandle(filled, ty)

    def create_broadcast(self, arg: Handle, shape: Any) -> Handle:
        """Repeat a block along its dimensions of one element; NumPy's own function is written in Python."""
        data: Array = arg.data
        if not data.flags.c_contiguous or data.ndim != len(shape):
            return super().create_broadcast(arg, shape)
        strides = [0 if size == 1 else stride for size, stride in zip(data.shape, data.strides, strict=True)]
        return shipped.TensorHandle(np.ndarray(shape, data.dtype, data, 0, strides), arg.dtype.scalar)

    def ternary_op(self, lhs: Handle, rhs: Handle, other: Handle, op: Callable[..., Array]) -> Handle:
        """Compute in fp32 and round once; ``where`` works on bits."""
        ty = other.dtype.scalar
        if ty.name not in RAW or op is np.where:
            return super().ternary_op(lhs, rhs, other, op)
        out = op(rounding.decode(lhs.data, ty), rounding.decode(rhs.data, ty), rounding.decode(other.data, ty))
        return shipped.TensorHandle(rounding.encode(out, ty), ty)

    def create_minnumf(self, lhs: Handle, rhs: Handle) -> Handle:
        """Return the number where the other is NaN (Triton 3.6 and 3.7 return NaN)."""
        return self.binary_op(lhs, rhs, np.fmin)

    def create_maxnumf(self, lhs: Handle, rhs: Handle) -> Handle:
        """Return the number where the other is NaN, as ``create_minnumf`` does."""
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
        a, b, addend = (rounding.decode(handle.data, ty).astype(np.float64) for handle in (x, y, z))
        product = a * b  # exact: twice 24 bits
        total = product + addend
        added = total - product
        error = (product - (total - added)) + (addend - added)
        return shipped.TensorHandle(rounding.encode(rounding.round_to_odd(total, error), ty), ty)

    def create_addptr(self, ptr: Handle, offset: Handle) -> Handle:
        """Add a number of elements to a pointer, with as few passes over the offsets as that takes."""
        width = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        offsets = offset.data
        offsets = offsets.view(np.uint64) if offsets.dtype == np.int64 else offsets.astype(np.uint64, copy=False)
        return shipped.TensorHandle(ptr.data + (offsets if width == 1 else width * offsets), ptr.dtype)

    def create_dot(self, a: Handle, b: Handle, d: Handle, *precision: Any) -> Handle:
        """Multiply in fp32."""
        if RAW.isdisjoint(handle.dtype.scalar.name for handle in (a, b, d)):
            return super().create_dot(a, b, d, *precision)
        left, right, addend = (rounding.decode(handle.data, handle.dtype.scalar) for handle in (a, b, d))
        total = np.matmul(left, right, dtype=np.float32) + addend
        return shipped.TensorHandle(rounding.encode(total, d.dtype.scalar), d.dtype.scalar)

    def get_bf16(self, value: float) -> Handle:
        """Return a scalar (missing before Triton 3.9)."""
        return shipped.TensorHandle(rounding.encode([value], tl.bfloat16), tl.bfloat16)

    def create_masked_load(self, ptrs: Handle, mask: Handle, other: Handle | None, *policy: Any) -> Handle:
        """Load; a masked element without a given value is undefined, so it is poison."""
        if other is None and not self.other_given and _masked.get() == "poison":
            ty = ptrs.get_element_ty()
            fill = np.full_like(ptrs.data, poison(ty), dtype=shipped._get_np_dtype(ty))
            other = shipped.TensorHandle(fill, ty)
        if other is not None:
            ty = ptrs.get_element_ty()
            loaded = addresses.load(ptrs.data, mask.data, other.data, shipped._get_np_dtype(ty))
            if loaded is not None:
                return shipped.TensorHandle(loaded, ty)
        return super().create_masked_load(ptrs, mask, other, *policy)

    def create_masked_store(self, ptrs: Handle, value: Handle, mask: Handle, *policy: Any) -> None:
        """Store the selected elements."""
        if not addresses.store(ptrs.data, value.data, mask.data):
            super().create_masked_store(ptrs, value, mask, *policy)

    def create_extern_elementwise(
        self, library: str, path: str, symbol: str, arguments: list[Handle], ty: Dtype, pure: Any
    ) -> Handle:
        """Call a library's function."""
        if libdevice.fuses(symbol):
            return self.create_fma(*arguments)
        numbers = [rounding.decode(handle.data, handle.dtype.scalar) for handle in arguments]
        return shipped.TensorHandle(libdevice.compute(symbol, numbers, ty.scalar), ty.scalar)

    def create_inline_asm(self, *given: Any) -> NoReturn:
        """Refuse inline assembly."""
        raise Unsupported("Triton's interpreter cannot run inline assembly")

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse operations that only the compiler has."""
        raise Missing(
            f"Triton's interpreter cannot run {name.removeprefix('create_')!r}: it has no such operation"
        )

    def get_fp8e4b8_ty(self) -> Dtype:
        """Return the type (missing before Triton 3.8)."""
        return tl.float8e4b8

    def get_fp8e5b16_ty(self) -> Dtype:
        """Return the type (missing before Triton 3.8)."""
        return tl.float8e5b16


class FaithfulSemantic(interned.ShortSemantic):
    """The language's rules, which distinguish a given zero for masked elements from no value."""

    def load(self, ptr: Tensor, mask: Tensor, other: Tensor | None, *policy: Any) -> Tensor:
        """Load; Triton asks whether ``other`` is true, which the interpreter's zero of one element is not."""
        self.builder.other_given = other is not None
        try:
            return super().load(ptr, mask, other, *policy)
        finally:
            self.builder.other_given = False


class FaithfulReduceOps(shipped.ReduceOps):  # type: ignore[misc]
    """Reductions of numbers in place of bits, in an order that does not depend on strides."""

    def sum(self, operand: Tensor) -> Tensor:
        """Add halves until one is left, each addition rounded to the type, as a tree of threads does."""
        ty = operand.dtype
        if not ty.is_floating():
            return super().sum(operand)
        values = rounding.decode(operand.handle.data, ty)
        rank, axis = values.ndim, self.axis
        if axis is None:
            values, axis = values.reshape(-1), 0
        lead = (slice(None),) * (axis % values.ndim)
        while (length := values.shape[axis]) > 1:
            values = values[(*lead, slice(length // 2))] + values[(*lead, slice(length // 2, None))]
            values = rounding.decode(rounding.encode(values, ty), ty) if ty.name in RAW else values
        if not self.keep_dims:
            values = values[(*lead, 0)]
        elif self.axis is None:
            values = values.reshape((1,) * rank)
        return self.to_tensor(rounding.encode(values, ty), ty)

    def min_max(self, operand: Tensor, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        """Return the extreme, its index, or both; NaN is returned only if all elements are NaN."""
        operand = operand[0] if isinstance(operand, tuple) else operand
        ty = operand.dtype
        values = rounding.decode(operand.handle.data, ty)
        found = []
        if val_reduce_op:
            # not np.nanmax: it warns, as Python does and not as NumPy, when all are NaN
            extreme = np.fmax if val_reduce_op in {np.max, np.nanmax} else np.fmin
            value = extreme.reduce(values, axis=self.axis, keepdims=self.keep_dims)
            found.append(self.to_tensor(rounding.encode(value, ty), ty))
        if idx_reduce_op:
            index = idx_reduce_op(values, axis=self.axis, keepdims=self.keep_dims)
            found.append(self.to_tensor(index, tl.int32))
        return tuple(found) if len(found) == 2 else found[0]


class FaithfulExecutor(shipped.GridExecutor):  # type: ignore[misc]
    """Executor of a launch: hidden from dispatch modes around the caller, on the caller's own memory."""

    grid: Any

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run every program."""
        grid = self.grid
        if callable(grid):
            # a grid gets the arguments as given, as in a launch, where the interpreter has made tensors of them
            named = {name: value for name, value in kwargs.items() if name in self.arg_names}
            grid = grid(interned.call_arguments(self.fn, *args, **named))
        self.grid = tuple(map(operator.index, grid))
        try:
            # errstate: where NumPy warns (an exp that overflows, 0 * inf), a GPU is silent.
            with no_dispatch(), np.errstate(all="ignore"):
                super().__call__(*args, **kwargs)
        except InterpreterError as error:
            reason = launching.unsupported(error)
            if reason is None:
                raise
            raise Unsupported(reason) from error

    def _init_args_hst(self, args_dev: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass arguments on the CPU without a copy: memory next to a tensor may be unreadable, or read-only."""
        if _on_cpu((*args_dev, *kwargs.values())):
            return args_dev, kwargs
        return super()._init_args_hst(args_dev, kwargs)

    def _restore_args_dev(self, args_dev: Any, args_hst: Any, kwargs: Any, kwargs_hst: Any) -> None:
        if args_hst is not args_dev:
            super()._restore_args_dev(args_dev, args_hst, kwargs, kwargs_hst)


def _on_cpu(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return all(map(_on_cpu, argument))
    tensor = getattr(argument, "base", argument)  # the base of a descriptor, or of a tensor with another dtype
    return not isinstance(tensor, torch.Tensor) or tensor.device.type == "cpu"


shipped_implicit_cvt: Any = getattr(shipped, "_implicit_cvt", None)


def implicit_cvt(argument: Any) -> Any:
    """Pass a float as fp32, as a launch does, where the interpreter keeps Python's 64 bits."""
    if isinstance(argument, float):
        return tl.tensor(shipped.interpreter_builder.get_fp32(argument), tl.float32)
    if type(argument) is int:
        return interned.integer(argument, shipped_implicit_cvt)
    return shipped_implicit_cvt(argument)


def index(scalar: Tensor) -> int:
    """Return the integer that bounds a loop (Triton 3.6: its scalars have a dimension, NumPy 2.4 refuses them)."""
    return int(scalar.handle.data.item())


# Replacements by name in triton.runtime.interpreter. A class replaces the methods that it defines.
REPLACEMENTS: dict[str, Any] = {
    "InterpreterBuilder": FaithfulBuilder,
    "ReduceOps": FaithfulReduceOps,
    "GridExecutor": FaithfulExecutor,
    "_convert_float": rounding.convert_float,
    "_implicit_cvt": implicit_cvt,
}
ADDED = {"__getattr__", "other_given", "get_bf16", "get_fp8e4b8_ty", "get_fp8e5b16_ty"}


def patch_language_for_good() -> None:
    """Patch ``triton.language`` once for all: patching at each launch costs more than the launch."""
    patch_language()
    shipped_to_ir = tl.dtype.to_ir

    def to_ir(ty: Dtype, builder: Any) -> Any:
        # Triton 3.6 and 3.7 do not have these two types
        return getattr(builder, f"get_{ty.name}_ty")() if ty.name in FP8 else shipped_to_ir(ty, builder)

    tl.dtype.to_ir = to_ir
    tl.tensor.__index__ = recorded.reading(index)
    tl.tensor.__bool__ = recorded.reading(tl.tensor.__bool__)
    nothing_to_restore = shipped._LangPatchScope()
    shipped._patch_lang = lambda _fn: nothing_to_restore


def patch_language() -> Any:
    """Patch the language's functions to interpret; return the scope that restores them."""
    return shipped._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))


def install() -> None:
    """Replace the interpreter's own parts."""
    for name, replacement in REPLACEMENTS.items():
        setattr(shipped, name, replacement)
    shipped.interpreter_builder.__class__ = FaithfulBuilder
    shipped.interpreter_semantic.__class__ = FaithfulSemantic
