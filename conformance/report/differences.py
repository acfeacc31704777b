"""Comparison of two reports: what they were judged with, and the rows in which they differ."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from conformance.calls.verdict import BAD, Status
from conformance.report.document import Report, Row
from conformance.report.header import facts
from conformance.report.state import State, state_of

ABSENT = "not in this run"
_STATES = list(State)


class Change(StrEnum):
    """The direction of a difference, in the order in which differences are shown."""

    WORSE = "worse"
    BETTER = "better"
    OTHER = "otherwise different"


@dataclass(frozen=True, slots=True)
class Difference:
    """A single difference of two reports, as each says it; ``row`` is what it is about, where that is a row."""

    what: str
    first: str
    second: str
    change: Change = Change.OTHER
    row: Row | None = None


def of_headers(first: Report, second: Report) -> tuple[Difference, ...]:
    """Return how versions, machine, seed, adapter and switches differ, and whether each run came to its end."""
    a, b = ({**dict(facts(report.header)), "complete": str(report.footer.complete)} for report in (first, second))
    names = dict.fromkeys([*a, *b])
    found = (Difference(name, a.get(name, ABSENT), b.get(name, ABSENT)) for name in names)
    return tuple(d for d in found if d.first != d.second)


def of_results(first: Report, second: Report) -> tuple[Difference, ...]:
    """Return rows that differ in verdicts, worst error or share of exact demands, and rows of one report alone.

    What got worse comes first, and of that what fails now.
    """
    a, b = ({row.key(): row for row in report.results} for report in (first, second))
    keys = dict.fromkeys([*a, *b])
    found = [_difference(a.get(key), b.get(key)) for key in keys if _judged(a.get(key)) != _judged(b.get(key))]
    return tuple(sorted(found, key=_order))


def new_causes(first: Report, second: Report) -> tuple[int, ...]:
    """Return the numbers of causes of failures in the second report that the first does not have."""
    known = {cause.kind for cause in first.causes}
    return tuple(number for number, cause in enumerate(second.causes, start=1) if cause.kind not in known)


def _order(found: Difference) -> tuple[int, int]:
    assert found.row is not None
    return list(Change).index(found.change), _STATES.index(state_of(found.row))


def _difference(first: Row | None, second: Row | None) -> Difference:
    row = second or first
    assert row is not None
    return Difference(" ".join(row.key()), _said(first), _said(second), _change(first, second), row)


def _change(first: Row | None, second: Row | None) -> Change:
    """Return the direction of a change; a row that was not asked for is neither worse nor better."""
    if second is None or (first is None and state_of(second) is not State.FAILS):
        return Change.OTHER
    if first is None:
        return Change.WORSE
    before, after = _rank(first), _rank(second)
    if before == after:
        return Change.OTHER
    return Change.WORSE if after > before else Change.BETTER


def _rank(row: Row) -> tuple[int, float, float]:
    """Return how bad a row is: its state, the share of judged cases that fails, the worst error."""
    bad = sum(row.counts.get(status, 0) for status in BAD)
    judged = bad + row.counts.get(Status.PASSED, 0)
    return -_STATES.index(state_of(row)), bad / judged if judged else 0.0, row.worst or 0.0


def _judged(row: Row | None) -> tuple[object, ...] | None:
    return None if row is None else (row.counts, row.worst, row.exact)


def _said(row: Row | None) -> str:
    if row is None:
        return ABSENT
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in row.counts.items())
    if row.exact is None or row.worst is None:
        return counts
    return f"{counts}; worst {row.worst:.6g}, exact {row.exact:.4%}"
