"""Survivors in company: mutants that live for a while alone are then judged together, in one copy of the package.

A case that none of a company fails is passed by each of them. Where one fails, the company is parted, and its
halves go on from that case, until a mutant is alone with it. Only a mutant that is alone is ever killed: company
may at worst hide one behind another, and never raises the score.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from conformance.prove.mutants import Mutant
from conformance.prove.rows import SURVIVED, SUSPECT, UNTIL_THE_LIMIT, Row, row
from conformance.prove.running import Task

ALONE = 1.0  # seconds of work after which a mutant that lives waits for company: nearly all that die do so before
MOST = 32  # mutants in a company


class Rounds:
    """The tasks of a stage whose order is known: each mutant alone for a while, then the survivors in company."""

    def __init__(self, tasks: Iterable[Task], suspects: Iterable[Task] = ()) -> None:
        self.waiting = deque(replace(task, budget=ALONE) for task in tasks)
        self._left = {task.mutant.id: task for task in suspects}  # alive after their time alone, without a row
        self._free = [task.mutant for task in self._left.values()]  # those of them that wait for company
        self._convene()

    def taken(self, task: Task, ended: Row) -> list[Row]:
        """Take in how a task ended; return the rows of all mutants whose fate that decides."""
        decided = self._decided(task, ended)
        self._convene()
        return decided

    def _decided(self, task: Task, ended: Row) -> list[Row]:
        every = (task.mutant, *task.others)
        if ended.verdict == SUSPECT:
            self._left[task.mutant.id] = task
            self._free.append(task.mutant)
        elif ended.dead and task.others:
            middle = len(every) // 2
            start = ended.where or task.start
            # the halves next, because their place is at hand
            self.waiting.extendleft(_company(task, part, start) for part in (every[:middle], every[middle:]))
        else:
            for mutant in every:
                self._left.pop(mutant.id, None)
            return [ended, *(_beside(ended, mutant, len(every)) for mutant in task.others)]
        return []

    def rest(self, lane: str) -> Iterator[Row]:
        """Yield the rows of mutants that lived for their time alone, and were not judged to the end."""
        for task in self._left.values():
            yield row(task.mutant, task.stage, lane, SURVIVED, why=UNTIL_THE_LIMIT)

    def _convene(self) -> None:
        """Form companies of those that are free: whole ones, and any once nobody else waits."""
        nobody = not self.waiting
        for file in dict.fromkeys(mutant.file for mutant in self._free):
            while True:
                free = [mutant for mutant in self._free if mutant.file == file]
                if not free or (len(free) < MOST and not nobody):
                    break
                met = together(free)[:MOST]
                self._free = [mutant for mutant in self._free if mutant not in met]
                self.waiting.append(_company(self._left[met[0].id], met, ""))


def _company(task: Task, mutants: Sequence[Mutant], start: str) -> Task:
    """Return the task of some mutants, from the place of a case on."""
    return replace(task, mutant=mutants[0], others=tuple(mutants[1:]), start=start, first="", budget=float("inf"))


def together(mutants: Iterable[Mutant]) -> list[Mutant]:
    """Return mutants of a file whose changes do not overlap, as many as follow from taking each that fits."""
    met: list[Mutant] = []
    for mutant in mutants:
        if all(mutant.end <= other.start or other.end <= mutant.start for other in met):
            met.append(mutant)
    return met


def _beside(ended: Row, mutant: Mutant, count: int) -> Row:
    """Return the row of a mutant that lived in the company of a row's."""
    more = {name: getattr(ended, name) for name in ("seconds", "cases")}
    why = ended.why or f"in a company of {count}"
    return row(mutant, ended.stage, ended.lane, ended.verdict, why=why, **more)
