"""Cells of a report, in words and tones: the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from conformance.calls.budget import gib
from conformance.calls.compilations import NOTHING, Compiled
from conformance.calls.verdict import BAD, NOT_IMPLEMENTED, Status
from conformance.properties import PASSIVE, PROMISES
from conformance.report.document import Footer, Header, Report, Row, Taken, Unfinished
from conformance.report.results import Exit
from conformance.runs.options import IN_HEADER

# a cell and a list must stay readable; the rest is in report.json
MOST_REASONS = 3
MOST_UNFINISHED = 10
MOST_TIME = 5  # properties whose share of the time is shown


class Tone(StrEnum):
    """Tone of a text: a colour that adds nothing to the words."""

    GOOD = "good"
    WRONG = "wrong"
    ASIDE = "aside"


@dataclass(frozen=True, slots=True)
class Said:
    """A line of a cell, with the numbers of its footnotes."""

    text: str
    tone: Tone
    notes: tuple[int, ...] = ()
    more: bool = False  # whether there are more reasons than the footnotes
    causes: tuple[int, ...] = ()  # numbers of the cards that explain the line

    @property
    def marks(self) -> str:
        """Return the footnotes as ``[1,2,…]``, or nothing."""
        return f"[{','.join(map(str, self.notes))}{',…' if self.more else ''}]" if self.notes else ""


Cell = tuple[Said, ...]
Line = tuple[str, str, tuple[Cell, ...]]  # a property, its promise, and a cell for each dtype


@dataclass(frozen=True, slots=True)
class Table:
    """An operation's cells: a line per property with its promise, a column per dtype.

    In tables of another kind ``of`` names what the lines are.
    """

    operation: str
    dtypes: tuple[str, ...]
    lines: tuple[Line, ...]
    of: str = "property"


@dataclass(frozen=True, slots=True)
class Section:
    """A further part of a page, about something that is no run of the suite."""

    title: str
    end: Said
    heading: tuple[str, ...]
    wrong: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


class Reasons:
    """Footnotes: every reason once, numbered in the order of its first mention."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, row: Row, status: str) -> tuple[tuple[int, ...], bool]:
        """Return the footnotes of a row's most frequent verdicts of one status, and whether there are more."""
        reasons = [each.reason for each in row.reasons if each.status == status]
        numbers = (self._numbers.setdefault(reason, len(self._numbers) + 1) for reason in reasons[:MOST_REASONS])
        return tuple(sorted(numbers)), len(reasons) > MOST_REASONS

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return ((number, reason) for reason, number in self._numbers.items())


def tables(report: Report, reasons: Reasons) -> tuple[Table, ...]:
    """Return a table per operation that has something to show."""
    every = dict.fromkeys(row.operation for row in report.results)
    missing = not_implemented(report)
    return tuple(_table(operation, report, reasons) for operation in every if operation not in missing)


def not_implemented(report: Report) -> tuple[str, ...]:
    """Return the operations that the adapter does not implement: a line names them, in place of tables."""
    said: dict[str, set[str]] = {}
    for row in report.results:
        reasons = {each.reason for each in row.reasons}
        said.setdefault(row.operation, set()).update(reasons or {""})
    return tuple(operation for operation, reasons in said.items() if reasons == {NOT_IMPLEMENTED})


def _table(operation: str, report: Report, reasons: Reasons) -> Table:
    rows = {(row.property, row.dtype): row for row in report.results if row.operation == operation}
    dtypes = tuple(sorted({dtype for _, dtype in rows}))
    judged = dict.fromkeys(prop for prop, _ in rows)
    known = [prop for prop in PROMISES if prop in judged]
    properties = (*known, *(prop for prop in judged if prop not in PROMISES))
    lines = (
        (
            prop,
            PROMISES.get(prop, ""),
            tuple(_cell(rows.get((prop, dtype)), prop, reasons, report) for dtype in dtypes),
        )
        for prop in properties
    )
    return Table(operation, dtypes, tuple(lines))


def _cell(row: Row | None, prop: str, reasons: Reasons, report: Report) -> Cell:
    if row is None:
        return (Said("no call ran" if prop in PASSIVE else "not in this run", Tone.ASIDE),)
    counts = row.counts
    judged = sum(counts.get(status, 0) for status in (Status.PASSED, *BAD))
    lines = [_judged(counts, judged, causes_of(row, report))] if judged else []
    for status, word in _ASIDE.items():
        if counts.get(status):
            number = f"{counts[status]} " if judged or status != Status.NOT_JUDGED else ""
            number = "" if status == Status.NO_EVIDENCE else number
            tone = Tone.WRONG if status in {Status.ERROR, Status.NO_EVIDENCE} else Tone.ASIDE
            lines.append(Said(f"{number}{word}", tone, *reasons.of(row, status)))
    if row.property == "values" and row.worst is not None and row.exact is not None:
        lines.append(Said(f"worst {row.worst:.3g}", Tone.ASIDE))
        lines.append(Said(f"exact {share(row.exact)}", Tone.ASIDE))
    if row.terms:
        # the tone that is hardest to see
        term, (seen, of) = min(row.terms.items(), key=lambda each: each[1][0] / each[1][1])
        lines.append(Said(f"{term} in {seen} of {of}", Tone.ASIDE))
    return tuple(lines)


_ASIDE = {
    Status.ERROR: "error",
    Status.DECLINED: "declined",
    Status.NO_EVIDENCE: "no evidence",
    Status.NOT_JUDGED: "not judged",
    Status.WAIVED: "waived",
}


def causes_of(row: Row, report: Report) -> tuple[int, ...]:
    """Return the numbers of the causes of a cell's failures."""
    return tuple(
        number
        for number, cause in enumerate(report.causes, start=1)
        if row.operation in cause.operations and row.property in cause.properties and row.dtype in cause.dtypes
    )


def idle(cells: tuple[Cell, ...]) -> bool:
    """Return whether nothing was judged in any cell of a line."""
    return all(said.tone is Tone.ASIDE for cell in cells for said in cell)


def _judged(counts: Mapping[str, int], judged: int, causes: tuple[int, ...]) -> Said:
    bad = [f"{counts[status]} {status}" for status in Status if status in BAD and counts.get(status)]
    if bad:
        return Said(f"{', '.join(bad)} of {judged}", Tone.WRONG, causes=causes)
    return Said(f"{judged} ok", Tone.GOOD)


def share(part: float) -> str:
    """Return a share in percent, which is 100 % only where it is everything."""
    return f"{part:.0%}" if part in {0.0, 1.0} else f"{min(part, 0.9999):.2%}"


# --- around the tables --------------------------------------------------------------------------------------

_ENDS = {
    Exit.HOLDS: ("every judged property holds", Tone.GOOD),
    Exit.FAILED: ("not every property holds", Tone.WRONG),
    Exit.NOTHING_JUDGED: ("nothing was judged", Tone.WRONG),
    Exit.BROKEN: ("the suite itself failed: this run decides nothing", Tone.WRONG),
    Exit.INTERRUPTED: ("interrupted before its end", Tone.WRONG),
}


def heading(header: Header) -> tuple[str, ...]:
    """Return what was judged where, what the adapter declares, and what was drawn."""
    adapter = header.adapter
    contracts = ", ".join(f"{name}: {contract.text}" for name, contract in adapter.contracts.items())
    chunks = f", chunks {header.chunks}" if header.chunks else ""
    commit = f", commit {header.commit}" if header.commit else ""
    file = f", options from {header.options_from}" if header.options_from else ""
    decided = ", ".join(f"{name} {getattr(header, name)}" for name in IN_HEADER)
    versions = f"torch {header.torch}, triton {header.triton or 'not installed'}"
    return (
        f"{adapter.name} on {header.device}{_budget(header)}; {versions}",
        f"declares {contracts or 'no contract'}",
        f"{decided}{chunks}{commit}{file}",
        *(f"importing it changed {words}" for words in header.changed_by_import),
    )


def _budget(header: Header) -> str:
    """Return in words what a worker was allowed to hold of the GPU."""
    memory = header.gpu_memory
    if memory is None:
        return ""
    return f", {gib(memory.bytes)} of it for each of {many(memory.workers, 'worker')}"


def evidence(report: Report) -> tuple[tuple[str, str], ...]:
    """Return the evidence in a row's cases: terms of the formula, and the share of the covering array that ran."""
    said = []
    for row in report.results:
        name = " ".join(row.key())
        terms = [f"{term} in {seen} of {of} cases" for term, (seen, of) in row.terms.items()]
        array = ["{} of {} rows of the covering array".format(*row.array)] if row.array else []
        said += [(name, "; ".join([*terms, *array]))] if terms or array else []
    return tuple(said)


def problems(report: Report) -> tuple[str, ...]:
    """Return what is wrong with a run besides its failures, a line each."""
    return (*_stale_waivers(report), *_unfinished(report), *report.footer.alarms)


def _stale_waivers(report: Report) -> tuple[str, ...]:
    stale = (each for each in report.waivers if each.stale)
    return tuple(f"the waiver of {each.issue} where {each.where}: {each.stale}, take it out" for each in stale)


def _unfinished(report: Report) -> tuple[str, ...]:
    """Return what was not judged to its end: counted where the run was ended on purpose, named where it broke."""
    footer = report.footer
    entries = footer.unfinished
    stopped = footer.exit_code == Exit.FAILED
    if entries and (footer.interrupted or stopped):
        why = "stopped at a failure: " if stopped else ""
        return (f"{why}{len(entries)} of {footer.items} items were not judged to their end",)
    lines = [_stopped(entry) for entry in entries[:MOST_UNFINISHED]]
    left_out = len(entries) - MOST_UNFINISHED
    return (*lines, *[f"and {left_out} more items did not finish"] * (left_out > 0))


def _stopped(entry: Unfinished) -> str:
    case = f", while it ran {entry.case}" if entry.case else ""
    return f"{entry.item} did not finish{case}"


def many(count: int, name: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {name}{'s' * (count != 1)}"


def closing(report: Report) -> tuple[Said, str]:
    """Return how the run ended, and its totals: the judged, and separately the unjudged."""
    footer, name = report.footer, report.header.adapter.name
    said, tone = _ENDS[Exit(footer.exit_code)]
    counts = footer.verdicts
    judged = {status: counts[status] for status in counts if status == Status.PASSED or status in BAD}
    beyond = f" ({many(footer.chunks, 'chunk')} beyond the profile)" if footer.chunks else ""
    compared = f"{footer.elements:,} elements compared in {footer.seconds:g} s"
    totals = f"judged: {footer.judged:,} cases{beyond}, {compared}; verdicts: {_counted(judged) or 'none'}"
    others = _counted({status: count for status, count in counts.items() if status not in judged})
    if footer.exit_code == Exit.HOLDS:
        said = f"{said}, on what it takes" if _takes(report) else said
    if footer.unproved:
        said, tone = f"{said}; no evidence for values of {', '.join(footer.unproved)}", Tone.WRONG
    lines = [
        totals,
        *([f"beside these: {others}"] if others else []),
        *_compiled(footer.compiled),
        *_took(footer),
    ]
    return Said(f"{name}: {said}", tone), "\n".join(lines)


def _compiled(compiled: Compiled) -> Iterator[str]:
    """Yield the line that says what was compiled, where anything was."""
    if compiled != NOTHING:
        took = f"{compiled.kernels:,} kernels in {compiled.seconds:,.0f} s of all processes"
        yield f"compiled: {took}; {compiled.cached:,} lay in Triton's cache"


def _took(footer: Footer) -> Iterator[str]:
    """Yield the line that says what took most of the time, where that is known."""
    took, every = footer.took, sum(footer.took.values())
    most = sorted((name for name in took if took[name]), key=lambda name: -took[name])[:MOST_TIME]
    if most:
        said = ", ".join(f"{name} {took[name] / every:.0%}" for name in most)
        longest = [f"; {item} alone took {seconds:,.1f} s" for item, seconds in footer.longest.items()][:1]
        yield "".join((f"time: {every:,.0f} s of all processes, most of it for {said}", *longest))


def _takes(report: Report) -> bool:
    return any(each.said for each in report.surveys.values())


def taken(report: Report) -> tuple[str, ...]:
    """Return what is taken of every operation that was judged, a line each, and how that is known."""
    lines = []
    for operation, found in report.surveys.items():
        lines.append(f"{operation} {found.said} ({known(found)})")
        lines += [f"   refused: {reason}" for reason, _ in found.refusals[:MOST_REASONS]]
    return tuple(lines)


def known(found: Taken) -> str:
    """Return how it is known what is taken."""
    return "claimed" if found.claimed else f"{found.ran} of {found.calls} calls of a survey ran"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in counts.items())
