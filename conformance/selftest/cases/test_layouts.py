"""Layouts place every element of a tensor inside its buffer, and no two in one place unless they mean to."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from conformance.cases.case import LAYOUTS, Layout, Placement, TensorSpec, reaches

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)
KINDS = [kind for kind in LAYOUTS if kind not in {"expanded", "shared"}]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Draw a layout of a buffer's only tensor; it shrinks to a contiguous one."""
    kind = draw(st.sampled_from(KINDS))
    return Layout(kind, draw(st.integers(1, 9))) if kind in {"offset", "row_gap", "step"} else Layout(kind)


def places(shape: tuple[int, ...], at: Placement) -> list[int]:
    """Return the place of every element in the buffer."""
    indices = itertools.product(*map(range, shape))
    return [at.offset + sum(i * step for i, step in zip(index, at.strides, strict=True)) for index in indices]


@given(shape=SHAPES, layout=layouts())
def test_elements_have_places_of_their_own_in_the_buffer(shape: tuple[int, ...], layout: Layout) -> None:
    """A tensor that reaches past its buffer would read the guards, and call it the kernel's fault."""
    at = layout.place(shape)
    found = places(shape, at)

    assert len(found) == len(set(found)) == math.prod(shape)
    assert all(0 <= place < at.extent for place in found)


@given(shape=SHAPES)
def test_an_expanded_tensor_has_the_places_of_its_first_row(shape: tuple[int, ...]) -> None:
    """The first dimension has stride 0."""
    at = Layout("expanded").place(shape)

    assert set(places((min(shape[0], 1), *shape[1:]), at)) == set(places(shape, at))
    assert all(0 <= place < at.extent for place in places(shape, at))


@given(shape=SHAPES, parts=st.integers(1, 4))
def test_tensors_that_share_a_buffer_divide_it(shape: tuple[int, ...], parts: int) -> None:
    """Each element of the buffer belongs to one of them, like x and gate as slices of one projection."""
    all_at = [Layout("shared", part).place(shape, parts) for part in range(parts)]
    found = [place for at in all_at for place in places(shape, at)]

    assert 1 == len({at.extent for at in all_at})
    assert list(range(all_at[0].extent)) == sorted(found)


@given(shape=SHAPES, before=st.integers(0, 5), behind=st.integers(0, 5))
def test_a_slice_stays_in_its_rows(shape: tuple[int, ...], before: int, behind: int) -> None:
    """Rows of q begin where the slice begins, and end before that of k."""
    row = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
    width = before + row + behind
    at = Layout("slice", before, width).place(shape)
    found = places(shape, at)

    assert len(found) == len(set(found))
    assert all(place < at.extent and before <= place % width < before + row for place in found)


@given(shape=SHAPES, layout=layouts())
def test_a_layout_reaches_a_call_where_it_moves_an_element(shape: tuple[int, ...], layout: Layout) -> None:
    """A tensor in the places of a contiguous one is no evidence for another layout."""
    moved = places(shape, layout.place(shape)) != list(range(math.prod(shape)))

    if math.prod(shape):
        assert moved == reaches(TensorSpec(shape, "float32", layout))
