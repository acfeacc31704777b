"""Several implementations side by side: claims, contracts, failures by cause, and a table of every property.

A pure function of reports: the command ``conform world`` makes them, and the page from them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from conformance.calls.verdict import BAD, Status
from conformance.operations import OPERATIONS
from conformance.properties import PROMISES
from conformance.report.document import Counts, Report
from conformance.report.markdown import table

NOTHING = ""  # the cell of an operation that an implementation does not have
EXPLAINS = re.compile(r"no set of rounding points explains all|\{[\w, ]*\} explains all(?: \(named: [\w, ]+\))?")
FINDING = re.compile(r"^finding (\d+): ")
FINDINGS = "findings/"  # beside the page in docs/
KEY = """Made by `conform world` from reports, one for each implementation and lane; `conform world --read` makes the page again.
A cell counts cases of all dtypes: ✓ passed, **✗** failed or crashed, ~ known to fail (a waiver names the finding), – not
judged on this lane or in this profile. It is empty where an implementation declined."""  # noqa: E501 - wraps as Markdown


@dataclass(frozen=True, slots=True)
class Judged:
    """The report of an implementation on one lane; ``name`` is what ``conform run`` calls its adapter."""

    name: str
    lane: str
    report: Report

    @property
    def operations(self) -> tuple[str, ...]:
        """Return the operations of which some case was called."""
        called = {row.operation for row in self.report.results if set(row.counts) - {Status.DECLINED}}
        return tuple(name for name in OPERATIONS if name in called)

    @property
    def title(self) -> str:
        """Return the name, with the lane where it is another than the usual one."""
        return self.name if self.lane == "cpu" else f"{self.name} ({self.lane})"


@dataclass(frozen=True, slots=True)
class Cell:
    """The verdicts of one property of an operation, of an implementation on a lane, by status."""

    title: str
    operation: str
    property: str
    counts: Counts

    def __str__(self) -> str:
        bad = sum(self.counts.get(status, 0) for status in (*BAD, Status.ERROR))
        known, passed = self.counts.get(Status.WAIVED, 0), self.counts.get(Status.PASSED, 0)
        parts = [f"**✗ {bad}**"] * bool(bad) + [f"~ {known}"] * bool(known) + [f"✓ {passed}"] * bool(passed)
        unjudged = self.counts.get(Status.NOT_JUDGED) or self.counts.get(Status.NO_EVIDENCE)
        return " ".join(parts) or ("–" if unjudged else NOTHING)


def cells(judged: Sequence[Judged]) -> tuple[Cell, ...]:
    """Return every cell of the matrix: verdicts of all dtypes together, of operations that are there."""
    counted: dict[tuple[str, str, str], Counter[str]] = {}
    for each in judged:
        there = each.operations
        for row in each.report.results:
            if row.operation in there:
                counts = counted.setdefault((each.title, row.operation, row.property), Counter())
                counts.update(row.counts)
    return tuple(Cell(*key, dict(counts)) for key, counts in counted.items())


def page(judged: Sequence[Judged], missing: Mapping[str, str]) -> str:
    """Return the page in Markdown. ``missing``: why an adapter has no report."""
    sections = (
        ("Implementations", _implementations(judged)),
        ("Contracts and claims", _contracts(judged)),
        ("Failures by cause", _failures(judged)),
        *((f"`{name}`", _matrix(name, judged)) for name in OPERATIONS),
    )
    tables = [f"## {title}\n\n{text}" for title, lines in sections if (text := "\n".join(lines))]
    without = [f"- {name}: {reason}" for name, reason in missing.items()]
    rest = ["## Not judged\n\n" + "\n".join(without)] if without else []
    return "\n\n".join([f"# What others ship, judged\n\n{KEY}", *tables, *rest]) + "\n"


def _implementations(judged: Sequence[Judged]) -> Iterator[str]:
    def rows() -> Iterator[Sequence[str]]:
        for each in judged:
            header, footer = each.report.header, each.report.footer
            versions = f"{header.device}; torch {header.torch}, Triton {header.triton or 'not installed'}"
            numbers = f"{footer.judged:,}", f"{footer.elements:,}"
            made = f"{header.profile}, seed {header.seed}, {header.commit or 'no commit'}"
            yield each.title, header.adapter.package or "–", versions, made, *numbers, verdict(each.report)

    return table(("adapter", "package", "on", "run", "cases", "elements", "verdict"), rows())


def verdict(report: Report) -> str:
    """Return whether a report holds, in words."""
    verdicts = report.footer.verdicts
    bad, known = sum(verdicts.get(status, 0) for status in BAD), verdicts.get(Status.WAIVED, 0)
    ended = report.footer.complete and not report.footer.interrupted
    holds = "holds" if ended else "interrupted; what was judged holds"
    if bad:
        return f"{'' if ended else 'interrupted; '}{bad:,} of {sum(verdicts.values()):,} verdicts are bad"
    failures = "failure" if known == 1 else "failures"
    return f"{holds}, but for {known:,} known {failures}" if known else holds


def _contracts(judged: Sequence[Judged]) -> Iterator[str]:
    def rows() -> Iterator[Sequence[str]]:
        for each in judged:
            for operation in each.operations:
                declared = each.report.header.adapter.contracts.get(operation)
                survey = each.report.surveys.get(operation)
                claim = f"{survey.said} ({'claimed' if survey.claimed else 'found'})" if survey else "–"
                found = _found(each, operation)
                yield each.title, operation, declared.text if declared else "–", found, claim

    return table(("adapter", "operation", "contract", "found", "calls"), rows())


def _found(each: Judged, operation: str) -> str:
    """Return the contract that an implementation was found to follow, as far as a report says it."""
    failures = (failure for failure in each.report.failures if failure.operation == operation)
    notes = [found[0] for failure in failures for found in EXPLAINS.finditer(failure.note)]
    if notes:
        return Counter(notes).most_common(1)[0][0]
    counts = Counter[str]()
    for row in each.report.results:
        if (row.operation, row.property) == (operation, "contract"):
            counts.update(row.counts)
    if counts[Status.WAIVED] or any(counts[status] for status in BAD):
        return "another in some calls"
    return "as declared" if counts[Status.PASSED] else "not shown"


def _failures(judged: Sequence[Judged]) -> Iterator[str]:
    def rows() -> Iterator[Sequence[str]]:
        for each in judged:
            for cause in each.report.causes:
                shows = ", ".join(f"{name} {count}" for name, count in cause.properties.items())
                rate = f"{cause.cases} of {cause.judged}"
                yield each.title, ", ".join(cause.operations), cause.says.replace("\n", " "), rate, shows, "–"
            for waiver in each.report.waivers:
                found = FINDING.match(waiver.reason)
                link = f"[{found[1]}]({FINDINGS}{found[1]}.md), " if found else ""
                count = waiver.counts.get(Status.WAIVED, 0)
                said = FINDING.sub("", waiver.reason)
                if waiver.held:
                    operations = ", ".join(_operations(waiver.where))
                    yield each.title, operations, said, f"{count}", "", f"{link}<{waiver.issue}>"

    return table(("adapter", "operation", "cause", "cases", "shows in", "known as"), rows())


def _operations(where: str) -> list[str]:
    """Return the operations that the conditions of a waiver name, as their file has them; all without one."""
    named = [name for name in OPERATIONS if re.search(rf"['\"]{name}['\"]", where)]
    return named or ["all"]


def _matrix(operation: str, judged: Sequence[Judged]) -> Iterator[str]:
    titles = [each.title for each in judged if operation in each.operations]
    found = {(cell.property, cell.title): str(cell) for cell in cells(judged) if cell.operation == operation}

    def rows() -> Iterator[Sequence[str]]:
        for name in PROMISES:
            row = [found.get((name, title), NOTHING) for title in titles]
            if any(text not in {NOTHING, "–"} for text in row):
                yield name, *row

    return table(("property", *titles), rows())
