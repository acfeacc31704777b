"""``report.json`` and exit code from records. A report without its footer belongs to a run that did not end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

from conformance.calls.claim import pasted, said, to_data
from conformance.calls.verdict import BAD, NOT_IMPLEMENTED, Status
from conformance.operations.pairs import pairs_of, written
from conformance.properties import PROMISES
from conformance.report import causes
from conformance.report.document import Covered, Footer, Header, Reason, Report, Row, Taken, Unfinished, Waived
from conformance.report.lines import in_lines
from conformance.runs import data, journal
from conformance.runs.item import PROFILES
from conformance.runs.journal import Records, Tally
from conformance.runs.judge import CRASHES
from conformance.runs.survey import Survey
from conformance.runs.waivers import NONE, Waivers, stale

LONGEST = 5  # items whose seconds a report has


class Exit(IntEnum):
    """Exit status of a run."""

    HOLDS = 0  # every judged property holds
    FAILED = 1  # something failed, crashed or hung, or a waiver is out of date
    USAGE = 2  # a request that cannot be met
    NOTHING_JUDGED = 3
    BROKEN = 4  # the suite itself failed
    INTERRUPTED = 130  # by Ctrl-C, in the way of shells


def build(
    records: Records,
    header: Header,
    planned: Collection[str],
    seconds: float,
    *,
    waivers: Waivers = NONE,
    surveys: Mapping[str, Survey] | None = None,
    interrupted: bool = False,
    stopped: bool = False,
) -> Report:
    """Return the whole report.

    ``planned`` are the items (as text) that this run set out to judge, ``waivers`` those that apply to it.
    ``stopped``: the run was to stop at its first failure, and did.
    """
    left = sorted(set(planned) - records.finished)
    unfinished = tuple(Unfinished(item, records.unfinished.get(item)) for item in left)
    taken = {name: _taken(name, found) for name, found in (surveys or {}).items()}
    alarms = alarms_of(records.tallies, taken)
    totals = sum((tally.counts for tally in records.tallies.values()), Counter[str]())
    complete = not unfinished and not interrupted
    waived = tuple(_waiver(place, waivers, records, complete=complete) for place in range(len(waivers.every)))
    out_of_date = sum(bool(each.stale) for each in waived)
    unproved = unproved_of(records.tallies)
    code = exit_code(
        totals,
        complete=complete,
        stale=out_of_date,
        alarms=alarms,
        unproved=unproved,
        interrupted=interrupted,
        stopped=stopped,
    )
    footer = Footer(
        items=len(planned),
        chunks=_beyond(planned, header.profile),
        unfinished=unfinished,
        cases=records.cases,
        judged_cases=records.judged_cases,
        verdicts={status: totals[status] for status in Status if totals[status]},
        elements=sum(tally.elements for tally in records.tallies.values()),
        seconds=round(seconds, 1),
        compiled=replace(records.compiled, seconds=round(records.compiled.seconds, 1)),
        took=by_property(records.took),
        longest=longest(records.took),
        stale_waivers=out_of_date,
        interrupted=interrupted,
        complete=complete,
        alarms=tuple(alarms),
        unproved=tuple(unproved),
        exit_code=int(code),
    )
    return Report(
        header=header,
        surveys=taken,
        coverage={name: _covered(name, pairs) for name, pairs in sorted(records.pairs.items())},
        results=rows(records.tallies),
        smoke=records.smoke,
        failures=records.failures,
        causes=causes.grouped(records, records.failures),
        waivers=waived,
        footer=footer,
    )


def by_property(items: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of items, added up by property."""
    found: dict[str, float] = {}
    for item, seconds in items.items():
        prop = item.split("/")[1]
        found[prop] = found.get(prop, 0.0) + seconds
    return {name: round(found[name], 1) for name in sorted(found)}


def longest(items: Mapping[str, float]) -> dict[str, float]:
    """Return the items that took most seconds, and those."""
    most = sorted(items, key=lambda item: (-items[item], item))[:LONGEST]
    return {item: round(items[item], 1) for item in most if items[item]}


def exit_code(
    totals: Mapping[str, int],
    *,
    complete: bool,
    stale: int = 0,
    alarms: Sequence[str] = (),
    unproved: Sequence[str] = (),
    interrupted: bool = False,
    stopped: bool = False,
) -> Exit:
    """Return the exit code for the numbers of verdicts by status, of a run that reached its end or did not."""
    if interrupted:
        return Exit.INTERRUPTED
    if stopped and not totals.get(Status.ERROR) and any(totals.get(status) for status in BAD):
        return Exit.FAILED
    if totals.get(Status.ERROR) or not complete:
        return Exit.BROKEN
    if stale or any(totals.get(status) for status in BAD):
        return Exit.FAILED
    if not totals.get(Status.PASSED):
        return Exit.NOTHING_JUDGED
    if alarms:
        return Exit.FAILED
    return Exit.NOTHING_JUDGED if unproved else Exit.HOLDS


def alarms_of(tallies: Mapping[journal.Row, Tally], surveys: Mapping[str, Taken]) -> list[str]:
    """Return what is wrong with operations as a whole."""
    crashing = _wholly_crashed(tallies)
    return [
        *_wholly_declined(tallies),
        *(f"{operation}: every call crashes alike: {how}" for operation, how in crashing.items()),
        *_unjudged_crashes(tallies, surveys),
    ]


def _unjudged_crashes(tallies: Mapping[journal.Row, Tally], surveys: Mapping[str, Taken]) -> list[str]:
    """Return operations whose calls crashed in a survey, where this run judges no property that shows crashes."""
    return [
        f"{operation}: calls crash that the survey tried, as {found.crashes[0]}: judge claim or values"
        for operation, found in surveys.items()
        if found.crashes and not any(row[0] == operation and row[1] in CRASHES for row in tallies)
    ]


def unproved_of(tallies: Mapping[journal.Row, Tally]) -> list[str]:
    """Return dtypes of operations whose values have no evidence, although they are claimed or taken."""
    return [
        f"{operation} in {dtype}"
        for (operation, prop, dtype), tally in tallies.items()
        if prop == "values" and tally.counts[Status.NO_EVIDENCE]
    ]


def _taken(operation: str, found: Survey) -> Taken:
    """Return a survey as the report has it, in words as well; there is no claim to paste where no call ran."""
    known = found.claimed or found.ran > 0
    return Taken(
        taken=to_data(found.taken),
        claimed=found.claimed,
        calls=found.calls,
        ran=found.ran,
        refusals=found.refusals,
        crashes=found.crashes,
        programs=found.programs,
        said=said(operation, found.taken) if known else "takes nothing that was tried",
        claim=pasted(operation, found.taken) if known else "",
    )


def _covered(operation: str, pairs: Iterable[int]) -> Covered:
    return Covered(written(pairs), len(pairs_of(operation)))


def _wholly_declined(tallies: Mapping[journal.Row, Tally]) -> list[str]:
    """Return operations that an adapter names but of which it took no call: whatever passes is of the others."""
    alarms = []
    for operation in dict.fromkeys(operation for operation, _, _ in tallies):
        its = [tally for (name, _, _), tally in tallies.items() if name == operation]
        counts = sum((tally.counts for tally in its), Counter[str]())
        reasons = {reason: None for tally in its for status, reason in tally.reasons if status == Status.DECLINED}
        reasons.pop(NOT_IMPLEMENTED, None)
        if reasons and not any(counts[status] for status in (Status.PASSED, Status.WAIVED, *BAD)):
            said = "; ".join(list(reasons)[:3])
            alarms.append(f"{operation}: every call was declined ({said}): take some, or drop the method")
    return alarms


def _wholly_crashed(tallies: Mapping[journal.Row, Tally]) -> dict[str, str]:
    """Return how calls crash, by operation, where every call that was made crashed in the same words."""
    found = {}
    for operation in dict.fromkeys(operation for operation, _, _ in tallies):
        its = [tally for (name, _, _), tally in tallies.items() if name == operation]
        counts = sum((tally.counts for tally in its), Counter[str]())
        ways = {reason for tally in its for status, reason in tally.reasons if status == Status.CRASHED}
        judged = sum(counts[status] for status in (Status.PASSED, Status.WAIVED, Status.ERROR, *BAD))
        if len(ways) == 1 and counts[Status.CRASHED] == judged > 1:
            found[operation] = ways.pop()
    return found


def _beyond(planned: Collection[str], profile: str) -> int:
    """Return how many chunks beyond its profile a run has."""
    numbers = {int(item.rpartition("/")[2]) for item in planned}
    return sum(number >= PROFILES[profile].chunks for number in numbers)


def _waiver(place: int, waivers: Waivers, records: Records, *, complete: bool) -> Waived:
    """Return a waiver, its verdicts, and why it has to go; a run cut short cannot tell the latter."""
    waiver, held = waivers.every[place], place in waivers.held
    counts = records.waivers.get(place, Counter[str]())
    return Waived(
        issue=waiver.issue,
        reason=waiver.reason,
        where=waiver.given,
        launches=waiver.launches,
        held=held,
        counts={status: counts[status] for status in Status if counts[status]},
        stale=stale(counts, strict=waiver.strict) if held and complete else "",
        strict=waiver.strict,
    )


def rows(tallies: Mapping[journal.Row, Tally]) -> tuple[Row, ...]:
    """Return the rows of a report, in the order of its tables."""
    return tuple(_row(row, tallies[row]) for row in sorted(tallies, key=_place))


def _place(row: tuple[str, str, str]) -> tuple[str, int, str, str]:
    operation, prop, dtype = row
    known = list(PROMISES)
    return operation, known.index(prop) if prop in known else len(known), prop, dtype


def _row(row: tuple[str, str, str], tally: Tally) -> Row:
    operation, prop, dtype = row
    return Row(
        operation=operation,
        property=prop,
        dtype=dtype,
        counts={status: tally.counts[status] for status in Status if tally.counts[status]},
        elements=tally.elements,
        worst=tally.worst if tally.elements else None,
        exact=tally.exact / tally.elements if tally.elements else None,
        reasons=tuple(Reason(status, reason, count) for (status, reason), count in tally.reasons.most_common()),
        terms=tally.terms,
        array=tally.array if tally.array[1] else None,
        sizes=tally.sizes,
    )


def write(directory: Path, report: Report) -> Path:
    """Write ``cases/<id>.json`` and then, in one step, ``report.json``, whose path is returned."""
    cases = directory / "cases"
    cases.mkdir(parents=True, exist_ok=True)
    known = [case for failure in report.failures for case in (failure.case, failure.original)]
    for case in (*known, *(cause.case for cause in report.causes if cause.case is not None)):
        (cases / f"{case.id}.json").write_text(case.to_json() + "\n", encoding="utf-8")
    target = directory / "report.json"
    unfinished = directory / "report.json.part"
    unfinished.write_text(in_lines(data.to_data(report)), encoding="utf-8")
    unfinished.replace(target)
    return target
