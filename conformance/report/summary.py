"""The first lines of a report: what fails, what holds and on which calls, and what has no evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from conformance.calls.verdict import BAD, Status
from conformance.report import table
from conformance.report.document import Report, Row
from conformance.report.table import Tone

# what may be true of a property, in the order of the lines
FAILS, WAIVED, HOLDS, UNKNOWN = "fails", "fails, waived", "holds", "no evidence"
TONES = {FAILS: Tone.WRONG, WAIVED: Tone.ASIDE, HOLDS: Tone.GOOD, UNKNOWN: Tone.ASIDE}
UNPROVED = frozenset({Status.NO_EVIDENCE, Status.ERROR})  # whatever else was judged


@dataclass(frozen=True, slots=True)
class Line:
    """Properties of which one thing is true; ``causes`` are the numbers of the cards that explain it."""

    head: str
    tone: Tone
    said: str
    causes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of an operation: the calls that it takes, and a line for each thing that is true."""

    operation: str
    on: str
    lines: tuple[Line, ...]


def summaries(report: Report) -> tuple[Summary, ...]:
    """Return the summary of every operation that is implemented."""
    missing = table.not_implemented(report)
    operations = dict.fromkeys(row.operation for row in report.results if row.operation not in missing)
    return tuple(_summary(report, operation) for operation in operations)


def _summary(report: Report, operation: str) -> Summary:
    rows = [row for row in report.results if row.operation == operation]
    survey = report.surveys.get(operation)
    on = f"{survey.said} ({table.known(survey)})" if survey else ""
    return Summary(operation, on, tuple(_lines(report, rows)))


def _lines(report: Report, rows: list[Row]) -> Iterator[Line]:
    every = len({row.dtype for row in rows})
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault(_state(row), []).append(row)
    for head, tone in TONES.items():
        for (state, why), some in found.items():
            if state == head:
                causes = {number for row in some for number in table.causes_of(row, report) if state == FAILS}
                said = f"{_named(some, every)}: {why}" if why else _named(some, every)
                yield Line(head, tone, said, tuple(sorted(causes)))


def _state(row: Row) -> tuple[str, str]:
    """Return what is known of a row, and why it is not more: the most frequent reason."""
    counts = row.counts
    if any(counts.get(status) for status in BAD):
        return FAILS, ""
    if counts.get(Status.WAIVED):
        return WAIVED, ""
    if counts.get(Status.PASSED) and not any(counts.get(status) for status in UNPROVED):
        return HOLDS, ""
    given = sorted(row.reasons, key=lambda each: (each.status not in UNPROVED, -each.count))
    return UNKNOWN, given[0].reason if given else ""


def _named(rows: Iterable[Row], every: int) -> str:
    """Return the properties of rows; dtypes are named where it is not every one that the operation has."""
    dtypes: dict[str, list[str]] = {}
    for row in rows:
        dtypes.setdefault(row.property, []).append(row.dtype)
    return ", ".join(_with_dtypes(dtypes, every))


def _with_dtypes(dtypes: Mapping[str, list[str]], every: int) -> Iterator[str]:
    for prop, names in dtypes.items():
        yield prop if len(names) == every else f"{prop} ({', '.join(names)})"
