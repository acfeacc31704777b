"""Tensors compared by their bits."""

from __future__ import annotations

import torch

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors hold the same bits; any two NaN count as the same."""
    if a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b)):
        return True
    if a.dtype.itemsize == 1:
        # torch has no sign bit of fp8, and float32 holds every fp8 number
        a, b = a.float(), b.float()
    return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())


def raw(values: torch.Tensor) -> torch.Tensor:
    """Return the bits of values as integers of their size."""
    return values.view(_INTEGERS[values.element_size()])


def poisoned(values: torch.Tensor, poison: int) -> torch.Tensor:
    """Return which elements hold nothing but the byte ``poison``."""
    # a copy: even a contiguous tensor may have any stride along a dimension of one element, and bytes may not
    flat = values.flatten().clone(memory_format=torch.contiguous_format)
    as_bytes = flat.view(torch.uint8).reshape(-1, values.element_size())
    return (as_bytes == poison).all(-1).reshape(values.shape)
