"""``report.html`` from ``report.json``: one file that needs no other file and no network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from conformance.report import cards, table
from conformance.report.document import Counts, Report, read
from conformance.report.failure import replay, shown
from conformance.report.figures import Figure, charts
from conformance.report.header import facts
from conformance.report.lines import in_lines
from conformance.report.summary import summaries
from conformance.report.table import Line, Said, Section, Table, Tone
from conformance.runs.data import from_data, to_data

SECTIONS = "sections"  # folder beside report.json, with a file for each further section of the page


def write_page(path: Path) -> Path:
    """Write ``report.html`` into the folder of a ``report.json`` and return its path.

    The page follows from ``report.json`` and the sections of its folder, alone.
    """
    target = path.with_suffix(".html")
    sections = map(_section, sorted((path.parent / SECTIONS).glob("*.json")))
    target.write_text(page(read(path), *sections), encoding="utf-8")
    return target


def write_section(directory: Path, name: str, section: Section) -> None:
    """Keep a section for every page that is written into a folder, now and after later runs."""
    target = directory / SECTIONS / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(in_lines(to_data(section)), encoding="utf-8")


def _section(path: Path) -> Section:
    """Return a section from its file; an unreadable file is a section that says so."""
    try:
        return from_data(Section, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        return Section(path.stem, Said(f"{path}: is no section of a page: {error}", Tone.WRONG), (), (), (), ())


def page(report: Report, *sections: Section) -> str:
    """Return the page of a report, with further sections at its end."""
    reasons = table.Reasons()
    end, totals = table.closing(report)
    parts = {
        "end": end,
        "totals": totals,
        "heading": table.heading(report.header),
        "command": report.header.command,
        "problems": table.problems(report),
        "summaries": summaries(report),
        "missing": table.not_implemented(report),
        "cards": [(card, [shown(failure) for failure in card.failures]) for card in cards.cards(report)],
        "tables": [_judged(each, report) for each in table.tables(report, reasons)],
        "taken": table.taken(report),
        "claims": [each.claim for each in report.surveys.values() if not each.claimed and each.claim],
        "waivers": [(waiver, _counts(waiver.counts)) for waiver in report.waivers],
        "sections": sections,
        "reasons": list(reasons),
        "evidence": table.evidence(report),
        "facts": list(facts(report.header)),
    }
    return rendered("report.html.jinja", end.text, links=list(_links(parts)), **parts)


def rendered(template: str, title: str, **parts: object) -> str:
    """Return the page that a template makes of its parts."""
    # package data is found wherever the suite is installed, a zip included
    templates = Environment(
        loader=PackageLoader("conformance.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(template).render(title=title, replay=replay, **parts)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A table with the lines of which something was judged, the others, and charts of its errors."""

    table: Table
    judged: tuple[Line, ...]
    idle: tuple[Line, ...]
    charts: tuple[tuple[str, tuple[Figure, ...]], ...]


def _judged(made: Table, report: Report) -> _Judged:
    idle = tuple(line for line in made.lines if table.idle(line[2]))
    judged = tuple(line for line in made.lines if line not in idle)
    return _Judged(made, judged, idle, charts(report, made.operation))


def _links(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the anchors of the page's parts, and their names."""
    named = {
        "summaries": ("summary", "what is known"),
        "cards": ("causes", f"causes of failures ({len(parts['cards'])})"),
    }
    yield from (link for part, link in named.items() if parts[part])
    yield from ((each.table.operation, each.table.operation) for each in parts["tables"])
    rest = {name: (name, name) for name in ("taken", "waivers", "reasons", "evidence")}
    yield from (link for part, link in rest.items() if parts[part])
    yield from ((f"section-{number}", each.title) for number, each in enumerate(parts["sections"], start=1))
    yield "environment", "environment"


def _counts(counts: Counts) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items()) or "no verdict"
