"""Rows: what became of a mutant at one stage, a line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from conformance.prove.mutants import Mutant

# How a mutant ends. Without an import nothing was judged of it: that kills it too, and is counted apart.
KILLED, CRASHED, HUNG, UNBORN, SURVIVED = "killed", "crashed", "hung", "unborn", "survived"
UNTIL_THE_LIMIT = "until the limit"  # why a mutant survived that was not judged whole
DEAD = frozenset({KILLED, CRASHED, HUNG, UNBORN})


@dataclass(frozen=True, slots=True)
class Row:
    """A mutant at one stage. ``by`` is the property that killed it, ``where`` the item or test."""

    id: str
    file: str
    line: int
    function: str
    kind: str
    before: str
    after: str
    stage: str
    lane: str
    verdict: str
    by: str = ""
    where: str = ""
    why: str = ""
    seconds: float = 0.0  # until it was dead, or judged whole
    cases: int = 0  # that were judged until then

    @property
    def dead(self) -> bool:
        """Return whether the mutant ended here."""
        return self.verdict in DEAD


def row(mutant: Mutant, stage: str, lane: str, verdict: str, **more: object) -> Row:
    """Return the row of a mutant."""
    told = (mutant.id, mutant.file, mutant.line, mutant.function, mutant.kind, mutant.before, mutant.after)
    return Row(*told, stage, lane, verdict, **more)  # type: ignore[arg-type]  # fields by name


def read(path: Path) -> tuple[Row, ...]:
    """Return the rows of a file, which may not exist yet; an unfinished last line is left out."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(Row(**json.loads(line)))
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise
    return tuple(found)


def line(made: Row) -> str:
    """Return the line of a row."""
    return f"{json.dumps(asdict(made), ensure_ascii=False)}\n"


def ended(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the last word on every mutant: where it died, or the last stage that it survived."""
    last: dict[str, Row] = {}
    for each in rows:
        if each.id not in last or not last[each.id].dead:
            last[each.id] = each
    return last


def today(rows: Sequence[Row], mutants: Iterable[Mutant]) -> tuple[Row, ...]:
    """Return the rows of mutants that exist in today's sources."""
    known = {mutant.id for mutant in mutants}
    return tuple(each for each in rows if each.id in known)
