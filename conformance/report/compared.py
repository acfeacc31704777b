"""The differences of two reports as a page: what got worse first."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.report import cards, differences, table
from conformance.report.differences import Change, Difference
from conformance.report.document import Report
from conformance.report.failure import shown
from conformance.report.page import rendered
from conformance.report.table import Said, Tone

HEADS = {Change.WORSE: "Got worse", Change.BETTER: "Got better", Change.OTHER: "Otherwise different"}
TONES = {Change.WORSE: Tone.WRONG, Change.BETTER: Tone.GOOD, Change.OTHER: Tone.ASIDE}


def compared(first: Report, second: Report, names: tuple[str, str], command: str) -> str:
    """Return the page of the differences of two reports; ``names`` tell them apart, ``command`` makes the page."""
    rows = differences.of_results(first, second)
    new = differences.new_causes(first, second)
    end = _end(rows)
    parts = [(change, [_line(each, new, second) for each in rows if each.change is change]) for change in Change]
    explained = [card for card in cards.cards(second) if card.number in new]
    return rendered(
        "compare.html.jinja",
        end.text,
        end=end,
        names=names,
        ends=[table.closing(report)[0] for report in (first, second)],
        command=command,
        parts=[(change.name.lower(), HEADS[change], TONES[change], lines) for change, lines in parts if lines],
        cards=[(card, [shown(failure) for failure in card.failures]) for card in explained],
        headers=differences.of_headers(first, second),
    )


def _end(rows: Sequence[Difference]) -> Said:
    """Return the whole comparison in a line."""
    counts = {change: sum(each.change is change for each in rows) for change in Change}
    said = ", ".join(f"{count} {change}" for change, count in counts.items() if count)
    tone = next((TONES[change] for change in Change if counts[change]), Tone.GOOD)
    return Said(f"rows of results: {said}" if said else "no row of results differs", tone)


def _line(found: Difference, new: tuple[int, ...], second: Report) -> tuple[Difference, tuple[int, ...]]:
    """Return a difference with the numbers of the new causes that explain it."""
    causes = table.causes_of(found.row, second) if found.row is not None and found.change is Change.WORSE else ()
    return found, tuple(number for number in causes if number in new)
