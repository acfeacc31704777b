"""A report as GitHub shows one: annotations of a workflow's files, and the summary of a job.

Pure functions: what they need to know of files is asked of ``text``, such as :func:`text_of`.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from conformance.adapter import KNOWN, split
from conformance.report import cards, table
from conformance.report.cards import Card
from conformance.report.document import Report
from conformance.report.markdown import table as lines_of_table
from conformance.report.results import Exit
from conformance.report.table import Said, Tone

Text = Callable[[str], str | None]
Place = tuple[str, int]  # a file, and a line of it

MOST_LINES = 3  # lines of a reason: an exception may bring a stack
# a place in source, as reasons of crashes have it
_PLACE = re.compile(r"(?: at |\()(?P<file>[^\s()]+\.py):(?P<line>\d+)")


def commands(report: Report, target: str | None, text: Text) -> tuple[str, ...]:
    """Return commands of a workflow: how the run ended, each cause of failures where it lies, other problems.

    ``target`` is the adapter as ``conform run`` was told it: where no failure names a file, its method is shown.
    """
    end, totals = table.closing(report)
    holds = report.footer.exit_code == Exit.HOLDS
    said = [_command("notice" if holds else "error", "conform", f"{end.text}\n{totals}", None)]
    said += [_of_card(card, report, target, text) for card in cards.cards(report)]
    return (*said, *(_command("error", "conform", problem, None) for problem in table.problems(report)))


def _of_card(card: Card, report: Report, target: str | None, text: Text) -> str:
    operation = report.causes[card.number - 1].operations[0]
    place = _named(card.example, text) or _method(operation, target, text)
    return _command("error", f"{card.number}. {card.head}", "\n".join([*card.lines, *_smallest(card)]), place)


def _smallest(card: Card) -> Iterator[str]:
    """Yield the smallest case of a cause, its reason, and the script that shows the failure."""
    if not card.failures:
        yield card.example
        return
    failure = card.failures[0]
    yield f"case {failure.id}: {failure.case}"
    yield from failure.reason.splitlines()[:MOST_LINES]
    yield f"python {shlex.quote(failure.reproducer)}"


def _named(reason: str, text: Text) -> Place | None:
    """Return the place that a reason names, where there is such a file."""
    found = _PLACE.search(reason)
    return (found["file"], int(found["line"])) if found and text(found["file"]) is not None else None


def _method(operation: str, target: str | None, text: Text) -> Place | None:
    """Return the place of an operation's method in the file of an adapter; known ones are no part of a project."""
    if target is None or target in KNOWN:
        return None
    place, _ = split(target)
    inner = place.replace(".", "/")
    files = (place,) if place.endswith(".py") else (f"{inner}.py", f"src/{inner}.py")
    for file in files:
        source = text(file)
        if source is not None:
            return file, _line_of(operation, source)
    return None


def _line_of(name: str, source: str) -> int:
    """Return the line on which a function is defined, 1 where there is none."""
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError:
        return 1
    return next((node.lineno for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name), 1)


def _command(kind: str, title: str, message: str, place: Place | None) -> str:
    """Return a command of a workflow: a line, in which what would end it or its parts is escaped."""
    given = {"file": place[0], "line": str(place[1])} if place else {}
    parts = ",".join(f"{name}={_property(value)}" for name, value in {**given, "title": title}.items())
    return f"::{kind} {parts}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# --- the summary of a job ---------------------------------------------------------------------------------------


def summary(report: Report) -> str:
    """Return a report in Markdown: how it ended, causes of failures, a table for each operation."""
    end, totals = table.closing(report)
    reasons = table.Reasons()
    parts = [f"## {_plain(end.text)}", _paragraph(*table.heading(report.header)), _paragraph(*totals.splitlines())]
    parts += [_cause(card) for card in cards.cards(report)]
    parts += [f"**{_plain(problem)}**" for problem in table.problems(report)]
    for shown in table.tables(report, reasons):
        columns = (shown.of, *shown.dtypes)
        rows = [(prop, *("<br>".join(map(_said, cell)) for cell in cells)) for prop, _, cells in shown.lines]
        parts += [f"### {shown.operation}", "\n".join(lines_of_table(columns, rows))]
    parts += [_paragraph(*(f"[{number}] {reason}" for number, reason in reasons))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cause(card: Card) -> str:
    code = "\n".join((*card.lines, *_smallest(card)))
    return f"**{card.number}. {_plain(card.head)}**\n\n{_fenced(code)}"


def _fenced(code: str) -> str:
    """Return a block of text as it stands, whatever backticks it has."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{code}\n{fence}"


def _said(said: Said) -> str:
    text = _plain(f"{said.text} {said.marks}".rstrip())
    return f"**{text}**" if said.tone is Tone.WRONG else text


def _paragraph(*lines: str) -> str:
    return "<br>\n".join(map(_plain, lines))


def _plain(text: str) -> str:
    """Return a text in one line, of which Markdown and HTML make nothing else."""
    return re.sub(r"([\\`*_\[\]<>&#~])", r"\\\1", " ".join(text.split()))


def text_of(file: str) -> str | None:
    """Return the text of a file below the current folder, None where there is no such file."""
    path = Path(file)
    return (
        path.read_text(encoding="utf-8", errors="replace") if path.is_file() and not path.is_absolute() else None
    )
