"""The words of a card agree with its rates."""

from __future__ import annotations

import pytest

from conformance.report.cards import _how_often
from conformance.report.document import Cause, Level, Rate

RANK = Rate("rank", ("3", "4"), (Level("3", 5, 6), Level("4", 2, 2), Level("2", 1, 40)))


@pytest.mark.parametrize(
    ("cases", "rates", "words"),
    [
        (7, (RANK,), "7 of 8 judged cases fail where rank is 3 or 4"),
        (1009, (RANK,), "7 of 8 judged cases fail where rank is 3 or 4; 1,002 fail elsewhere"),
        (1009, (), "1,009 of 1,048 judged cases fail"),
    ],
)
def test_cases_that_fail_elsewhere_are_counted_apart(cases: int, rates: tuple[Rate, ...], words: str) -> None:
    """A share is said of the cases that meet the conditions, and of no others."""
    cause = Cause("wrong values", 1, ("rms_norm",), ("float32",), {"values": cases}, cases, 1048, rates, (), "")

    assert words == _how_often(cause)
