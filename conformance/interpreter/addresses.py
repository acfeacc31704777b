"""Loads and stores of many elements at once: the addresses of a block index an array that lies over memory.

Triton's interpreter copies one element after the other. Here NumPy copies them, and touches the same bytes: only
elements that the mask selects, so that an access outside a buffer still ends the process.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from conformance.interpreter.rounding import Array

FEW = 128  # elements that a loop copies as fast
USER = 1 << 47  # the end of the addresses that a process can have


def load(addresses: Array, mask: Array, other: Array, dtype: np.dtype[Any]) -> Array | None:
    """Return the elements at the selected addresses, ``other`` elsewhere; None where Triton has to load them."""
    if addresses.size < FEW or not addresses.shape == mask.shape == other.shape or other.dtype != dtype:
        return None
    selected = None if mask.all() else mask
    found = _places(addresses.reshape(-1) if selected is None else addresses[selected], dtype.itemsize)
    if found is None:
        return None
    memory, places = found
    if selected is None:
        return memory[places].view(dtype).reshape(addresses.shape)
    result = other.copy()
    result[selected] = memory[places].view(dtype)
    return result


def store(addresses: Array, values: Array, mask: Array) -> bool:
    """Store values at the selected addresses; of two at one address the last. False where Triton has to do it."""
    if addresses.size < FEW or not addresses.shape == values.shape == mask.shape:
        return False
    if mask.all():
        addresses, values = addresses.reshape(-1), values.reshape(-1)
    else:
        addresses, values = addresses[mask], values[mask]
    found = _places(addresses, values.itemsize)
    if found is None:
        return False
    memory, places = found
    memory[places] = values.view(memory.dtype)
    return True


def _places(addresses: Array, width: int) -> tuple[Array, Array] | None:
    """Return an array over memory and the place of each address in it, or None if it could not have one."""
    if not addresses.size:
        return None
    first, last = int(addresses.min()), int(addresses.max())
    offsets = addresses - np.uint64(first)
    if last >= USER or (width > 1 and (first % width or np.bitwise_or.reduce(offsets) % np.uint64(width))):
        return None
    if width > 1:
        offsets >>= np.uint64(width.bit_length() - 1)
    interface = {
        "data": (first, False),
        "shape": ((last - first) // width + 1,),
        "typestr": f"<u{width}",
        "version": 3,
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface)), offsets.view(np.int64)
