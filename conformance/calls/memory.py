"""Guarded memory: buffers whose bytes outside the elements are known, between inaccessible pages."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from conformance.cases.case import Placement

PAGE = mmap.PAGESIZE
# Python names the flag from 3.13 on: untouched pages cost nothing, and need no reservation
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
# the least size of unreadable memory on both sides: accesses farther away fault by themselves
FENCE = 16 * 2**20
ALIGNMENT = 64
GUARD = 512
WHOLE = 2**30

# two poisons: NaN in every float dtype (-240 in float8_e4m3fnuz), and a large finite number in every float dtype
POISONS = (0xFF, 0x7B)
# a third for memory that is allocated in a call: an element that holds it was not computed from the others
FRESH = 0x2D


@dataclass(frozen=True, slots=True, eq=False)
class Owner:
    """A byte buffer that holds the elements of tensors from byte ``start`` on, poison everywhere else."""

    raw: torch.Tensor
    start: int
    length: int
    pages: torch.Tensor | None = None  # numbers of the pages of raw that are in use, None for all

    @classmethod
    def of(cls, length: int, device: str, poison: int) -> Owner:
        """Return a buffer of ``length`` bytes on a device, filled with ``poison``."""
        padded = math.ceil(length / ALIGNMENT) * ALIGNMENT
        if device != "cpu":
            raw = room(padded + 2 * GUARD, device)
            return cls(raw.fill_(poison), GUARD, length)
        raw = _between_fences(padded + GUARD)
        # the elements end where the unreadable pages begin, as near as alignment lets them
        return cls(raw.fill_(poison), raw.numel() - padded, length)

    @classmethod
    def spread(cls, offsets: torch.Tensor, length: int, device: str, poison: int) -> Owner:
        """Return a buffer of ``length`` bytes of which only the pages of some ``offsets`` (in bytes) are in use.

        On the CPU no other page is accessible, and touching one ends the process. The same holds before and behind
        the buffer, each as far as its length: an offset that lost its high bits leads there. Raises ``OSError`` if
        the system does not give so many addresses. A GPU cannot do this: there the whole buffer is filled with
        ``poison``.
        """
        # neighbours share a page, and fewer numbers are sorted sooner
        pages = torch.unique(torch.unique_consecutive((offsets // PAGE).flatten()))
        if device != "cpu":
            raw = room(math.ceil(length / PAGE) * PAGE, device)
            return cls(raw.fill_(poison), 0, length, pages.to(device))
        raw = _accessible(length, pages)
        raw.view(-1, PAGE).index_fill_(0, pages, poison)
        return cls(raw, 0, length, pages)

    def content(self) -> torch.Tensor:
        """Return a copy of all accessible bytes."""
        return self._bytes() if self.pages is not None else self.raw.clone()

    def view(self, shape: tuple[int, ...], dtype: torch.dtype, place: Placement, shift: int = 0) -> torch.Tensor:
        """Return the tensor of a placement, ``shift`` bytes after the start."""
        size = dtype.itemsize
        begin = self.start + shift
        base = self.raw[begin : begin + place.extent * size].view(dtype)
        return base.as_strided(shape, place.strides, base.storage_offset() + place.offset)

    def guards_intact(self, poison: int) -> torch.Tensor:
        """Return whether every byte before and after the elements is still poison, as a tensor of one bool."""
        before, after = self.raw[: self.start], self.raw[self.start + self.length :]
        return (before == poison).all() & (after == poison).all()

    def holds(self, content: torch.Tensor) -> torch.Tensor:
        """Return whether all accessible bytes are those of ``content``, as a tensor of one bool."""
        return (self._bytes() == content).all()

    def _bytes(self) -> torch.Tensor:
        """Return all accessible bytes: the buffer itself, or a copy of its pages in use."""
        return self.raw if self.pages is None else self.raw.view(-1, PAGE).index_select(0, self.pages)


def room(length: int, device: str) -> torch.Tensor:
    """Return ``length`` bytes, not filled. Large ones are part of whole gibibytes, which later ones fit into."""
    return torch.empty(rounded(length), dtype=torch.uint8, device=device)[:length]


def rounded(length: int) -> int:
    """Return how many bytes :func:`room` allocates for ``length``."""
    return math.ceil(length / WHOLE) * WHOLE if length > WHOLE else length


def read(flags: Sequence[torch.Tensor]) -> list[bool]:
    """Return the bools of some tensors of one element; of a GPU in one transfer, as each waits for the GPU."""
    return [bool(flag) for flag in torch.stack(list(flags)).tolist()] if flags else []


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _between_fences(length: int) -> torch.Tensor:
    """Return at least ``length`` writable bytes, up to the very first byte of an unreadable page."""
    body = math.ceil(length / mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, body + 2 * FENCE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for fence in (0, FENCE + body):
        _protect(pages, fence, FENCE, NOBODY)
    return torch.frombuffer(pages, dtype=torch.uint8, count=body, offset=FENCE)


def _accessible(length: int, pages: torch.Tensor) -> torch.Tensor:
    """Return ``length`` bytes of which only some pages, in order, are accessible, and nothing around them."""
    body = math.ceil(length / PAGE) * PAGE
    mapped = mmap.mmap(-1, 3 * body, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    _protect(mapped, 0, 3 * body, NOBODY)
    for start, end in _runs(pages):
        _protect(mapped, body + start * PAGE, (end - start) * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(mapped, dtype=torch.uint8, count=body, offset=body)


def _runs(pages: torch.Tensor) -> list[tuple[int, int]]:
    """Return the first page of every run of neighbours, and the page after its last."""
    begins = torch.cat([torch.tensor([True]), pages[1:] != pages[:-1] + 1])
    ends = torch.cat([begins[1:], torch.tensor([True])])
    return list(zip(pages[begins].tolist(), (pages[ends] + 1).tolist(), strict=True))


NOBODY = 0  # PROT_NONE


def _protect(pages: mmap.mmap, start: int, length: int, who: int) -> None:
    """Set the protection of bytes of a mapping; no Python module offers mprotect."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + start
    if _libc().mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), who):
        raise OSError(ctypes.get_errno(), "mprotect")
