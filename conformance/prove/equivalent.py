"""Marks of mutants that are equivalent: no test can kill them, for a reason that stands beside the mark."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance.prove.mutants import Mutant

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mutant by its id, several by ``ids``, or all of ``file`` (a pattern) that match ``function`` and ``text``.

    ``mutant`` shows a reader what the id stands for. A mark with a ``lane`` holds for runs of the suite there.
    """

    proof: str
    id: str = ""
    ids: Collection[str] = ()
    mutant: str = ""
    file: str = ""
    function: str = ".*"
    kind: str = ""
    text: str = ""
    lane: str = ""

    def holds(self, mutant: Mutant) -> bool:
        """Return whether the mark is one of this mutant."""
        if self.id or self.ids:
            return mutant.id == self.id or mutant.id in self.ids
        return (
            fnmatch.fnmatch(mutant.file, self.file)
            and re.fullmatch(self.function, mutant.function) is not None
            and self.kind in {"", mutant.kind}
            and re.search(self.text, told(mutant)) is not None
        )


def told(mutant: Mutant) -> str:
    """Return what a mutant changes, as marks show it."""
    return f"{mutant.before} -> {mutant.after}".strip()


def marks(path: Path = FILE) -> tuple[Mark, ...]:
    """Return the marks of a file."""
    found = tuple(Mark(**each) for each in tomllib.loads(path.read_text("utf-8"))["equivalent"])
    assert all(1 == bool(mark.id) + bool(mark.ids) + bool(mark.file) for mark in found), "an id, ids, or a file"
    return found


def equivalent(mutants: Iterable[Mutant], lane: str, known: Iterable[Mark]) -> frozenset[str]:
    """Return the ids of the mutants that are marked on a lane."""
    here = [mark for mark in known if mark.lane in {"", lane}]
    return frozenset(mutant.id for mutant in mutants if any(mark.holds(mutant) for mark in here))
