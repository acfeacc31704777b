"""Marks of mutants that are equivalent: no test can kill them, for a reason that stands beside the mark."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance.prove.mutants import Mutant

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mutant by its id, or all mutants of a file that match the rest.

    ``mutant`` shows a reader what the id stands for. On another lane than ``lane`` the mark does not hold.
    """

    proof: str
    id: str = ""
    mutant: str = ""
    file: str = ""
    function: str | None = None
    kind: str = ""
    text: str = ""
    lane: str = ""

    def holds(self, mutant: Mutant) -> bool:
        """Return whether the mark is one of this mutant."""
        if self.id:
            return self.id == mutant.id
        return (
            self.file == mutant.file
            and self.function in {None, mutant.function}
            and self.kind in {"", mutant.kind}
            and re.search(self.text, told(mutant)) is not None
        )


def told(mutant: Mutant) -> str:
    """Return what a mutant changes, as marks show it."""
    return f"{mutant.before} -> {mutant.after}".strip()


def marks(path: Path = FILE) -> tuple[Mark, ...]:
    """Return the marks of a file."""
    found = tuple(Mark(**each) for each in tomllib.loads(path.read_text("utf-8"))["equivalent"])
    assert all(bool(mark.id) != bool(mark.file) for mark in found), "a mark has an id, or a file"
    return found


def equivalent(mutants: Iterable[Mutant], lane: str, known: Iterable[Mark]) -> frozenset[str]:
    """Return the ids of the mutants that are marked on a lane."""
    here = [mark for mark in known if mark.lane in {"", lane}]
    return frozenset(mutant.id for mutant in mutants if any(mark.holds(mutant) for mark in here))
