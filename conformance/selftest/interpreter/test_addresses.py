"""Loads and stores of many elements are those of Triton's interpreter."""

import os
from typing import Any

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("this process compiles its kernels: it cannot interpret them", allow_module_level=True)

from triton._C.libtriton import interpreter as triton_loops

from conformance.interpreter import addresses
from conformance.interpreter.rounding import Array

SHAPE = (16, 32)
MASKS = {
    "all": np.ones(SHAPE, bool),
    "none": np.zeros(SHAPE, bool),
    "columns": np.broadcast_to(np.arange(32) < 21, SHAPE),
    "some": np.random.default_rng(0).random(SHAPE) < 0.5,
}
# places of the block's elements in memory: in order, in any, one twice, columns before rows, few
PLACES = {
    "adjacent": np.arange(512).reshape(SHAPE),
    "any": np.random.default_rng(1).permutation(4096)[:512].reshape(SHAPE),
    "repeated": np.random.default_rng(2).integers(0, 50, SHAPE),
    "transposed": np.arange(512).reshape(32, 16).T,
    "one row": np.broadcast_to(np.arange(32), SHAPE),
}
DTYPES = (np.uint8, np.bool_, np.float16, np.float32, np.int64, np.uint64)


def memory_and_pointers(dtype: Any, places: Array, shift: int) -> tuple[Array, Array]:
    """Return bytes and pointers to elements in them, which begin ``shift`` bytes late."""
    memory = np.random.default_rng(3).integers(0, 256, 4096 * 8 + 16).astype(np.uint8)
    start = memory.ctypes.data + shift
    return memory, (start + places * np.dtype(dtype).itemsize).astype(np.uint64)


@pytest.mark.parametrize("shift", [0, 8, 1])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_elements_are_those_of_tritons_loop(dtype: Any, mask: str, places: str, shift: int) -> None:
    """Loaded bits, and all memory after a store, are the same; an address that is not selected may be anything."""
    selected, dtype = MASKS[mask], np.dtype(dtype)
    memory, pointers = memory_and_pointers(dtype, PLACES[places], shift)
    pointers = np.where(selected, pointers, np.uint64(0x5A5A5A5A5A5A5A5A))
    other = np.broadcast_to(np.array(1, dtype), SHAPE)
    want = triton_loops.load(pointers, selected, other, dtype)
    got = addresses.load(pointers, selected, other, dtype)
    # each of these has to be done by Triton
    refused = not selected.any() or (shift == 1 and dtype.itemsize > 1)

    assert (got is None) == refused
    if got is not None:
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert got.tobytes() == want.tobytes()

    codes = np.random.default_rng(4).integers(0, 256, want.nbytes).astype(np.uint8)
    values, before = codes.view(dtype).reshape(SHAPE[::-1]).T, memory.copy()
    stored = addresses.store(pointers, values, selected)
    after = memory.copy()
    memory[...] = before
    triton_loops.store(pointers, values, selected)

    assert stored == (not refused)
    if stored:
        assert (after == memory).all()


def test_what_is_no_address_is_left_to_triton() -> None:
    """An address that no process has, few elements, another dtype, and unlike shapes."""
    pointers = np.full(SHAPE, 1 << 47, np.uint64)
    values = np.zeros(SHAPE, np.float32)
    few, every = np.zeros(4, np.uint64), MASKS["all"]

    assert addresses.load(pointers, every, values, np.dtype(np.float32)) is None
    assert not addresses.store(pointers, values, every)
    assert addresses.load(few, few == 0, few, few.dtype) is None
    assert addresses.load(pointers - 1, every, values, np.dtype(np.float16)) is None
    assert not addresses.store(pointers, values[0], every)
