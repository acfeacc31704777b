"""The rows of a program, and their quotients by the innermost leading size, computed without a division."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from conformance.package.calls.tensors import DEVICE
from normkernels.kernels.tiles import kernel, outer_rows, program_rows, strided
from normkernels.operations.rows import inverse

ROWS = 2**31  # one more than the last that has 32 bits
# small ones, heads of models, primes, both neighbours of powers of two, and all that fit
SIZES = [1, 2, 3, 5, 7, 24, 32, 36, 641, 1000, 4095, 4096, 4097, 65537, 10**6 + 3, 2**30 - 1, 2**30 + 1, ROWS - 1]
BLOCK = 4096


@kernel
def outer_kernel(row_ptr, out_ptr, size, size_inverse, size_shift, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write the quotients of ``BLOCK`` rows a program."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(row_ptr + at)
    row = row if WIDE else row.to(tl.uint32)
    tl.store(out_ptr + at, outer_rows(row, size, size_inverse, size_shift, 2).to(tl.int64))


@kernel
def rows_kernel(out_ptr, exists_ptr, n_rows, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write the offsets of the first ``BLOCK`` rows of ``ROWS`` a program, and which exist."""
    within = tl.arange(0, BLOCK)[:, None]
    row, exists = program_rows(within, n_rows, ROWS)
    at = tl.program_id(0) * BLOCK + within
    tl.store(out_ptr + at, strided(row, stride))
    tl.store(exists_ptr + at, exists.to(tl.int8))


def edges(size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the rows where a quotient begins and those before them: all, or the first and last of many."""
    count = (ROWS - 1) // size
    few = 2**20
    quotients = np.arange(1, count + 1) if count <= 2 * few else np.r_[1:few, count - few : count + 1]
    rows = quotients * size
    return np.concatenate([[0, ROWS - 1], rows - 1, rows])


def products(row: np.ndarray[tuple[int], np.dtype[np.int64]], size: int) -> np.ndarray[tuple[int], Any]:
    """Return the quotients of rows as a kernel computes them."""
    multiplier, shift = inverse(size)
    high = (2 * row.astype(np.uint64) * np.uint64(multiplier + 2**32)) >> np.uint64(32)
    return np.asarray(high >> np.uint64(shift))


@pytest.mark.parametrize("size", SIZES)
def test_every_quotient_is_that_of_a_division(size: int) -> None:
    """The edges of each quotient are right: a product and a shift are monotonic in between."""
    row = edges(size)

    assert np.array_equal(row // size, products(row, size))


@given(size=st.integers(1, 300) | st.integers(1, ROWS - 1), quotients=st.lists(st.integers(0, ROWS), max_size=50))
def test_a_quotient_by_any_size_is_that_of_a_division(size: int, quotients: list[int]) -> None:
    """The first and the last row of any quotient, and of all rows."""
    begins = [quotient % (ROWS // size) * size for quotient in quotients]
    row = np.array([0, ROWS - 1, *begins, *(begin + size - 1 for begin in begins)], dtype=np.int64)

    assert np.array_equal(row // size, products(row, size))


@given(size=st.integers(1, 300) | st.integers(1, 2**40 + 300) | st.integers(1, 300).map(lambda size: ROWS - size))
def test_a_multiplier_is_an_int32_that_is_never_positive(size: int) -> None:
    """One type serves every size, so one kernel does. Rounding the multiplier up never changes a quotient."""
    multiplier, shift = inverse(size)
    too_large = (multiplier + 2**32) * size - 2 ** (31 + shift)

    assert -(2**31) <= multiplier <= 0
    assert 0 <= too_large < size
    assert size <= 2**shift < 2 * size


@pytest.mark.parametrize("size", [*SIZES[:8], 4097, ROWS - 1])
@pytest.mark.parametrize("wide", [False, True])
def test_kernels_divide_so(size: int, *, wide: bool) -> None:
    """Rows of 32 bits are divided by a product, rows of 64 bits by a division."""
    row = torch.from_numpy(np.resize(edges(size)[-4 * BLOCK :], 4 * BLOCK))
    row = (row + 2**33 if wide else row.int()).to(DEVICE)
    out = torch.empty(len(row), dtype=torch.int64, device=DEVICE)

    outer_kernel[(len(row) // BLOCK,)](row, out, size, *inverse(size), WIDE=wide, BLOCK=BLOCK)

    assert torch.equal(row.long() // size, out)


@pytest.mark.parametrize("stride", [1, 3, 2**31 - 1, 2**31 + 1, 2**40])
@pytest.mark.parametrize("missing", [0, 1, 5, 2**20])
@pytest.mark.parametrize("rows", [1, 2, 2**20, 2**30])
def test_rows_are_numbered_past_32_bits(rows: int, missing: int, stride: int) -> None:
    """Offsets of the rows that exist are exact where the rows, the strides or only their products have 64 bits."""
    programs, block = 5, min(rows, 4)
    n_rows = max(rows * programs - missing, 1)
    out = torch.empty(programs, block, dtype=torch.int64, device=DEVICE)
    exists = torch.empty(programs, block, dtype=torch.int8, device=DEVICE)
    rows_kernel[(programs,)](out, exists, n_rows, stride, ROWS=rows, BLOCK=block)

    row = torch.arange(programs)[:, None] * rows + torch.arange(block)
    there = (row < n_rows) if rows > 1 else torch.ones_like(row, dtype=torch.bool)
    assert torch.equal(there, exists.cpu().bool())
    assert torch.equal((row * stride)[there], out.cpu()[there])
