"""``report.html`` from ``report.json``: one file that needs no other file and no network."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from conformance.report import table
from conformance.report.document import Counts, Report, read
from conformance.report.header import facts
from conformance.report.lines import in_lines
from conformance.report.table import Said, Section, Tone
from conformance.runs.data import from_data, to_data
from conformance.runs.failed import Failed

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
    # package data is found wherever the suite is installed, a zip included
    templates = Environment(
        loader=PackageLoader("conformance.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reasons = table.Reasons()
    end, totals = table.closing(report)
    cards = table.cards(report)
    return templates.get_template("report.html.jinja").render(
        name=report.header.adapter.name,
        end=end,
        totals=totals,
        heading=table.heading(report.header),
        taken=table.taken(report),
        claims=[each.claim for each in report.surveys.values() if not each.claimed and each.claim],
        tables=table.tables(report, reasons),
        missing=table.not_implemented(report),
        reasons=reasons,
        cards=[(card, [_shown(failure) for failure in card.failures]) for card in cards],
        idle=table.idle,
        problems=table.problems(report),
        evidence=table.evidence(report),
        waivers=[(waiver, _counts(waiver.counts)) for waiver in report.waivers],
        facts=list(facts(report.header)),
        sections=sections,
    )


def _shown(failure: Failed) -> dict[str, Any]:
    """Return a failure's cases in words, and the command that replays the failure from this page alone."""
    return {
        "property": failure.property,
        "status": failure.status,
        "operation": failure.operation,
        "dtype": failure.dtype,
        "reason": failure.reason,
        "note": failure.note,
        "id": failure.id,
        "shrunk": str(failure.case),
        "drawn": str(failure.original),
        "replay": f"conform replay {shlex.quote(failure.case.to_json())}",
        "first": _first(failure),
        "trace": failure.trace,
        "script": f"python {shlex.quote(failure.reproducer)}",
    }


def _first(failure: Failed) -> dict[str, str]:
    """Return the first bad element, its parts in reading order."""
    bad = failure.first
    if bad is None:
        return {}
    return {
        "element": f"{bad.output}{list(bad.index)}",
        "came out": str(bad.got),
        "allowed": f"{bad.lo} exactly" if bad.lo == bad.hi else f"{bad.lo} to {bad.hi}",
        "off by": f"{bad.ulps} ulp",
        "outside": f"{failure.outside} of {failure.elements} elements",
    }


def _counts(counts: Counts) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items()) or "no verdict"
