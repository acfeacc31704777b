"""Tiles of rows: pointers to their elements in tensors with up to three leading sizes and any strides.

The constexpr ``ACCESS`` says how rows may be accessed:

- ``strided``: some column stride is not one;
- ``unit``: every column stride is one;
- ``aligned``: every column stride is one, and every row of every tensor begins at a multiple of 16 bytes.

Signatures of kernels have a line for each tensor (``fmt: skip``): with a line for each parameter they are longer
than the kernels.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


# Any: Triton has no types
def kernel(function: Callable[..., None]) -> Any:
    """Make a Triton kernel that is compiled once per set of constexprs and dtypes.

    ``triton.jit`` alone would also compile it for each combination of strides and row counts that are one or
    multiples of 16, and of aligned pointers.
    """
    free = [name for name in inspect.signature(function).parameters if name not in function.__annotations__]
    return triton.jit(do_not_specialize=free)(function)


@triton.jit
def all_at_once(TOGETHER: tl.constexpr):
    """Return true. With ``TOGETHER`` the compiler cannot know it, so that loads in the branch are issued together.

    In straight-line code ptxas moves the load of the weight behind arithmetic that waits for x and the residual.
    ptxas moves nothing out of a branch, which costs 10 more instructions a thread.
    """
    # grids have one dimension, or two
    return tl.num_programs(2) == 1 if TOGETHER else True


@triton.jit
def program_rows(within, n_rows, ROWS: tl.constexpr):  # within [rows, 1] int32, below ROWS
    """Return the row numbers of a program and the mask of existing rows (always true for one row a program).

    Row numbers are uint32, unless ``n_rows`` needs 64 bits: a product with a stride is then one instruction, and a
    quotient takes few. The numbers of rows that do not exist are arbitrary.
    """
    first = tl.program_id(0).to(n_rows.dtype) * ROWS
    row = first + within
    exists = within < n_rows - first if ROWS > 1 else tl.full([1, 1], 1, tl.int1)
    return row.to(tl.uint32) if n_rows.dtype == tl.int32 else row, exists


@triton.jit
def row_tile(n_rows, WIDTH: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr):
    """Return the rows of a program, the columns of a row padded to ``2**LEVELS``, and the mask of the tile."""
    row, exists = program_rows(tl.arange(0, ROWS)[:, None], n_rows, ROWS)
    # int64: column * stride passes 2**31 on tensors that fit in memory
    cols = tl.arange(0, 2**LEVELS)[None, :].to(tl.int64)
    return row, cols, exists & (cols < WIDTH)


@triton.jit
def strided(count, stride):
    """Return ``count * stride`` in int64, which tensors that fit in memory may need; no stride is negative."""
    if stride.dtype == tl.int32:
        stride = stride.to(tl.uint32)
    return count.to(tl.int64) * stride.to(tl.int64)


@triton.jit
def outer_rows(row, size_2, size_2_inverse, size_2_shift, LEADING: tl.constexpr):
    """Return ``row // size_2``; with one leading size the result is unused.

    ``row`` is [rows, 1]: uint32, below 2**31 where it exists, or int64. 32-bit rows are divided by a product with
    ``size_2_inverse`` and a shift, because a division takes a GPU 20 instructions.
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
    strides,  # (stride_0, stride_1, stride_2, col_stride)
    place,  # (row, ``outer_rows`` of row, cols, size_1, size_2): row [rows, 1], cols [1, columns] int64
    LEADING: tl.constexpr,
    ACCESS: tl.constexpr,
    FP8_AT_ONCE: tl.constexpr = 8,
):
    """Return pointers to the tile of a tensor with ``LEADING`` leading sizes, of which the last is innermost."""
    stride_0, stride_1, stride_2, col_stride = strides
    row, outer, cols, size_1, size_2 = place
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
def column_pointers(ptr, cols, col_stride, ACCESS: tl.constexpr, FP8_AT_ONCE: tl.constexpr = 8):
    """Return pointers to columns of ``ptr``, aligned so that a thread moves ``FP8_AT_ONCE`` fp8 values at once.

    ``ptr`` is one pointer, or [rows, 1]; ``cols`` is [1, columns] int64.
    """
    pointers = ptr + strided(cols, col_stride) if ACCESS == "strided" else ptr + cols
    if ACCESS == "aligned":
        # tl.multiple_of takes bytes here. Eight are the default for fp8, because a thread that stores sixteen fp8
        # values also loads sixteen of a wider type, which are not next to its neighbour's
        BYTES: tl.constexpr = FP8_AT_ONCE if ptr.dtype.element_ty.primitive_bitwidth == 8 else 16
        pointers = tl.multiple_of(pointers, [1, BYTES])
    return pointers
