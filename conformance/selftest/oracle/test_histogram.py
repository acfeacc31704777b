"""Errors as counts by size, wrong elements as a coarse picture: every element counts once, where it belongs."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.oracle.comparison import compare
from conformance.oracle.histogram import LEAST, MOST, Histogram
from conformance.oracle.interval import Interval
from conformance.oracle.places import Places, places
from conformance.selftest.every import every

INF, NAN = math.inf, math.nan

Allowed = tuple[float, float, bool]  # the least, the most, whether NaN as well


def _counts(histogram: Histogram) -> dict[int, int]:
    return {histogram.least + place: count for place, count in enumerate(histogram.counts) if count}


def _interval(*sets: Allowed) -> Interval:
    lo, hi, nan = zip(*sets, strict=True)
    least, most = (torch.tensor([end], dtype=torch.float64) for end in (lo, hi))
    return Interval(least, most, torch.tensor([nan]))


# output, what is allowed of it (NaN as well?), and the powers of two of its error: as a share, and in ulps
ERRORS: dict[str, tuple[float, Allowed, int, int]] = {
    "no error": (1.0, (1.0, 1.0, False), LEAST, LEAST),
    "half an ulp is all of what is allowed": (1.0, (1.0 + 2.0**-24, 1.0 + 2.0**-24, False), -1, -1),
    "one ulp": (1.0 + 2.0**-23, (1.0, 1.0, False), 1, 0),
    "eight ulps": (1.0 + 2.0**-20, (1.0, 1.0, False), 4, 3),
    "eight ulps of a bound of eight": (1.0 + 2.0**-20, (1.0 - 2.0**-20, 1.0 + 2.0**-20, False), -1, 3),
    "zero in place of a number": (0.0, (1.0, 1.0, False), 24, 23),
    "an infinity": (INF, (1.0, 1.0, False), MOST, MOST),
    "NaN": (NAN, (1.0, 1.0, False), MOST, MOST),
    "a number in place of NaN": (1.0, (NAN, NAN, True), MOST, MOST),
    "an infinity that must be": (INF, (INF, INF, False), LEAST, LEAST),
    "a number in place of an infinity": (1.0, (INF, INF, False), MOST, MOST),
    "NaN that must be": (NAN, (NAN, NAN, True), LEAST, LEAST),
    "NaN that may be": (NAN, (1.0, 1.0, True), LEAST, LEAST),
    "an overflow that may be": (INF, (3e38, 4e38, False), LEAST, LEAST),
}


@every(("got", "allowed", "share", "ulps"), [pytest.param(*ERRORS[name], id=name) for name in ERRORS])
def test_an_error_counts_at_its_size(got: float, allowed: Allowed, share: int, ulps: int) -> None:
    """The size is a share of what is allowed, below 1 where the element is right; and a number of ulps."""
    found = compare("y", torch.tensor([[got]]), _interval(allowed), (1, 1), 0)

    assert ({share: 1}, {ulps: 1}) == (_counts(found.sizes.share), _counts(found.sizes.ulps))
    assert found.outside == (share >= 0) == sum(found.sizes.wrong.counts)


@given(st.lists(st.sampled_from(sorted(ERRORS)), min_size=1, max_size=20))
def test_every_element_counts_once(names: list[str]) -> None:
    """The counts of many elements are the sum of the counts of each, in whichever order they come."""
    single = [compare("y", torch.tensor([[ERRORS[n][0]]]), _interval(ERRORS[n][1]), (1, 1), 0) for n in names]
    got, allowed = torch.tensor([[ERRORS[n][0] for n in names]]), _interval(*(ERRORS[n][1] for n in names))
    found = compare("y", got, allowed, (1, len(names)), 0)

    assert reduce(add, (each.sizes for each in single)) == found.sizes
    assert len(names) == sum(found.sizes.share.counts) == sum(found.sizes.ulps.counts)
    assert found.outside == sum(found.sizes.wrong.counts)
    assert found.outside == sum(count for power, count in _counts(found.sizes.share).items() if power >= 0)


def _wrong(rows: int, columns: int, *bad: tuple[int, int]) -> torch.Tensor:
    wrong = torch.zeros(rows, columns, dtype=torch.bool)
    for row, column in bad:
        wrong[row, column] = True
    return wrong


def test_a_picture_of_few_elements_has_a_cell_for_each() -> None:
    """A wrong element is a full cell, at its place."""
    assert ("00090", "90000") == places("y", _wrong(2, 5, (0, 3), (1, 0)), 2, 0).shaded()


def test_a_picture_of_many_elements_is_coarse_and_shows_every_wrong_one() -> None:
    """One element of a large cell is the faintest shade, a full cell the darkest."""
    wrong = _wrong(320, 6400, (0, 6399))
    wrong[310:, :100] = True
    drawn = places("y", wrong, 320, 0).shaded()

    assert (32, {64}) == (len(drawn), {len(line) for line in drawn})
    assert "0" * 63 + "1" == drawn[0]
    assert "9" + "0" * 63 == drawn[31]
    assert {"0" * 64} == set(drawn[1:31])


@given(rows=st.integers(1, 100), columns=st.integers(1, 200), data=st.data())
def test_a_picture_has_every_wrong_element(rows: int, columns: int, data: st.DataObject) -> None:
    """The picture of all rows is the sum of the pictures of their parts; all wrong is darkest everywhere."""
    cut = data.draw(st.integers(0, rows))
    wrong = torch.rand(rows, columns, generator=torch.Generator().manual_seed(rows)) < data.draw(st.floats(0, 1))
    whole = places("y", wrong, rows, 0)

    assert places("y", wrong[:cut], rows, 0) + places("y", wrong[cut:], rows, cut) == whole
    assert int(wrong.sum()) == sum(whole.counts)
    assert {"9"} == set("".join(places("y", torch.ones_like(wrong), rows, 0).shaded()))


def test_a_comparison_has_the_picture_of_the_output_with_the_first_wrong_element() -> None:
    """Rows of chunks are numbered from the output's first row; other calls and right outputs add nothing."""
    one = Interval.exactly(torch.ones(2, 3))
    bad, right = torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), torch.ones(2, 3)
    chunks = compare("y", right, one, (4, 3), 0) + compare("y", bad, one, (4, 3), 2)
    found = chunks + compare("s", bad, one, (4, 3), 2) + compare("y", bad, one, (2, 3), 0)

    assert compare("y", right, one, (2, 3), 0).places is None
    assert Places("y", 4, 3, (0,) * 8 + (1,) + (0,) * 3) == found.places
    assert 4 * right.numel() == sum(found.sizes.ulps.counts) == sum(found.sizes.share.counts)
