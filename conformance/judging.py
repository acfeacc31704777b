"""Judges the cases of an item one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import replace

import torch

from conformance.adapter import Crashed, Hung
from conformance.budget import gib, lacking
from conformance.calling import Subject
from conformance.case import Case
from conformance.item import Item, beyond, cases_of, chosen_cases, listed_cases, scope_of
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES, Property
from conformance.strategies import Assignment, Factors, Scope, covering_array
from conformance.verdict import NOT_IMPLEMENTED, Status, Verdict, without_outputs

# after so many in one item the rest of its cases is left out: it would only cost time
MOST_HANGS = 3
MOST_CRASHES = 50

Answer = tuple[Verdict, ...] | Crashed | Hung
Ask = Callable[[str, Case], Answer]


def asked(ask: Ask, prop: Property, case: Case) -> tuple[Verdict, ...]:
    """The verdicts on a case, whatever became of the process that judged it."""
    answer = ask(prop.name, case)
    if isinstance(answer, tuple):
        return answer
    return (without_outputs(prop.name, case, answer),)


def judge(subject: Subject, prop: str, case: Case) -> tuple[Verdict, ...]:
    """Judge one case in this process, where its memory is enough for that."""
    if subject.memory is None:
        return PROPERTIES[prop].judge(subject, case)
    too_little = lacking(case, subject.memory)
    if not too_little:
        try:
            return PROPERTIES[prop].judge(subject, case)
        except torch.OutOfMemoryError:
            # of the suite itself: of an implementation it is an outcome
            too_little = f"judging it takes more than the {gib(subject.memory)} of GPU memory that a worker has"
    return (Verdict(prop, case, Status.NOT_JUDGED, too_little),)


def unjudged(item: Item, subject: Subject) -> tuple[Status, str] | None:
    """Why no case of an item can be judged: the status that it gets, and the reason."""
    if not subject.traits(item.operation).implemented:
        return Status.DECLINED, NOT_IMPLEMENTED
    if subject.unfaithful and item.dtype != "float32":
        return Status.NOT_JUDGED, subject.unfaithful
    prop = PROPERTIES[item.property]
    cannot = prop.void(OPERATIONS[item.operation])
    if not cannot and prop.form and not subject.traits(item.operation).in_place:
        cannot = f"the adapter has no {item.operation}{prop.form}"
    cannot = cannot or prop.cannot(subject, item.operation, item.dtype)
    return (Status.NOT_JUDGED, cannot) if cannot else None


def judge_item(
    item: Item, subject: Subject, ask: Ask | None = None, begun: Callable[[Case], None] | None = None
) -> Iterator[Verdict]:
    """Judge an item's cases one after the other; none where the item is :func:`unjudged`.

    ``ask`` judges a case, by default in this process. ``begun`` hears of every case before it runs.
    """
    ask = ask or (lambda name, case: judge(subject, name, case))
    if unjudged(item, subject):
        return
    run = _Run(item, ask, begun)
    yield from run.judged(cases_of(item, subject))
    if run.declined and PROPERTIES[item.property].given is None:
        # what it takes deserves as many cases as a whole profile has, whatever else it says no to
        scope = yield from run.accepted(scope_of(item, subject))
        if scope is not None:
            yield from run.judged(chosen_cases(item, scope))


def vacuous(item: Item, verdicts: Collection[Verdict]) -> str:
    """Why all the verdicts on an item together are no evidence for its promise, or nothing."""
    if not verdicts:
        return "no case was drawn"
    if beyond(item):
        # it adds to what the profile has shown
        return ""
    return PROPERTIES[item.property].concluded(item.operation, verdicts)


def share_of_array(item: Item, subject: Subject, verdicts: Iterable[Verdict]) -> tuple[int, int]:
    """How many rows of the covering array ran, of how many: what an implementation declines is not covered."""
    listed = set(listed_cases(item, scope_of(item, subject)))
    ran = {verdict.case for verdict in verdicts if verdict.status not in {Status.DECLINED, Status.NOT_JUDGED}}
    return len(listed & ran), len(listed)


class _Run:
    """The cases of one item so far: which were seen, declined, and what they cost."""

    def __init__(self, item: Item, ask: Ask, begun: Callable[[Case], None] | None) -> None:
        self.item = item
        self.ask = ask
        self.begun = begun
        self.seen: set[Case] = set()
        self.declined = self.hangs = self.crashes = 0

    def judged(self, cases: Iterable[Case]) -> Iterator[Verdict]:
        """Judge every case that was not judged before; leave the rest out after too many hangs or crashes."""
        prop = PROPERTIES[self.item.property]
        for case in cases:
            if case in self.seen:
                continue
            self.seen.add(case)
            if self.hangs >= MOST_HANGS or self.crashes >= MOST_CRASHES:
                reason = f"left out after {self.hangs} hangs and {self.crashes} crashes in this item"
                yield Verdict(prop.name, case, Status.NOT_JUDGED, reason)
                continue
            if self.begun is not None:
                self.begun(case)
            verdicts = asked(self.ask, prop, case)
            self.declined += _any(verdicts, Status.DECLINED)
            self.hangs += _any(verdicts, Status.HUNG)
            self.crashes += _any(verdicts, Status.CRASHED)
            yield from verdicts

    def accepted(self, scope: Scope) -> Generator[Verdict, None, Scope | None]:
        """The scope without the levels that the implementation declines, each tried alone.

        None where everything is declined, or nothing is by itself. Judges what it tries.
        """
        operation = OPERATIONS[self.item.operation]
        levels = scope.levels(operation.factors)
        base = yield from self._first_accepted(levels, scope)
        if base is None:
            return None
        taken = {name: [base[name]] for name in levels}
        for name, choices in levels.items():
            for level in choices:
                if level != base[name] and (yield from self._accepts({**base, name: level}, scope)):
                    taken[name].append(level)
        fixed = {name: tuple(level for level in levels[name] if level in taken[name]) for name in levels}
        return None if fixed == dict(levels) else replace(scope, fixed=tuple(fixed.items()))

    def _first_accepted(self, levels: Factors, scope: Scope) -> Generator[Verdict, None, Assignment | None]:
        plain = {name: choices[0] for name, choices in levels.items()}
        for assignment in (plain, *covering_array(levels, 2, self.item.array_seed())):
            if (yield from self._accepts(assignment, scope)):
                return assignment
        return None

    def _accepts(self, assignment: Assignment, scope: Scope) -> Generator[Verdict, None, bool]:
        operation = OPERATIONS[self.item.operation]
        case = operation.complete(assignment, random.Random(self.item.draw_seed()), scope)  # noqa: S311
        before = self.declined
        self.seen.discard(case)
        yield from self.judged([case])
        return self.declined == before


def _any(verdicts: tuple[Verdict, ...], status: Status) -> bool:
    return any(verdict.status is status for verdict in verdicts)
