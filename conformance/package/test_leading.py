"""Leading sizes are collapsed without moving a row."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from normkernels.operations.rows import leading


def starts(sizes: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Return the places where rows begin, in their order."""
    indices = itertools.product(*map(range, sizes))
    return [sum(i * step for i, step in zip(index, strides, strict=True)) for index in indices]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    gaps=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    order=st.permutations(range(4)),
    groups=st.integers(1, 3),
    width=st.integers(1, 3),
)
def test_rows_stay_where_they_are(
    sizes: list[int], gaps: list[int], order: list[int], groups: int, width: int
) -> None:
    """Each row of each tensor begins where it began, in the same order, whatever strides the tensors have."""
    n = groups * width
    wide = torch.zeros([*(size + gap for size, gap in zip(sizes, gaps[: len(sizes)], strict=True)), n + gaps[0]])
    dims = [i for i in order if i < len(sizes)]
    strided = wide[tuple(slice(size) for size in (*sizes, n))].permute([*dims, len(sizes)])
    dense = torch.zeros(strided.shape)

    collapsed, steps = leading((strided, dense), width)

    for tensor, strides in zip((strided, dense), steps, strict=True):
        # groups of columns of a row are a size of their own
        begin = starts((*tensor.shape[:-1], groups), (*tensor.stride()[:-1], width * tensor.stride(-1)))
        assert begin == starts(collapsed, strides)
