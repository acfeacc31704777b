"""A failure as the page shows it, every part in words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from conformance.cases.case import Case
from conformance.report.figures import Figure, picture
from conformance.runs.behind import Operand, Without
from conformance.runs.failed import Failed

Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A failure in words: its cases, its first bad element and the numbers behind that, and commands.

    ``first`` are names and values; of ``operands`` and ``terms`` each is a line of a table.
    """

    head: str
    reason: tuple[str, ...]
    note: str
    id: str
    shrunk: str
    drawn: str
    first: tuple[tuple[str, str], ...]
    operands: tuple[Cells, ...]
    terms: tuple[Cells, ...]
    picture: Figure | None
    pictured: str
    trace: str
    script: str
    replay: str


def shown(failure: Failed) -> Shown:
    """Return a failure in words, with the command that replays it from this page alone."""
    behind, places = failure.behind, failure.picture
    shrunk, drawn = str(failure.case), str(failure.original)
    return Shown(
        head=f"{failure.property} {failure.status}: {failure.operation}, {failure.dtype}",
        reason=tuple(failure.reason.splitlines()),
        note=failure.note,
        id=failure.id,
        shrunk=shrunk,
        drawn=drawn if drawn != shrunk else "",
        first=_first(failure),
        operands=tuple(map(_operand, behind.operands)) if behind else (),
        terms=tuple(map(_without, behind.without)) if behind else (),
        picture=picture(places) if places else None,
        pictured=str(places.case) if places else "",
        trace=failure.trace,
        script=f"python {shlex.quote(failure.reproducer)}",
        replay=replay(failure.case),
    )


def replay(case: Case) -> str:
    """Return the command that judges a case again, on whichever adapter stands for TARGET."""
    return f"conform replay {shlex.quote(case.to_json())} TARGET"


def _first(failure: Failed) -> tuple[tuple[str, str], ...]:
    """Return the first bad element, its parts in reading order."""
    bad = failure.first
    if bad is None:
        return ()
    return (
        ("element", f"{bad.output}{list(bad.index)}"),
        ("came out", str(bad.got)),
        ("allowed", _range(bad.lo, bad.hi)),
        ("off by", f"{bad.ulps} ulp"),
        ("outside", f"{failure.outside} of {failure.elements} elements"),
    )


def _operand(operand: Operand) -> Cells:
    place = "" if operand.index is None else f"[{', '.join(map(str, operand.index))}]"
    value = "" if operand.value is None else f"{operand.value:.9g}"
    row = f"{operand.least:.4g} to {operand.most:.4g}"
    return f"{operand.name}{place}", value, row, f"{operand.mean_square:.4g}"


def _without(term: Without) -> Cells:
    return term.term, _range(term.lo, term.hi), "what came out" if term.explains else ""


def _range(lo: float, hi: float) -> str:
    return f"{lo} exactly" if lo == hi else f"{lo} to {hi}"
