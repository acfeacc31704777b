"""Numbers of the chunks that a campaign still has to judge."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from conformance.properties import PROPERTIES
from conformance.runs.item import PROFILES, has_items

TRIES = 3  # times that a chunk is handed out: one that takes its machine down must not take down all


def numbers(text: str) -> range:
    """Return the numbers that ``--chunks`` names: ``40`` is the first forty, ``10-19`` is ten from 10 on.

    Raises ``ValueError`` where it names none.
    """
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() if dash else True)):
        raise ValueError(f"{text!r}, must be a number of chunks, or the first and the last as in 10-19")
    found = range(int(first), int(last) + 1) if dash else range(int(first))
    if not found:
        raise ValueError(f"{text!r} names no chunk")
    return found


def to_judge(
    wanted: range | None, done: Collection[int], profile: str, properties: Sequence[str] = ()
) -> Iterator[int]:
    """Yield the wanted chunks that are not done, in order, without end where none is named.

    A chunk without an item of the properties is left out: where these judge given cases alone, there is none
    beyond the profile.
    """
    names = properties or tuple(PROPERTIES)
    ends = all(PROPERTIES[name].given is not None for name in names)
    every = range(PROFILES[profile].chunks) if ends else itertools.count()
    for number in every if wanted is None else wanted:
        if number not in done and has_items(number, profile, names):
            yield number


@dataclass(slots=True)
class Queue:
    """Chunks to hand out, one at a time, until there is none left, the time is over, or the campaign stops."""

    numbers: Iterator[int]
    until: float = math.inf
    clock: Callable[[], float] = time.monotonic
    stopped: bool = False
    _again: deque[int] = field(default_factory=deque)
    _lost: Counter[int] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        """Return how many times a chunk came back without a report."""
        return self._lost.total()

    @property
    def given_up(self) -> list[int]:
        """Return the chunks that came back as often as they may be handed out."""
        return sorted(number for number, times in self._lost.items() if times >= TRIES)

    def take(self) -> int | None:
        """Return the next chunk; None where there is none now."""
        if self.stopped or self.clock() >= self.until:
            return None
        return self._again.popleft() if self._again else next(self.numbers, None)

    def came_back(self, number: int) -> None:
        """Note that a chunk has no report: it is handed out again, unless it came back too often."""
        self._lost[number] += 1
        if self._lost[number] < TRIES:
            self._again.append(number)
