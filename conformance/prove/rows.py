"""Rows: what became of a mutant at one stage, a line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from conformance.prove.codes import content
from conformance.prove.mutants import Mutant

# How a mutant ends. Without an import nothing was judged of it: that kills it too, and is counted apart.
KILLED, CRASHED, HUNG, UNBORN, SURVIVED = "killed", "crashed", "hung", "unborn", "survived"
SUSPECT = "suspect"  # it lives after its time alone, and is judged on: no row of a file has it
UNREACHED = "not reached"  # it survived because no case runs the changed statement: a case is missing
SAME = "same code"  # it compiles to the code of the package, and is no other program
UNTIL_THE_LIMIT = "until the limit"  # why a mutant survived that was not judged whole
DEAD = frozenset({KILLED, CRASHED, HUNG, UNBORN})


@dataclass(frozen=True, slots=True)
class Row:
    """A mutant at one stage. ``by`` is the property that killed it, ``where`` the item and case, or the test.

    ``content`` is a digest of the mutant's file, ``suite`` one of the sources that judged it.
    """

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
    content: str = ""
    suite: str = ""

    @property
    def dead(self) -> bool:
        """Return whether the mutant ended here."""
        return self.verdict in DEAD


def row(mutant: Mutant, stage: str, lane: str, verdict: str, **more: object) -> Row:
    """Return the row of a mutant."""
    told = (mutant.id, mutant.file, mutant.line, mutant.function, mutant.kind, mutant.before, mutant.after)
    return Row(*told, stage, lane, verdict, content=content(mutant), **more)  # type: ignore[arg-type]  # by name


def like(judged: Row, twin: Mutant) -> Row:
    """Return the row of a mutant that has the code of another one, which was judged."""
    more = {name: getattr(judged, name) for name in ("by", "where", "seconds", "cases", "suite")}
    why = judged.why if judged.why == UNTIL_THE_LIMIT else f"as {judged.id}"
    return row(twin, judged.stage, judged.lane, judged.verdict, why=why, **more)


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
