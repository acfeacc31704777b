"""Overlap of memory is found exactly as a list of all bytes finds it."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from normkernels.checks import may_share, overlaps_itself

MEMORY = 256  # bytes
DTYPES = (torch.int8, torch.int16, torch.float32)


@st.composite
def views(draw: st.DrawFn) -> tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]:
    """Draw a view of some bytes: dtype, shape, strides and offset in elements. It shrinks to one element."""
    dtype = draw(st.sampled_from(DTYPES))
    room = MEMORY // dtype.itemsize - 1
    shape, strides = [], []
    for _ in range(draw(st.integers(1, 3))):
        stride = draw(st.integers(0, min(room, 16)))
        size = draw(st.integers(0, min(4, 1 + room // stride if stride else 4)))
        room -= max(size - 1, 0) * stride
        shape.append(size)
        strides.append(stride)
    return dtype, tuple(shape), tuple(strides), draw(st.integers(0, room))


View = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]


def tensor(memory: torch.Tensor, view: View) -> torch.Tensor:
    """Return a view of memory."""
    dtype, shape, strides, offset = view
    return memory.view(dtype).as_strided(shape, strides, offset)


def elements(view: View) -> list[range]:
    """Return the bytes of every element."""
    dtype, shape, strides, offset = view
    indices = itertools.product(*map(range, shape))
    starts = [offset + sum(i * step for i, step in zip(index, strides, strict=True)) for index in indices]
    return [range(start * dtype.itemsize, (start + 1) * dtype.itemsize) for start in starts]


@given(one=views(), other=views())
def test_tensors_share_memory_where_they_share_a_byte(one: View, other: View) -> None:
    """Any dtypes, shapes and strides; rows between each other's rows share none."""
    memory = torch.zeros(MEMORY, dtype=torch.int8)
    bytes_of = [set(itertools.chain.from_iterable(elements(view))) for view in (one, other)]

    assert bool(bytes_of[0] & bytes_of[1]) == may_share(tensor(memory, one), tensor(memory, other))


@given(view=views())
def test_elements_in_one_place_are_found(view: View) -> None:
    """A tensor is refused too often rather than too seldom."""
    starts = [element.start for element in elements(view)]
    alone = tensor(torch.zeros(MEMORY, dtype=torch.int8), view)

    assert overlaps_itself(alone) or len(starts) == len(set(starts))


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    gaps=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_gaps_and_permutations_are_no_overlap(sizes: list[int], gaps: list[int], order: list[int]) -> None:
    """Rows with gaps between them, in any order of dimensions, are taken as outputs."""
    wide = torch.zeros([size + gap for size, gap in zip(sizes, gaps[: len(sizes)], strict=True)])
    part = wide[tuple(slice(size) for size in sizes)].permute([i for i in order if i < len(sizes)])

    assert not overlaps_itself(part)
