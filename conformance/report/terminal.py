"""Terminal output of a run: a line of progress while it runs, the summary of its report at the end."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from conformance.calls.verdict import BAD, NOT_IMPLEMENTED, Status
from conformance.report import cards, table
from conformance.report.document import Header, Report, read
from conformance.report.table import Section, Tone
from conformance.runs.failed import Smoke
from conformance.runs.host import LOG

GOOD, WRONG, ASIDE = "green", "bold red", "dim"
STYLES = {Tone.GOOD: GOOD, Tone.WRONG: WRONG, Tone.ASIDE: ASIDE}
MOST_CARDS = 10  # a list must stay readable; the rest is in report.json
MOST_LINES = 3  # lines of a reason: an exception may bring a stack
PLAIN_SECONDS = 10.0  # between two lines of progress where no line can be rewritten


def show(path: Path, console: Console | None = None) -> None:
    """Print the summary of a ``report.json``."""
    report = read(path, _printable_parts)
    place = f"{path}, {path.with_suffix('.html').name}"
    if path.with_name(LOG).exists():
        place += f"\nwhat the implementation printed: {path.with_name(LOG)}"
    (console or Console(highlight=False)).print(summary(report, place))


def printable(text: str) -> str:
    """Return a text with its control characters escaped, which a terminal would execute."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _printable_parts(read: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a report with printable texts; the objects inside it are printable already."""
    return {printable(name): _printable_part(value) for name, value in read.items()}


def _printable_part(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return [_printable_part(part) for part in value]
    return printable(value) if isinstance(value, str) else value


def summary(report: Report, place: str) -> RenderableType:
    """Return tables by property and dtype, causes of failures, the totals. ``place`` is the report's folder."""
    reasons = table.Reasons()
    parts: list[RenderableType] = [_heading(report.header)]
    parts += _smoke(report.smoke)
    parts += [_table(shown) for shown in table.tables(report, reasons)]
    if missing := table.not_implemented(report):
        parts.append(Text(f"{NOT_IMPLEMENTED}: {', '.join(missing)}", style=ASIDE))
    parts.append(Text("\n".join(f"[{number}] {reason}" for number, reason in reasons), style=ASIDE))
    made = cards.cards(report)
    parts += [_card(card) for card in made[:MOST_CARDS]]
    if left_out := made[MOST_CARDS:]:
        parts.append(Text(f"and {len(left_out)} more causes in report.json", style=WRONG))
    parts += [Text(line, style=WRONG) for line in table.problems(report)]
    parts += [Text("\n".join(["", *table.taken(report)]), style=ASIDE)] if report.surveys else []
    end, totals = table.closing(report)
    parts.append(Text.assemble("\n", _line(end), f"\n{totals}\n{place}"))
    return Group(*parts)


def show_section(section: Section, place: str, console: Console | None = None) -> None:
    """Print a section that is no part of a run; ``place`` is where its data are."""
    first, *others = section.heading
    parts: list[RenderableType] = [Text.assemble("\n", (first, "bold"), *(f"\n{line}" for line in others), "\n")]
    parts += [_table(shown) for shown in section.tables]
    parts += [Text(line, style=ASIDE) for line in section.notes]
    parts += [Text(line, style=WRONG) for line in section.wrong]
    parts.append(Text.assemble("\n", _line(section.end), f"\n{place}"))
    (console or Console(highlight=False)).print(Group(*parts))


def _heading(header: Header) -> Text:
    name = header.adapter.name
    text = "\n".join(table.heading(header))
    return Text.assemble("\n", (name, "bold"), text.removeprefix(name), "\n")


def _smoke(smoke: Smoke | None) -> list[RenderableType]:
    """Return the traceback of the first and plainest call, where that crashed."""
    if smoke is None:
        return []
    head = f"the first and plainest call crashes: {smoke.how}"
    case = f"case {smoke.case.id}: {smoke.case}"
    lines = [case, *([smoke.trace] if smoke.trace else [])]
    return [Text(head, style=WRONG), Padding(Text("\n".join(lines)), (0, 0, 1, 2))]


def _table(shown: table.Table) -> Table:
    drawn = Table(title=shown.operation, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    drawn.add_column(shown.of, no_wrap=True)
    for dtype in shown.dtypes:
        drawn.add_column(dtype)
    for prop, _, cells in shown.lines:
        drawn.add_row(prop, *(Text("\n").join(_line(said) for said in cell) for cell in cells))
    return drawn


def _line(said: table.Said) -> Text:
    return Text(f"{said.text} {said.marks}".rstrip(), style=STYLES[said.tone])


def _card(card: cards.Card) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"{card.number}. {card.head}", style=WRONG),
        Padding(Text("\n".join(card.lines)), (0, 0, 0, 3)),
    ]
    others = [Padding(Text(card.others), (0, 0, 0, 3))] * bool(card.others)
    return Group(*parts, *_smallest(card), *others, Text())


def _smallest(card: cards.Card) -> list[RenderableType]:
    """Return the smallest case of a cause, its reason and remark, and the script that shows the failure."""
    if not card.failures:
        return [Padding(Text(card.example), (0, 0, 0, 3))]
    failure = card.failures[0]
    lines = [
        f"case {failure.id}: {failure.case}",
        *failure.reason.splitlines()[:MOST_LINES],
    ]
    lines += [failure.note] if failure.note else []
    # a path that is broken into lines cannot be copied
    script = Text(f"python {shlex.quote(failure.reproducer)}", no_wrap=True, overflow="ignore")
    return [Padding(Text("\n".join(lines)), (0, 0, 0, 3)), Padding(script, (0, 0, 0, 3))]


class Progress:
    """A line that is rewritten on a terminal; elsewhere a plain line now and then."""

    def __init__(self, console: Console, total: int, title: str = "") -> None:
        self._console = console
        self._title = title
        self._total = total
        self._began = time.monotonic()
        self._spoke = self._began
        self._items = 0
        self._counts: Counter[str] = Counter()

    def item(self, counts: Mapping[str, int]) -> None:
        """Count a judged item, by its verdicts' statuses."""
        self._items += 1
        self._counts.update(counts)
        now = time.monotonic()
        if self._console.is_terminal:
            self._console.print(self._line(now), end="\r", soft_wrap=True, highlight=False)
        elif now - self._spoke >= PLAIN_SECONDS:
            self._console.print(self._line(now), soft_wrap=True, highlight=False)
            self._spoke = now

    def close(self) -> None:
        """End the line before further output."""
        if self._console.is_terminal:
            self._console.print(" " * (self._console.width - 1), end="\r", soft_wrap=True)

    def _line(self, now: float) -> Text:
        bad = sum(self._counts[status] for status in (*BAD, Status.ERROR))
        judged = bad + self._counts[Status.PASSED]
        return Text.assemble(
            f"{self._title}{self._items}/{self._total} items, {judged:,} verdicts, ",
            (f"{bad} failed" if bad else "none failed", WRONG if bad else GOOD),
            f", {now - self._began:.0f} s ",
        )
