"""Comparison of two reports: what they were judged with, and the rows in which they differ."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.report.document import Report, Row
from conformance.report.header import facts

ABSENT = "not in this run"


@dataclass(frozen=True, slots=True)
class Difference:
    """A single difference of two reports, as each says it."""

    what: str
    first: str
    second: str


def of_headers(first: Report, second: Report) -> tuple[Difference, ...]:
    """Return how versions, machine, seed, adapter and switches differ, and whether each run came to its end."""
    a, b = ({**dict(facts(report.header)), "complete": str(report.footer.complete)} for report in (first, second))
    names = dict.fromkeys([*a, *b])
    found = (Difference(name, a.get(name, ABSENT), b.get(name, ABSENT)) for name in names)
    return tuple(d for d in found if d.first != d.second)


def of_results(first: Report, second: Report) -> tuple[Difference, ...]:
    """Return rows that differ in verdicts, worst error or share of exact demands, and rows of one report alone."""
    a, b = ({row.key(): row for row in report.results} for report in (first, second))
    keys = dict.fromkeys([*a, *b])
    return tuple(
        Difference(" ".join(key), _said(a.get(key)), _said(b.get(key)))
        for key in keys
        if _judged(a.get(key)) != _judged(b.get(key))
    )


def _judged(row: Row | None) -> tuple[object, ...] | None:
    return None if row is None else (row.counts, row.worst, row.exact)


def _said(row: Row | None) -> str:
    if row is None:
        return ABSENT
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in row.counts.items())
    if row.exact is None or row.worst is None:
        return counts
    return f"{counts}; worst {row.worst:.6g}, exact {row.exact:.4%}"
