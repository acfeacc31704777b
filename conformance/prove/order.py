"""The order in which the cases that reach a mutant are judged: those that killed its neighbours, then cheap ones.

No case that reaches a mutant is left out: the order decides how soon it dies, and not whether.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

from conformance.prove.codes import source
from conformance.prove.copies import UNCHANGED, reached
from conformance.prove.mutants import Mutant, statement_lines
from conformance.prove.reach import Reach, Step
from conformance.prove.rows import Row
from conformance.runs.item import EARLY

# Adapters: as the dispatcher decides, and by plain PyTorch alone; and both with the other order of roundings.
OURS, NATIVE = "normkernels", "native"
ROUNDED = {OURS: "conformance.adapters.hf_order:HfOrder", NATIVE: "conformance.adapters.hf_order:NativeHfOrder"}
# operations of which the other order has other results
ORDERED = frozenset({"rms_norm", "rms_norm_gated", "rms_norm_fp8", "rms_norm_gated_fp8"})
NEAR = 4  # a kill in the same function counts as so many in the same file
TURN = 0.05  # seconds that a case is put off for each one of its item before it
TELLING = 4  # the turns of properties that find mistakes early are shorter
CALL = 0.05  # seconds that every case costs at least
_NONE = Counter[str]()


@cache
def judges(file: str, lane: str = "cpu") -> tuple[tuple[str, str], ...]:
    """Return the adapters and operations whose cases judge a file on a lane.

    Native forms are cheap to judge, and the interpreter runs none of them. On a GPU, where each order of roundings
    would compile its own kernels, the plain one judges alone.
    """
    if lane != "cpu":
        return tuple((OURS, operation) for operation in reached(file))
    adapters = (NATIVE, OURS) if "/operations/" in file else (OURS,)
    plain = [(adapter, operation) for adapter in adapters for operation in reached(file)]
    return (*plain, *((ROUNDED[adapter], operation) for adapter, operation in plain if operation in ORDERED))


class Order:
    """Steps of mutants in order, which learns from the rows of others."""

    def __init__(self, known: Reach, rows: Iterable[Row] = ()) -> None:
        turns = Counter[tuple[str, str]]()
        put_off = []
        for step in sorted(known.steps, key=lambda each: each.seconds):
            item = step.adapter, step.cell
            put_off.append((step.seconds + TURN * turns[item] / (TELLING if step.prop in EARLY else 1), step))
            turns[item] += 1
        self._steps = [step for _, step in sorted(put_off, key=lambda each: each[0])]
        self._imported = known.imported
        self._kills: dict[tuple[str, ...], Counter[str]] = {}
        for row in rows:
            self.learn(row)

    def learn(self, row: Row) -> None:
        """Take in what became of a mutant."""
        if row.dead and row.where:
            for place in ((row.file,), (row.file, row.function)):
                self._kills.setdefault(place, Counter())[row.where] += 1

    def of(self, mutant: Mutant, first: str = "") -> tuple[Step, ...]:
        """Return the steps that reach a mutant; ``first`` is the place of the one to begin with."""
        inside = self._kills.get((mutant.file,), _NONE)
        near = self._kills.get((mutant.file, mutant.function), _NONE)

        def place(step: Step) -> tuple[bool, float]:
            kills = NEAR * near[step.where] + inside[step.where]
            return step.where != first, -kills / (step.seconds + CALL)

        # sorted keeps the order of equals
        return tuple(sorted(self._reaching(mutant), key=place))

    def company(self, mutants: Iterable[Mutant], start: str = "") -> tuple[Step, ...]:
        """Return the steps that reach any of some mutants, from a place on, in an order that never changes."""
        places = {step.where: place for place, step in enumerate(self._steps)}
        reached = {places[step.where] for mutant in mutants for step in self._reaching(mutant)}
        return tuple(self._steps[place] for place in sorted(reached) if place >= places.get(start, 0))

    def reaches(self, mutant: Mutant) -> bool:
        """Return whether any step reaches a mutant."""
        return any(True for _ in self._reaching(mutant))

    def _reaching(self, mutant: Mutant) -> Iterator[Step]:
        lines = None if mutant.kind == UNCHANGED else statement_lines(source(mutant.file), mutant)
        if lines is not None and not self._imported.get(mutant.file, frozenset()).isdisjoint(lines):
            lines = None
        pairs = frozenset(judges(mutant.file))
        for step in self._steps:
            if (step.adapter, step.case.operation) in pairs:
                ran = step.lines.get(mutant.file, frozenset())
                if lines is None or not ran.isdisjoint(lines):
                    yield step
