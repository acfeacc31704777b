"""The state of a row of results in one word: it fails, holds, or has no evidence."""

from __future__ import annotations

from enum import StrEnum

from conformance.calls.verdict import BAD, Status
from conformance.report.document import Row

UNPROVED = frozenset({Status.NO_EVIDENCE, Status.ERROR})  # whatever else was judged


class State(StrEnum):
    """State of a row of results, the worst first."""

    FAILS = "fails"
    WAIVED = "fails, waived"
    UNKNOWN = "no evidence"
    HOLDS = "holds"


def state_of(row: Row) -> State:
    """Return what is known of a row."""
    counts = row.counts
    if any(counts.get(status) for status in BAD):
        return State.FAILS
    if counts.get(Status.WAIVED):
        return State.WAIVED
    proved = counts.get(Status.PASSED) and not any(counts.get(status) for status in UNPROVED)
    return State.HOLDS if proved else State.UNKNOWN


def why_unknown(row: Row) -> str:
    """Return why a row has no evidence: the most frequent reason, the suite's own first; or nothing."""
    if state_of(row) is not State.UNKNOWN:
        return ""
    given = sorted(row.reasons, key=lambda each: (each.status not in UNPROVED, -each.count))
    return given[0].reason if given else ""
