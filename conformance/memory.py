"""Guarded memory: buffers whose bytes outside the elements are known, between pages that nobody may touch."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
from dataclasses import dataclass

import torch

from conformance.case import Placement

# what unreadable memory on both sides must at least be: farther strays fault by themselves
FENCE = 16 * 2**20
ALIGNMENT = 64
GUARD = 512

# two poisons: NaN in every float dtype (of float8_e4m3fnuz -240), and a large finite number in every float dtype
POISONS = (0xFF, 0x7B)


@dataclass(frozen=True, slots=True, eq=False)
class Owner:
    """A byte buffer that holds the elements of tensors from byte ``start`` on, poison everywhere else."""

    raw: torch.Tensor
    start: int
    length: int

    @classmethod
    def of(cls, length: int, device: str, poison: int) -> Owner:
        """Room for ``length`` bytes on a device, filled with ``poison``."""
        padded = math.ceil(length / ALIGNMENT) * ALIGNMENT
        if device != "cpu":
            raw = torch.empty(padded + 2 * GUARD, dtype=torch.uint8, device=device)
            return cls(raw.fill_(poison), GUARD, length)
        raw = _between_fences(padded + GUARD)
        # the elements end where the unreadable pages begin, as near as alignment lets them
        return cls(raw.fill_(poison), raw.numel() - padded, length)

    def view(self, shape: tuple[int, ...], dtype: torch.dtype, place: Placement, shift: int = 0) -> torch.Tensor:
        """The tensor of a placement; ``shift`` bytes after the start."""
        size = dtype.itemsize
        begin = self.start + shift
        base = self.raw[begin : begin + place.extent * size].view(dtype)
        return base.as_strided(shape, place.strides, base.storage_offset() + place.offset)

    def guards_intact(self, poison: int) -> bool:
        """Whether every byte before and after the room is still poison."""
        before, after = self.raw[: self.start], self.raw[self.start + self.length :]
        return bool((before == poison).all()) and bool((after == poison).all())


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _between_fences(length: int) -> torch.Tensor:
    """At least ``length`` writable bytes, up to the very first byte of an unreadable page."""
    body = math.ceil(length / mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, body + 2 * FENCE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for fence in (address, address + FENCE + body):
        # PROT_NONE is 0; mprotect itself is in no Python module
        if _libc().mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(FENCE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return torch.frombuffer(pages, dtype=torch.uint8, count=body, offset=FENCE)
