"""Failures as rows of the journal and of the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conformance.calls.verdict import Verdict
from conformance.cases.case import Case
from conformance.oracle.comparison import BadElement
from conformance.runs.behind import Behind
from conformance.runs.data import sparse
from conformance.runs.item import Failure


@dataclass(frozen=True, slots=True)
class Element:
    """The first element outside its allowed set."""

    output: str
    index: tuple[int, ...]
    got: float
    lo: float
    hi: float
    ulps: float


@dataclass(frozen=True, slots=True)
class Picture:
    """Where elements of an output are wrong in a case: a digit for each cell of a coarse grid, a text a line.

    A cell is 0 where none of its elements is wrong, and 9 where all are.
    """

    case: Case
    output: str
    rows: int
    columns: int
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A failure: its smallest case and the case as drawn, the first bad element, and how to reproduce it.

    ``behind`` are the numbers behind the first bad element. ``picture`` is of the failing case of the same
    property and item that shows most.
    """

    operation: str
    property: str
    dtype: str
    status: str
    reason: str
    id: str
    case: Case
    original: Case
    elements: int
    outside: int
    first: Element | None
    behind: Behind | None = sparse(lambda: None)  # noqa: RUF009 - a field
    picture: Picture | None = sparse(lambda: None)  # noqa: RUF009 - a field
    note: str
    trace: str = ""
    reproducer: str


@dataclass(frozen=True, slots=True)
class Smoke:
    """The first and plainest call of a run, where it crashed."""

    item: str
    how: str
    trace: str
    case: Case


def failed(failure: Failure, reproducer: Path, behind: Behind | None) -> Failed:
    """Return a failure as its row, with the script that reproduces it."""
    verdict = failure.verdict
    comparison = verdict.comparison
    return Failed(
        operation=failure.item.operation,
        property=verdict.property,
        dtype=failure.item.dtype,
        status=verdict.status,
        reason=verdict.reason,
        id=verdict.case.id,
        case=verdict.case,
        original=failure.original,
        elements=comparison.elements,
        outside=comparison.outside,
        first=_element(comparison.first),
        behind=behind,
        picture=_picture(failure.widest),
        note=failure.note,
        trace=verdict.trace,
        reproducer=str(reproducer),
    )


def _element(bad: BadElement | None) -> Element | None:
    return None if bad is None else Element(bad.output, bad.index, bad.got, bad.lo, bad.hi, bad.ulps)


def _picture(verdict: Verdict | None) -> Picture | None:
    places = verdict.comparison.places if verdict is not None else None
    if verdict is None or places is None:
        return None
    return Picture(verdict.case, places.output, places.rows, places.columns, places.shaded())
