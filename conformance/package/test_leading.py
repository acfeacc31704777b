"""Leading sizes are collapsed without moving a row."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.selftest.every import every
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
    step=st.integers(1, 2),
)
def test_rows_stay_where_they_are(
    sizes: list[int], gaps: list[int], order: list[int], groups: int, width: int, step: int
) -> None:
    """Each row of each tensor begins where it began, in the same order, whatever strides the tensors have."""
    n = groups * width
    wide = torch.zeros(
        [*(size + gap for size, gap in zip(sizes, gaps[: len(sizes)], strict=True)), step * n + gaps[0]]
    )
    dims = [i for i in order if i < len(sizes)]
    strided = wide[(*map(slice, sizes), slice(0, step * n, step))].permute([*dims, len(sizes)])
    dense = torch.zeros(strided.shape)

    collapsed, steps = leading((strided, dense), width)

    for tensor, strides in zip((strided, dense), steps, strict=True):
        # groups of columns of a row are a size of their own
        begin = starts((*tensor.shape[:-1], groups), (*tensor.stride()[:-1], width * tensor.stride(-1)))
        assert begin == starts(collapsed, strides)


# Sizes and strides of rows of two columns, and the sizes that are left of those before.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "of a new tensor": ((3, 4, 5, 6, 2), (240, 60, 12, 2, 1), (360,)),
    "of one row": ((2,), (1,), (1,)),
    "apart": ((3, 4, 5, 2), (1000, 100, 10, 1), (3, 4, 5)),
    "the last two in one": ((3, 4, 5, 2), (1000, 50, 10, 1), (3, 20)),
    "not the last and the first": ((3, 4, 5, 2), (1000, 100, 200, 1), (3, 4, 5)),
    "apart, with a one": ((3, 1, 4, 2), (1000, 777, 10, 1), (3, 1, 4)),
    "apart, with a one too many": ((3, 1, 4, 5, 2), (1000, 777, 100, 10, 1), (3, 4, 5)),
    "apart, one too many": ((3, 5, 4, 6, 2), (2000, 300, 50, 5, 1), (3, 5, 4, 6)),
}


@every("name", SIZES)
def test_sizes_are_as_few_as_they_can_be(name: str) -> None:
    """Neighbours are merged; a size of one has a stride of its own, unless it would be one too many."""
    sizes, strides, wanted = SIZES[name]

    assert wanted == leading((torch.zeros(20_000).as_strided(sizes, strides),), 2)[0]
