"""The first lines of a report: what fails, what holds and on which calls, and what has no evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from conformance.report import table
from conformance.report.document import Report, Row
from conformance.report.state import State, state_of, why_unknown
from conformance.report.table import Tone

# in the order of the lines
TONES = {State.FAILS: Tone.WRONG, State.WAIVED: Tone.ASIDE, State.HOLDS: Tone.GOOD, State.UNKNOWN: Tone.ASIDE}


@dataclass(frozen=True, slots=True)
class Line:
    """Properties of which one thing is true; ``causes`` are the numbers of the cards that explain it."""

    head: str
    tone: Tone
    said: str
    causes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of an operation: the calls that it takes, and a line for each thing that is true of it."""

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
    found: dict[tuple[State, str], list[Row]] = {}
    for row in rows:
        found.setdefault((state_of(row), why_unknown(row)), []).append(row)
    for head, tone in TONES.items():
        for (state, why), some in found.items():
            if state is head:
                numbers = (table.causes_of(row, report) for row in some if state is State.FAILS)
                said = f"{_named(some, every)}: {why}" if why else _named(some, every)
                yield Line(head, tone, said, tuple(sorted(set().union(*numbers))))


def _named(rows: Iterable[Row], every: int) -> str:
    """Return the properties of rows; dtypes are named where it is not every one that the operation has."""
    dtypes: dict[str, list[str]] = {}
    for row in rows:
        dtypes.setdefault(row.property, []).append(row.dtype)
    return ", ".join(_with_dtypes(dtypes, every))


def _with_dtypes(dtypes: Mapping[str, list[str]], every: int) -> Iterator[str]:
    for prop, names in dtypes.items():
        yield prop if len(names) == every else f"{prop} ({', '.join(names)})"
