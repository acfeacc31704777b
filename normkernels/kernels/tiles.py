"""Tiles of rows: where their elements lie in tensors with up to three leading sizes and any strides.

``ACCESS`` names the three ways to reach them that deserve code of their own:

- ``strided``: some column stride is not one;
- ``unit``: all are one;
- ``aligned``: so are they, and every row of every tensor begins at a multiple of 16 bytes.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

# bytes that a thread can load or store at once
ALIGNMENT = 16


# Any: Triton has no types
def kernel(function: Callable[..., None]) -> Any:
    """Make a Triton kernel that is compiled for its constexprs and dtypes alone.

    ``triton.jit`` would compile it for every mixture of strides that are one or divisible by 16, of row counts
    that are, and of pointers that are aligned.
    """
    free = [name for name in inspect.signature(function).parameters if name not in function.__annotations__]
    return triton.jit(do_not_specialize=free)(function)


@triton.jit
def all_at_once(TOGETHER: tl.constexpr):
    """Return true: what is loaded under it is ``TOGETHER`` loaded before anything waits for it.

    For no compiler knows that it is true. In straight code ptxas moves the load of the weight behind arithmetic
    that waits for x and for the residual; out of a branch it moves nothing, for 10 more instructions a thread.
    """
    # grids have one dimension, or two
    return tl.num_programs(2) == 1 if TOGETHER else True


@triton.jit
def rows_of(
    within,  # [rows, 1] int32, below ROWS
    n_rows,
    ROWS: tl.constexpr,
):
    """Return the rows of a program, and which of them there are: of one row it always is there.

    They are uint32, unless n_rows needs 64 bits: a product with a stride is then one instruction, and a quotient
    a few. Rows that are not there may have any number.
    """
    first = tl.program_id(0).to(n_rows.dtype) * ROWS
    row = first + within
    there = within < n_rows - first if ROWS > 1 else tl.full([1, 1], 1, tl.int1)
    return row.to(tl.uint32) if n_rows.dtype == tl.int32 else row, there


@triton.jit
def strided(count, stride):
    """Return ``count * stride`` in int64, which tensors that fit in memory may need; no stride is negative."""
    if stride.dtype == tl.int32:
        stride = stride.to(tl.uint32)
    return count.to(tl.int64) * stride.to(tl.int64)


@triton.jit
def outer_rows(
    row,  # [rows, 1] uint32, below 2**31 where it is there, or int64
    size_2,
    size_2_inverse,  # what ``inverse`` returns for size_2; the shift likewise
    size_2_shift,
    LEADING: tl.constexpr,
):
    """Return ``row // size_2``, of rows of 32 bits by a product: a GPU divides in 20 instructions.

    With one leading size nobody needs it.
    """
    outer = row
    if LEADING > 1:
        if row.dtype == tl.uint32:
            outer = tl.umulhi(row * 2, size_2_inverse.to(tl.uint32)) >> size_2_shift.to(tl.uint32)
        else:
            outer = row // size_2.to(row.dtype)
    return outer


@triton.jit
def tile_pointers(
    ptr,
    row,  # [rows, 1] uint32 or int64
    outer,  # what ``outer_rows`` returns for it
    cols,  # [1, columns] int64
    size_1,
    size_2,
    stride_0,
    stride_1,
    stride_2,
    col_stride,
    LEADING: tl.constexpr,
    ACCESS: tl.constexpr,
    FP8_AT_ONCE: tl.constexpr = 8,
):
    """Return pointers to ``cols`` of each row of a tensor with ``LEADING`` leading sizes, the last innermost."""
    if LEADING == 1:
        offset = strided(row, stride_2)
    else:
        offset = strided(row - outer * size_2.to(row.dtype), stride_2)
        if LEADING == 2:
            offset += strided(outer, stride_1)
        elif LEADING == 3:
            middle = size_1.to(row.dtype)
            offset += strided(outer % middle, stride_1) + strided(outer // middle, stride_0)
        else:
            tl.static_assert(False, "unhandled LEADING")
    return column_pointers(ptr + offset, cols, col_stride, ACCESS, FP8_AT_ONCE)


@triton.jit
def column_pointers(
    ptr,  # [rows, 1], or one pointer
    cols,  # [1, columns] int64
    col_stride,
    ACCESS: tl.constexpr,
    FP8_AT_ONCE: tl.constexpr = 8,
):
    """Return pointers to the ``cols`` from ``ptr`` on, of fp8 so many that a thread has ``FP8_AT_ONCE``."""
    pointers = ptr + strided(cols, col_stride) if ACCESS == "strided" else ptr + cols
    if ACCESS == "aligned":
        # bytes: of an address, not of a number of elements. Of fp8 eight, unless it pays: a thread that stores
        # sixteen loads as many of a wider type, apart from its neighbour's
        BYTES: tl.constexpr = FP8_AT_ONCE if ptr.dtype.element_ty.primitive_bitwidth == 8 else 16
        pointers = tl.multiple_of(pointers, [1, BYTES])
    return pointers
