"""Journal of a run, written as it happens: a file of JSON lines per worker, merged when the run has ended.

Every write reaches the file at once. A worker that dies leaves all it had judged, and the name of the case that
it was running; at most its last line is cut.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.adapter import Crashed
from conformance.calls.compilations import NOTHING, Compiled
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import Case
from conformance.operations.levels import effective_levels
from conformance.operations.pairs import pairs_in
from conformance.oracle.histogram import NO_SIZES, Sizes
from conformance.runs.behind import Behind
from conformance.runs.data import from_data, number, to_data
from conformance.runs.failed import Failed, Smoke, failed
from conformance.runs.item import Failure, Item

Line = dict[str, Any]


class Journal:
    """The lines of one worker."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._file = (directory / f"journal-{worker}.jsonl").open("ab", buffering=0)
        self._named: tuple[Case | None, str] = (None, "")

    def started(self, item: Item, case: Case) -> None:
        """Note a whole case before it runs: the note may be the last act of this worker."""
        self._write("started", item, id=self._id(case), case=case.to_data())

    def smoked(self, item: Item, case: Case, crashed: Crashed) -> None:
        """Note that the first and plainest call of a run crashed."""
        self._write("smoked", item, how=crashed.how, trace=crashed.trace, case=case.to_data())

    def judged(self, item: Item, verdict: Verdict, waivers: tuple[int, ...] = ()) -> None:
        """Note a verdict: numbers where it passed, else with its reason; and the places of waivers that apply."""
        comparison = verdict.comparison
        line: Line = {"property": verdict.property, "status": verdict.status, "id": self._id(verdict.case)}
        if comparison.elements:
            line |= {"elements": comparison.elements, "exact": comparison.exact}
            line |= {"worst": number(comparison.worst), "sizes": to_data(comparison.sizes)}
        if verdict.terms:
            line["terms"] = dict(verdict.terms)
        if verdict.status is not Status.PASSED:
            line |= {"reason": verdict.reason, "case": verdict.case.to_data()}
        if waivers:
            line["waivers"] = waivers
        self._write("judged", item, **line)

    def settled(self, item: Item, status: Status, reason: str, waivers: tuple[int, ...] = ()) -> None:
        """Note one status for a whole item, without a case: it cannot be judged here, or broke the suite."""
        self._write("judged", item, property=item.property, status=status, reason=reason, waivers=waivers)

    def failed(self, failure: Failure, reproducer: Path, behind: Behind | None = None) -> None:
        """Note a failure: the smallest case, the first bad element and what is behind it, how to reproduce it."""
        self._write("failed", failure.item, **to_data(failed(failure, reproducer, behind)))

    def finished(
        self, item: Item, array: tuple[int, int] = (0, 0), compiled: Compiled = NOTHING, seconds: float = 0.0
    ) -> None:
        """Note that an item's cases were judged; ``array``: rows of its covering array that ran, of how many.

        ``compiled`` is what was compiled since the last item was finished; ``seconds`` is what the item took.
        """
        line: Line = {"array": array, "seconds": round(seconds, 3)}
        if compiled != NOTHING:
            line["compiled"] = to_data(compiled)
        self._write("finished", item, **line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: str, item: Item, **rest: Any) -> None:  # noqa: ANN401 - anything JSON can hold
        line = {"event": event, "item": str(item), **rest}
        self._file.write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _id(self, case: Case) -> str:
        # several verdicts in a row are about the same case, and its id is a hash of its text
        if self._named[0] is not case:
            self._named = (case, case.id)
        return self._named[1]


Row = tuple[str, str, str]  # operation, property, dtype


@dataclass(slots=True)
class Tally:
    """The verdicts of one row of the report, added up."""

    counts: Counter[str] = field(default_factory=Counter)
    elements: int = 0
    exact: int = 0
    worst: float = 0.0
    sizes: Sizes = NO_SIZES
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (status, reason) of unjudged cases
    terms: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # cases that show a term, of the cases that have it
    array: tuple[int, int] = (0, 0)  # rows of the covering array that ran, of how many

    def add(self, line: Line) -> None:
        """Count one verdict."""
        status = line["status"]
        self.counts[status] += 1
        self.elements += line.get("elements", 0)
        self.exact += line.get("exact", 0)
        self.worst = max(self.worst, float(line.get("worst", 0.0)))
        if "sizes" in line:
            self.sizes += from_data(Sizes, line["sizes"])
        for term, shows in line.get("terms", {}).items():
            seen, of = self.terms.get(term, (0, 0))
            self.terms[term] = seen + shows, of + 1
        if status not in {Status.PASSED, Status.FAILED}:
            self.reasons[status, line.get("reason", "")] += 1


@dataclass(frozen=True, slots=True)
class Bad:
    """A bad verdict on a judged case; ``case`` is that case as it is in the journal."""

    property: str
    status: str
    reason: str
    case: Line | None = None


@dataclass(slots=True, eq=False)
class Judged:
    """One judged case of an item: the effective levels of its factors, its dtype, and its bad verdicts."""

    operation: str
    property: str
    id: str
    levels: Mapping[str, str]
    bad: list[Bad] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Records:
    """Merged journals of all workers of one run.

    ``unfinished`` maps an item to the case that ran last in it, ``waivers`` the place of a waiver to the numbers
    of its verdicts by status. ``rows`` has every judged case of the operations in which one fails,
    ``judged_cases`` counts the cases of all operations, ``pairs`` has the numbers of the pairs of levels that
    judged cases of each operation have. ``took`` has the seconds of items.
    """

    tallies: Mapping[Row, Tally]
    failures: tuple[Failed, ...]
    finished: frozenset[str]
    unfinished: Mapping[str, Case]
    cases: int
    waivers: Mapping[int, Counter[str]]
    smoke: Smoke | None = None
    rows: Sequence[Judged] = ()
    judged_cases: int = 0
    pairs: Mapping[str, Collection[int]] = field(default_factory=dict)
    compiled: Compiled = NOTHING
    took: Mapping[str, float] = field(default_factory=dict)


class JournalDamaged(ValueError):
    """Error: a shard holds what no journal writes."""


def prepare(directory: Path) -> None:
    """Make the directory, and remove the journals that an earlier run left there.

    Cases and reproducers stay: they are named by their content, so they are never out of date.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in (
        "journal-*.jsonl",
        "report.json",
        "report.html",
        "output.log",
        "junit.xml",
        "junit-[0-9]*.xml",
    ):
        for file in directory.glob(pattern):
            file.unlink()


def ended(directory: Path, begun: float) -> float:
    """Return the time of the last line of all workers, whose processes end later; ``begun`` where none wrote."""
    return max((shard.stat().st_mtime for shard in directory.glob("journal-*.jsonl")), default=begun)


def read(directory: Path) -> Records:
    """Merge the shards of a directory."""
    return merge(line for shard in sorted(directory.glob("journal-*.jsonl")) for line in _lines(shard))


def merge(lines: Iterable[Line]) -> Records:
    """Add up the lines of all workers."""
    tallies: dict[Row, Tally] = {}
    failures = []
    smoke: Smoke | None = None
    finished = set()
    running: dict[str, Line] = {}
    waivers: dict[int, Counter[str]] = {}
    cases = 0
    compiled = NOTHING
    took: Counter[str] = Counter()
    rows: dict[tuple[str, str], Judged] = {}
    for line in lines:
        item = line["item"]
        match line["event"]:
            case "smoked":
                smoke = smoke or from_data(Smoke, line)
            case "started":
                running[item] = line["case"]
                cases += 1
            case "judged":
                operation, _, dtype, _ = item.split("/")
                tallies.setdefault((operation, line["property"], dtype), Tally()).add(line)
                if line["status"] in {Status.PASSED, *BAD} and item in running and "id" in line:
                    _note(rows, line, running[item])
                for place in line.get("waivers", ()):
                    waivers.setdefault(place, Counter())[line["status"]] += 1
            case "failed":
                failures.append(from_data(Failed, line))
            case "finished":
                finished.add(item)
                if "compiled" in line:
                    compiled += from_data(Compiled, line["compiled"])
                took[item] += line.get("seconds", 0.0)
                ran, of = line["array"]
                if of:
                    operation, prop, dtype, _ = item.split("/")
                    tally = tallies.setdefault((operation, prop, dtype), Tally())
                    tally.array = tally.array[0] + ran, tally.array[1] + of
    unfinished = {item: Case.from_data(case) for item, case in running.items() if item not in finished}
    failing = {row.operation for row in rows.values() if row.bad}
    kept = [row for row in rows.values() if row.operation in failing]
    pairs: dict[str, set[int]] = {}
    for row in rows.values():
        pairs.setdefault(row.operation, set()).update(pairs_in(row.operation, row.levels))
    return Records(
        tallies,
        tuple(failures),
        frozenset(finished),
        unfinished,
        cases,
        waivers,
        smoke,
        kept,
        len(rows),
        pairs,
        compiled,
        took,
    )


def _note(rows: dict[tuple[str, str], Judged], line: Line, case: Line) -> None:
    """Add a verdict to the row of its case; ``case`` is the one that its item judges at the time."""
    item, name = line["item"], line["id"]
    row = rows.get((item, name))
    if row is None:
        operation, prop, dtype, _ = item.split("/")
        # interned: there are many rows and few levels
        levels = {sys.intern(f): sys.intern(level) for f, level in effective_levels(Case.from_data(case)).items()}
        row = rows[item, name] = Judged(operation, prop, name, {**levels, "dtype": dtype})
    if line["status"] in BAD:
        row.bad.append(Bad(line["property"], line["status"], line.get("reason", ""), line.get("case")))


def _lines(shard: Path) -> Iterator[Line]:
    lines = shard.read_bytes().splitlines(keepends=True)
    for place, text in enumerate(lines, start=1):
        try:
            yield json.loads(text)
        except ValueError as error:
            # a worker that died in the middle of a write
            if place == len(lines) and not text.endswith(b"\n"):
                return
            raise JournalDamaged(f"{shard}:{place}: not a line of a journal: {text[:80]!r}") from error
