"""Reads of memory as by a kernel with wrong strides, without leaving the allocation."""

from __future__ import annotations

import torch


def reread(tensor: torch.Tensor, strides: tuple[int, ...], back: int = 0) -> torch.Tensor:
    """Return the elements that other strides reach from ``back`` elements before the tensor's first.

    Addresses wrap inside the allocation: a fake reads wrong memory, and lives.
    """
    memory = tensor.new_empty(0).set_(tensor.untyped_storage())
    places = torch.tensor(tensor.storage_offset() - back)
    for dim, (size, stride) in enumerate(zip(tensor.shape, strides, strict=True)):
        along = [1] * tensor.dim()
        along[dim] = size
        places = places + stride * torch.arange(size).reshape(along)
    return memory[places % memory.numel()]


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return torch.empty(shape, device="meta").stride()


def wrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements that offsets of 32 bits reach: past 2**32 they begin again at the first one."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(size) * stride
    reach = int(offsets.max()) + 1
    return tensor.as_strided((reach,), (1,))[offsets % 2**32]
