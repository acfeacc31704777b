"""A test of a rule tries every value, and names each that fails."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from conformance.selftest.every import every


class Subtests:
    """A record of subtests: their names, and of which an assertion failed."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.failed: list[str] = []

    @contextlib.contextmanager
    def test(self, name: str) -> Iterator[None]:
        """Record a subtest, as pytest does."""
        self.names.append(name)
        try:
            yield
        except AssertionError:
            self.failed.append(name)


def test_each_value_is_a_subtest() -> None:
    """Values are tried in all combinations, also after one that fails; other arguments are fixtures."""
    given = []

    @every("dtype", [pytest.param(float, id="real"), int])
    @every(("rows", "width"), [(1, 2), (3, 4)])
    def rule(rows: int, width: int, dtype: type, place: str) -> None:
        given.append((rows, width, dtype, place))
        assert dtype is int or rows == 1

    subtests: Any = Subtests()
    rule(subtests=subtests, place="here")

    assert ["subtests", "place"] == list(inspect.signature(rule).parameters)
    assert [(1, 2, float, "here"), (3, 4, float, "here"), (1, 2, int, "here"), (3, 4, int, "here")] == given
    assert ["1-2-real", "3-4-real", "1-2-int", "3-4-int"] == subtests.names
    assert ["3-4-real"] == subtests.failed


def test_no_value_is_an_error() -> None:
    """A rule whose table is empty would hold without being tried."""
    with pytest.raises(AssertionError, match="no value of golden is tried"):
        every("golden", [])
