"""One report from reports of numbered chunks of the same run: every verdict of every chunk, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from conformance.report import differences
from conformance.report.causes import by_size, size
from conformance.report.differences import Difference
from conformance.report.document import Cause, Covered, Footer, Level, Rate, Report, Row, Waived
from conformance.report.results import alarms_of, exit_code, longest, rows, unproved_of
from conformance.runs.failed import Failed
from conformance.runs.journal import Row as Key
from conformance.runs.journal import Tally
from conformance.runs.waivers import stale

# entries of headers that may differ between machines that judge one run
MAY_DIFFER = frozenset({"platform", "gpu_memory", "chunks", "command", "options_from"})


Number = TypeVar("Number", int, float)


def mismatches(first: Report, other: Report) -> tuple[Difference, ...]:
    """Return what keeps two chunks from being parts of one run: versions, device, commit, adapter, switches."""
    found = differences.of_headers(first, other)
    return tuple(each for each in found if each.what.partition(".")[0] not in MAY_DIFFER)


def merged(chunks: Iterable[tuple[int, Report]], held: Sequence[int] = (), command: str = "") -> Report | None:
    """Return the report of some chunks by number; None where there are none.

    ``held`` are the places of waivers that must show in these chunks, ``command`` is the one that judges all of
    them. Of the failures of a cause only the smallest of each operation, property and dtype is kept: all are in
    the reports of their chunks. No number depends on the order of the chunks; the header and the surveys are the
    first chunk's.
    """
    total: Report | None = None
    numbers: set[int] = set()
    for number, report in chunks:
        assert number not in numbers, f"chunk {number} counts once"
        numbers.add(number)
        total = _begun(report) if total is None else _added(total, report)
    return None if total is None else _ended(total, numbers, held, command)


def spans(numbers: Iterable[int]) -> str:
    """Return numbers in words: ``0 to 3, 5, 7 to 9``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in found)


def _begun(report: Report) -> Report:
    """Return the first report in the form that sums have."""
    failures, causes = _causes([report])
    return replace(report, results=rows(_tallies([report])), failures=failures, causes=causes)


def _added(one: Report, other: Report) -> Report:
    """Return the sum of two reports. All counts are sums; what only one can have is the first's."""
    both = (one, other)
    failures, causes = _causes(both)
    return replace(
        one,
        surveys={**other.surveys, **one.surveys},
        coverage=_coverage(both),
        results=rows(_tallies(both)),
        smoke=one.smoke or other.smoke,
        failures=failures,
        causes=causes,
        waivers=tuple(_waiver(*pair) for pair in zip(one.waivers, other.waivers, strict=True)),
        footer=_footer(one.footer, other.footer),
    )


def _ended(total: Report, numbers: set[int], held: Sequence[int], command: str) -> Report:
    """Return a sum with its conclusions, which no chunk can draw alone."""
    tallies = _tallies([total])
    waivers = tuple(
        replace(each, held=place in held, stale=stale(each.counts, strict=each.strict) if place in held else "")
        for place, each in enumerate(total.waivers)
    )
    alarms, unproved = alarms_of(tallies, total.surveys), unproved_of(tallies)
    out_of_date = sum(bool(each.stale) for each in waivers)
    code = exit_code(
        total.footer.verdicts,
        complete=total.footer.complete,
        stale=out_of_date,
        alarms=alarms,
        unproved=unproved,
    )
    return replace(
        total,
        header=replace(total.header, chunks=spans(numbers), command=command),
        waivers=waivers,
        footer=replace(
            total.footer,
            seconds=round(total.footer.seconds, 1),
            compiled=replace(total.footer.compiled, seconds=round(total.footer.compiled.seconds, 1)),
            took={name: round(seconds, 1) for name, seconds in total.footer.took.items()},
            stale_waivers=out_of_date,
            alarms=tuple(alarms),
            unproved=tuple(unproved),
            exit_code=int(code),
        ),
    )


def _footer(one: Footer, other: Footer) -> Footer:
    return replace(
        one,
        items=one.items + other.items,
        chunks=one.chunks + other.chunks,
        unfinished=one.unfinished + other.unfinished,
        cases=one.cases + other.cases,
        judged_cases=one.judged + other.judged,
        verdicts=_sums(one.verdicts, other.verdicts),
        elements=one.elements + other.elements,
        seconds=one.seconds + other.seconds,
        compiled=one.compiled + other.compiled,
        took=_sums(one.took, other.took),
        longest=longest({**one.longest, **other.longest}),
        interrupted=one.interrupted or other.interrupted,
        complete=one.complete and other.complete,
    )


def _sums(*counts: Mapping[str, Number]) -> dict[str, Number]:
    """Return numbers added up by name, in an order that does not depend on theirs."""
    names = sorted(set(chain.from_iterable(counts)))
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


def _coverage(reports: Sequence[Report]) -> dict[str, Covered]:
    found: dict[str, Covered] = {}
    for name, covered in chain.from_iterable(report.coverage.items() for report in reports):
        bits = int(covered.pairs, 16) | (int(found[name].pairs, 16) if name in found else 0)
        found[name] = Covered(f"{bits:x}", covered.of)
    return dict(sorted(found.items()))


def _waiver(one: Waived, other: Waived) -> Waived:
    return replace(one, counts=_sums(one.counts, other.counts))


# --- verdicts ---------------------------------------------------------------------------------------------------


def _tallies(reports: Sequence[Report]) -> dict[Key, Tally]:
    """Return the verdicts of all rows, added up."""
    found: dict[Key, Tally] = {}
    for row in chain.from_iterable(report.results for report in reports):
        _count(found.setdefault(row.key(), Tally()), row)
    for tally in found.values():
        # the most frequent reason first, whichever chunk had it first
        tally.reasons = Counter(dict(sorted(tally.reasons.items(), key=lambda entry: (-entry[1], entry[0]))))
        tally.terms = dict(sorted(tally.terms.items()))
    return found


def _count(tally: Tally, row: Row) -> None:
    tally.counts.update(row.counts)
    tally.elements += row.elements
    # a share of fewer than 2**52 elements gives back their number
    tally.exact += round((row.exact or 0.0) * row.elements)
    tally.worst = max(tally.worst, row.worst or 0.0)
    tally.sizes += row.sizes
    tally.reasons.update({(each.status, each.reason): each.count for each in row.reasons})
    for term, (seen, of) in row.terms.items():
        known = tally.terms.get(term, (0, 0))
        tally.terms[term] = known[0] + seen, known[1] + of
    ran, of = row.array or (0, 0)
    tally.array = tally.array[0] + ran, tally.array[1] + of


# --- causes -----------------------------------------------------------------------------------------------------

Cell = tuple[str, str, str]  # operation, property and dtype of a failure


@dataclass(slots=True)
class _Sum:
    """Causes of one kind, and the smallest of their failures in each cell."""

    cause: Cause
    smallest: dict[Cell, Failed]


def _causes(reports: Sequence[Report]) -> tuple[tuple[Failed, ...], tuple[Cause, ...]]:
    """Return failures and their causes: those of one kind are one."""
    found: dict[tuple[object, ...], _Sum] = {}
    for report, cause in [(each, cause) for each in reports for cause in each.causes]:
        known = found.get(cause.kind)
        total = _Sum(cause, {}) if known is None else replace(known, cause=_joined(known.cause, cause))
        for failure in (report.failures[place] for place in cause.failures):
            cell = failure.operation, failure.property, failure.dtype
            total.smallest[cell] = min(total.smallest.get(cell, failure), failure, key=_size)
        found[cause.kind] = total
    order = sorted(found.values(), key=lambda each: (each.cause.severity, -each.cause.cases, each.cause.kind))
    failures: list[Failed] = []
    causes = []
    for total in order:
        own = [total.smallest[cell] for cell in sorted(total.smallest)]
        places = range(len(failures), len(failures) + len(own))
        failures += own
        causes.append(replace(total.cause, failures=tuple(by_size(total.cause.says, places, failures))))
    return tuple(failures), tuple(causes)


def _size(failure: Failed) -> tuple[tuple[int, int], str]:
    return size(failure), failure.case.to_json()


def _joined(one: Cause, other: Cause) -> Cause:
    theirs = {rate.factor: rate for rate in other.rates}
    return replace(
        one,
        severity=min(one.severity, other.severity),
        dtypes=tuple(sorted({*one.dtypes, *other.dtypes})),
        properties=dict(Counter(_sums(one.properties, other.properties)).most_common()),
        cases=one.cases + other.cases,
        judged=one.judged + other.judged,
        rates=tuple(_rate(rate, theirs[rate.factor]) for rate in one.rates),
        example=min(one.example, other.example),
    )


def _rate(one: Rate, other: Rate) -> Rate:
    failing = _sums(*({each.level: each.failing for each in rate.levels} for rate in (one, other)))
    judged = _sums(*({each.level: each.judged for each in rate.levels} for rate in (one, other)))
    levels = (Level(name, failing[name], judged[name]) for name in judged)
    ordered = sorted(levels, key=lambda each: (-each.failing / each.judged, each.level))
    return Rate(one.factor, tuple(sorted({*one.where, *other.where})), tuple(ordered))
