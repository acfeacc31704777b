"""``report.html`` from ``report.json``: one file that needs no other file and no network."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from conformance.cases.case import Case
from conformance.report import table
from conformance.report.header import facts
from conformance.report.results import Report
from conformance.report.table import Section


def write_page(path: Path, *sections: Section) -> Path:
    """Write ``report.html`` into the folder of a ``report.json`` and return its path.

    The page follows from ``report.json`` and the sections that are given, alone.
    """
    target = path.with_suffix(".html")
    report = json.loads(path.read_text(encoding="utf-8"))
    target.write_text(page(report, *sections), encoding="utf-8")
    return target


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
        name=report["header"]["adapter"]["name"],
        end=end,
        totals=totals,
        heading=table.heading(report["header"]),
        taken=table.taken(report),
        claims=[survey["claim"] for survey in report.get("surveys", {}).values() if not survey["claimed"]],
        tables=table.tables(report, reasons),
        missing=table.not_implemented(report),
        reasons=reasons,
        cards=[(card, [{**failure, **_shown(failure)} for failure in card.failures]) for card in cards],
        idle=table.idle,
        problems=table.problems(report),
        evidence=table.evidence(report),
        waivers=[{**waiver, "said": _counts(waiver["counts"])} for waiver in report["waivers"]],
        facts=list(facts(report["header"])),
        sections=sections,
    )


def _shown(failure: table.Row) -> dict[str, Any]:
    """Return a failure's cases in words, and the command that replays the failure from this page alone."""
    return {
        "shrunk": str(Case.from_data(failure["case"])),
        "drawn": str(Case.from_data(failure["original"])),
        "replay": f"conform replay {shlex.quote(Case.from_data(failure['case']).to_json())}",
        "first": _first(failure),
        "trace": failure.get("trace", ""),
        "script": f"python {shlex.quote(failure['reproducer'])}",
    }


def _first(failure: table.Row) -> dict[str, str]:
    """Return the first bad element, its parts in reading order."""
    bad = failure["first"]
    if bad is None:
        return {}
    lo, hi = bad["lo"], bad["hi"]
    return {
        "element": f"{bad['output']}{bad['index']}",
        "came out": str(bad["got"]),
        "allowed": f"{lo} exactly" if lo == hi else f"{lo} to {hi}",
        "off by": f"{bad['ulps']} ulp",
        "outside": f"{failure['outside']} of {failure['elements']} elements",
    }


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items()) or "no verdict"
