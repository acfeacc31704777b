"""What a run shows on a terminal: a line of progress while it runs, the summary of its report at the end."""

from __future__ import annotations

import json
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

from conformance.case import Case
from conformance.properties import PASSIVE, PROMISES
from conformance.report.results import Exit, Report
from conformance.verdict import BAD, NOT_IMPLEMENTED, Status

Row = Mapping[str, Any]  # of a report's results

GOOD, WRONG, ASIDE = "green", "bold red", "dim"
# a table of reasons and a list of failures are to be read; the rest is in report.json
MOST_REASONS = 3
MOST_FAILURES = 10
PLAIN_SECONDS = 10.0  # between two lines of progress where no line can be rewritten

_ENDS = {
    Exit.HOLDS: ("every judged property holds", GOOD),
    Exit.FAILED: ("not every property holds", WRONG),
    Exit.NOTHING_JUDGED: ("nothing was judged", WRONG),
    Exit.BROKEN: ("the suite itself failed: this run decides nothing", WRONG),
}


class Reasons:
    """Footnotes: every reason once, numbered in the order of its first mention."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, row: Row, status: str) -> str:
        """The footnotes of a row's verdicts of one status, as ``[1,2]``; the most frequent ones."""
        reasons = [entry["reason"] for entry in row["reasons"] if entry["status"] == status]
        numbers = [self._numbers.setdefault(reason, len(self._numbers) + 1) for reason in reasons[:MOST_REASONS]]
        more = ",…" if len(reasons) > MOST_REASONS else ""
        return f"[{','.join(map(str, sorted(numbers)))}{more}]" if numbers else ""

    def text(self) -> Text:
        """A line per footnote."""
        lines = (f"[{number}] {reason}" for reason, number in self._numbers.items())
        return Text("\n".join(lines), style=ASIDE)


def show(path: Path, console: Console | None = None) -> None:
    """Print the summary of a ``report.json``."""
    report = json.loads(path.read_text(encoding="utf-8"))
    (console or Console(highlight=False)).print(summary(report, str(path)))


def summary(report: Report, place: str) -> RenderableType:
    """Tables by property and dtype, failures, one closing line. ``place`` is where the report lies."""
    reasons = Reasons()
    parts: list[RenderableType] = [_heading(report["header"])]
    parts += [_table(operation, report, reasons) for operation in _operations(report)]
    parts += [Text(f"{operation}: {NOT_IMPLEMENTED}", style=ASIDE) for operation in _missing(report)]
    parts.append(reasons.text())
    parts += [_failure(failure) for failure in report["failures"][:MOST_FAILURES]]
    left_out = len(report["failures"]) - MOST_FAILURES
    if left_out > 0:
        parts.append(Text(f"and {left_out} more failures in report.json", style=WRONG))
    parts += [_unfinished(entry) for entry in report["footer"]["unfinished"]]
    parts += [Text(alarm, style=WRONG) for alarm in report["footer"].get("alarms", [])]
    parts.append(_closing(report, place))
    return Group(*parts)


def _heading(header: Row) -> Text:
    adapter = header["adapter"]
    contracts = ", ".join(f"{name}: {contract['text']}" for name, contract in adapter["contracts"].items())
    versions = f"torch {header['torch']}, triton {header['triton'] or 'not installed'}"
    commit = f", commit {header['commit']}" if header["commit"] else ""
    return Text.assemble(
        "\n",
        (adapter["name"], "bold"),
        f" on {header['device']}; {versions}\n",
        f"declares {contracts or 'no contract'}\n",
        f"profile {header['profile']}, seed {header['seed']}{commit}\n",
    )


def _operations(report: Report) -> list[str]:
    """Operations with something to show."""
    every = dict.fromkeys(row["operation"] for row in report["results"])
    return [operation for operation in every if operation not in _missing(report)]


def _missing(report: Report) -> list[str]:
    """Operations that the adapter does not implement: a line for each, not a table of refusals."""
    said: dict[str, set[str]] = {}
    for row in report["results"]:
        reasons = {entry["reason"] for entry in row["reasons"]}
        said.setdefault(row["operation"], set()).update(reasons or {""})
    return [operation for operation, reasons in said.items() if reasons == {NOT_IMPLEMENTED}]


def _table(operation: str, report: Report, reasons: Reasons) -> Table:
    rows = {(row["property"], row["dtype"]): row for row in report["results"] if row["operation"] == operation}
    dtypes = sorted({dtype for _, dtype in rows})
    judged = dict.fromkeys(prop for prop, _ in rows)
    known = [prop for prop in PROMISES if prop in judged]
    table = Table(title=operation, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("property", no_wrap=True)
    for dtype in dtypes:
        table.add_column(dtype)
    for prop in (*known, *(prop for prop in judged if prop not in PROMISES)):
        table.add_row(prop, *(_cell(rows.get((prop, dtype)), prop, reasons) for dtype in dtypes))
    return table


def _cell(row: Row | None, prop: str, reasons: Reasons) -> Text:
    if row is None:
        return Text("no call ran" if prop in PASSIVE else "not in this run", style=ASIDE)
    counts = row["counts"]
    judged = sum(counts.get(status, 0) for status in (Status.PASSED, *BAD))
    lines = [_judged(counts, judged)] if judged else []
    for status, word in _ASIDE.items():
        if counts.get(status):
            number = f"{counts[status]} " if judged or status != Status.NOT_JUDGED else ""
            style = WRONG if status == Status.ERROR else ASIDE
            lines.append(Text(f"{number}{word} {reasons.mark(row, status)}", style=style))
    if row["property"] == "values" and row["exact"] is not None:
        lines.append(Text(f"worst {float(row['worst']):.3g}", style=ASIDE))
        lines.append(Text(f"exact {_share(row['exact'])}", style=ASIDE))
    if row.get("terms"):
        # the one that is hardest to see; the others are in report.json
        term, (seen, of) = min(row["terms"].items(), key=lambda each: each[1][0] / each[1][1])
        lines.append(Text(f"{term} in {seen} of {of}", style=ASIDE))
    return Text("\n").join(lines)


_ASIDE = {
    Status.ERROR: "error",
    Status.DECLINED: "declined",
    Status.NOT_JUDGED: "not judged",
    Status.WAIVED: "waived",
}


def _judged(counts: Mapping[str, int], judged: int) -> Text:
    bad = [f"{counts[status]} {status}" for status in Status if status in BAD and counts.get(status)]
    if bad:
        return Text(f"{', '.join(bad)} of {judged}", style=WRONG)
    return Text(f"{judged} ok", style=GOOD)


def _share(share: float) -> str:
    """A share that says 100 % only where it is everything."""
    return f"{share:.0%}" if share in {0.0, 1.0} else f"{min(share, 0.9999):.2%}"


def _failure(failure: Row) -> RenderableType:
    head = f"{failure['property']} {failure['status']}"
    lines = [f"case {failure['id']}: {Case.from_data(failure['case'])}", failure["reason"]]
    lines += [failure["note"]] if failure["note"] else []
    # a path that is broken into lines cannot be copied
    script = Text(f"python {failure['reproducer']}", no_wrap=True, overflow="ignore")
    return Group(
        Text(f"{head}: {failure['operation']}, {failure['dtype']}", style=WRONG),
        Padding(Text("\n".join(lines)), (0, 0, 0, 2)),
        Padding(script, (0, 0, 1, 2)),
    )


def _unfinished(entry: Row) -> Text:
    case = f", while it ran {entry['case']}" if entry["case"] else ""
    return Text(f"{entry['item']} did not finish{case}", style=WRONG)


def _closing(report: Report, place: str) -> Text:
    footer, name = report["footer"], report["header"]["adapter"]["name"]
    said, style = _ENDS[Exit(footer["exit_code"])]
    counts = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in footer["verdicts"].items())
    return Text.assemble(
        (f"\n{name}: {said}", style),
        f"\n{footer['cases']:,} cases, {footer['elements']:,} elements compared in {footer['seconds']:g} s; "
        f"verdicts: {counts or 'none'}\n{place}",
    )


class Progress:
    """One line that is rewritten on a terminal; elsewhere a plain line now and then."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._began = time.monotonic()
        self._spoke = self._began
        self._items = 0
        self._counts: Counter[str] = Counter()

    def item(self, counts: Mapping[str, int]) -> None:
        """An item was judged: its verdicts by status."""
        self._items += 1
        self._counts.update(counts)
        now = time.monotonic()
        if self._console.is_terminal:
            self._console.print(self._line(now), end="\r", soft_wrap=True, highlight=False)
        elif now - self._spoke >= PLAIN_SECONDS:
            self._console.print(self._line(now), soft_wrap=True, highlight=False)
            self._spoke = now

    def close(self) -> None:
        """Leave the line to what follows."""
        if self._console.is_terminal:
            self._console.print(" " * (self._console.width - 1), end="\r", soft_wrap=True)

    def _line(self, now: float) -> Text:
        bad = sum(self._counts[status] for status in (*BAD, Status.ERROR))
        judged = bad + self._counts[Status.PASSED]
        return Text.assemble(
            f"{self._items}/{self._total} items, {judged:,} verdicts, ",
            (f"{bad} failed" if bad else "none failed", WRONG if bad else GOOD),
            f", {now - self._began:.0f} s ",
        )
