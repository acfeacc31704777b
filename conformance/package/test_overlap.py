"""Overlap of memory is found exactly as a list of all bytes finds it, and views that are the same are told."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from conformance.selftest.every import every
from normkernels.checks import _adds_up, address, may_share, overlaps_itself, same_view

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


class Subclass(torch.Tensor):
    """A tensor that may mean something else."""


@every(
    ("sizes", "strides", "overlap"),
    [((3, 2), (1, 2), True), ((3, 2), (1, 3), False), ((3, 1, 4), (8, 2, 1), False)],
)
def test_a_step_must_leave_what_smaller_steps_reach(
    sizes: tuple[int, ...], strides: tuple[int, ...], *, overlap: bool
) -> None:
    """Elements begin where others do, or just beyond; a stride along one reaches nothing."""
    assert overlap == overlaps_itself(torch.zeros(64).as_strided(sizes, strides))


def test_neighbours_share_no_byte() -> None:
    """Rows that end where others begin, in either order, and no elements in the middle of others."""
    rows = torch.zeros(6, 4)
    for one, other in itertools.permutations((rows[:3], rows[3:])):
        assert not may_share(one, other)
        assert may_share(one, rows)
        assert may_share(rows, other)
    # one is contiguous, and lies in the gaps of the other
    assert not may_share(rows[0, 2:], rows[:, :2])
    assert not may_share(rows[:, :2], rows[0, 2:])
    assert not may_share(rows[3:3], rows)
    assert not may_share(rows, rows[3:3])
    assert may_share(rows[2:], rows.as_subclass(Subclass))


def test_what_has_no_memory_shares_none() -> None:
    """Fake tensors, which PyTorch would warn of, and batched ones, which raise where their address is read."""
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.zeros(4))
        seen = [address(fake), may_share(fake, fake.view(2, 2))]

    def look(row: torch.Tensor) -> torch.Tensor:
        seen.append(address(row))
        return row

    torch.vmap(look)(torch.ones(2, 3))
    seen += [address(torch.empty(4, device="meta"))]
    plain = torch.zeros(4)

    assert [0, False, 0, 0] == seen
    assert plain.data_ptr() == address(plain) == address(plain.as_subclass(Subclass))


SQUARE, OBLONG = torch.zeros(2, 2), torch.zeros(3, 4)
ALONG_ONE = torch.zeros(1, 2, 2)
# Pairs of views of one memory, and whether they are the same elements in the same order.
VIEWS: dict[str, tuple[torch.Tensor, torch.Tensor, bool]] = {
    "itself": (SQUARE, SQUARE, True),
    "all of it": (SQUARE, SQUARE[:], True),
    "all of an oblong": (OBLONG, OBLONG[:], True),
    "of other memory": (SQUARE, torch.zeros(2, 2), False),
    "transposed": (SQUARE, SQUARE.t(), False),
    "transposed, in a batch of one": (ALONG_ONE, ALONG_ONE.mT, False),
    "another stride along one": (ALONG_ONE, ALONG_ONE.as_strided((1, 2, 2), (7, 2, 1)), True),
    "other sizes": (SQUARE, SQUARE.view(4), False),
    "fewer rows": (SQUARE, SQUARE[:1], False),
    "one row on": (ALONG_ONE[0, :1], ALONG_ONE[0, 1:], False),
    "of another dtype": (SQUARE, SQUARE.view(torch.int32), False),
}


@every("name", VIEWS)
def test_the_same_view_has_the_same_elements_in_the_same_order(name: str) -> None:
    """Views that are the same have one place, dtype and shape, and the same strides but along sizes of one."""
    one, other, same = VIEWS[name]

    assert same == same_view(one, other) == same_view(other, one)


def test_a_search_takes_each_step_as_often_as_there_is_one() -> None:
    """Every distance that two steps can cover: the larger one may fit more often than there is one."""
    for small, large in itertools.combinations(range(1, 9), 2):
        for few, many in itertools.product(range(4), repeat=2):
            sums = {small * i + large * j for i in range(few + 1) for j in range(many + 1)}
            steps = Counter({small: few, large: many})

            assert sums == {distance for distance in range(-1, max(sums) + 2) if _adds_up(distance, steps)}


def test_a_search_has_an_answer_within_its_patience() -> None:
    """Ten thousand steps are exact: what ends in 5 is no sum of tens and one 11. One step more is in doubt."""
    for taken, doubt in ((9_998, False), (9_999, True)):
        assert doubt == _adds_up(10**6 + 5, Counter({10: 10**6, 11: 1, 20: taken}))
    assert not _adds_up(1, Counter())


def test_a_search_leaves_out_what_no_smaller_step_divides() -> None:
    """Millions of steps: at once where the rest of a division decides, and for rows woven with other rows."""
    assert not _adds_up(4 * 10**6 + 1_001, Counter({4: 10**6, 2: 10**7}))
    assert _adds_up(4 * 10**6 + 1_002, Counter({4: 10**6, 2: 10**7}))

    kept = torch.zeros(6 * 10**6, dtype=torch.bfloat16)
    x = kept.as_strided((6, 5_111), (20_500, 4))
    for apart, shared in ((1, False), (2, True), (3, False)):
        assert shared is may_share(x, kept.as_strided((6, 5_111), (30_800, 6), apart))


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), max_size=4),
    st.integers(-2, 60),
)
def test_a_search_is_exact(drawn: list[tuple[int, int]], distance: int) -> None:
    """All sums of a few steps are listed."""
    steps: Counter[int] = Counter()
    for step, count in drawn:
        steps[step] += count
    counts = itertools.product(*(range(count + 1) for count in steps.values()))

    assert _adds_up(distance, steps) == (
        distance in {sum(step * taken for step, taken in zip(steps, each, strict=True)) for each in counts}
    )


def _same(value: object) -> object:
    return value


def test_memory_of_two_devices_is_never_shared() -> None:
    """Two GPUs may use the same addresses; a tensor without elements has no bytes, wherever it begins."""

    def at(device: str, count: int) -> SimpleNamespace:
        kept = torch.zeros(count)
        facts = {"device": torch.device(device), "shape": kept.shape, "nbytes": kept.nbytes}
        asked = {
            "numel": count,
            "data_ptr": 4096,
            "is_contiguous": True,
            "untyped_storage": kept.untyped_storage(),
        }
        return SimpleNamespace(**facts, **{name: partial(_same, value) for name, value in asked.items()})

    def shared(one: SimpleNamespace, other: SimpleNamespace) -> bool:
        return may_share(one, other)  # type: ignore[arg-type]  # all that is looked at

    assert shared(at("cuda:0", 4), at("cuda:0", 8))
    assert not shared(at("cuda:0", 4), at("cuda:1", 8))
    assert not shared(at("cuda:0", 0), at("cuda:0", 8))
    assert not shared(at("cuda:0", 8), at("cuda:0", 0))
